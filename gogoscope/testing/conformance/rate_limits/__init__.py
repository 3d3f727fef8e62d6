"""The rules of rate limits."""
