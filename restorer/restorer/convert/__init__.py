"""Records to rows: pure."""
