"""`restorer demo`: an embedded PostgreSQL, a generated LMS backup with bad records in it, and a real restore."""
