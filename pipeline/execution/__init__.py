"""Where the work of a stage runs: processes here, a Dask cluster, torchrun."""
