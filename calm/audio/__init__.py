"""Audio files, their headers, pauses, and log-mel frames."""
