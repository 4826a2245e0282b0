"""The training loop, its batches and callbacks, and forward passes over many rows."""
