"""Circuit breakers for the fleet."""
