"""What a person or a scraper sees of a run. Everything here only listens."""
