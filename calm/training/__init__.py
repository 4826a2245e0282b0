"""The training loop, and forward passes over many rows."""
