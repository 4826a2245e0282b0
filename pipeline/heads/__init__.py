"""Supervised heads: their conditions, networks and training."""
