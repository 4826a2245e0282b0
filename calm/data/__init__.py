"""From Parquet to batches."""
