"""Metrics, intervals, retrieval and baselines."""
