"""The backup: where it is, what is in it, and its bytes as records."""
