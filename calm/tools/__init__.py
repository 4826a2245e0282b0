"""What the `calm` command offers."""
