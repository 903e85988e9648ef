"""The operator: `DatabaseRestore` resources in, Jobs that run the restorer out."""

__version__ = "0.1.0"
