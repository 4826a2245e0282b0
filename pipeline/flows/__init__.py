"""Prefect flows: `rebuild` runs DVC's stages side by side, `score_new` scores what lies in an inbox; servers to run them on.

    python -m pipeline.flows up | down | serve | deploy | rebuild | score-new

`up` starts everything on this machine; see docs/flows.md.
"""
