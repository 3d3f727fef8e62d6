"""The cache, and one load for many callers."""
