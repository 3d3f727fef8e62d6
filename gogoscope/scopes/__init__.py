"""The scope, its tasks, and what ends with its block."""
