"""What every store of cached values must do."""
