"""Locks, circuit breakers and a cache for gogoscope in one DynamoDB table.

Importing this package does not import aioboto3; opening a store of its own client does.
"""

from __future__ import annotations

from gogoscope_dynamodb.adapter import DynamoDBAdapter, from_url
from gogoscope_dynamodb.table import create_table

__all__ = ["DynamoDBAdapter", "create_table", "from_url"]
