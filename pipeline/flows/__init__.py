"""Prefect flows: `rebuild` runs DVC's stages in parallel, `score_new` scores new audio in an inbox; and the servers that they need.

    python -m pipeline.flows up | down | serve | deploy | rebuild | score-new

`up` starts everything on this machine; see docs/flows.md.
"""
