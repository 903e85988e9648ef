"""What a restore costs beside `psql \\copy` of the same rows: `python -m benchmarks`."""
