"""Predictions of heads and baselines, and groups of utterances."""
