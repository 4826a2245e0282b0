"""Audio files: decoding, headers, pauses, and log-mel frames."""
