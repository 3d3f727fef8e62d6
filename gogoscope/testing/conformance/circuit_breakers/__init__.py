"""What every store of circuit breakers must do."""
