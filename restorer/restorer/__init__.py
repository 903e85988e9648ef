"""The restorer: streams a JSON backup into PostgreSQL, exactly once, at the speed of COPY."""

__version__ = "0.1.0"
