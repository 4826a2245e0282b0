"""The training loop, its batches and checkpoints, and forward passes over many rows."""
