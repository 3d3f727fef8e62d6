"""How what is stored changes: pure functions."""
