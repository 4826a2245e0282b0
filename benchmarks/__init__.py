"""Measurements of this project, and of its peers beside it: `python -m benchmarks`."""
