"""The target database: connections, catalog, ledger, and what is done to it around the load."""
