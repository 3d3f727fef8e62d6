"""Circuit breakers on DynamoDB."""
