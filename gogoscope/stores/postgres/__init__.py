"""A store in one table of a PostgreSQL database."""
