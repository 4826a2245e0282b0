"""Corpora of synthetic speech for the embedded default."""
