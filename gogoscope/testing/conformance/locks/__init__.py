"""What every store of locks must do."""
