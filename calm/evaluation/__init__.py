"""Metrics, calibration, thresholds, bootstrap intervals, retrieval and baselines."""
