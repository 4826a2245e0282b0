"""One module a DVC stage; each is run as `python -m pipeline.stages.<name>`."""
