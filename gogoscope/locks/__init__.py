"""Locks for the fleet: waiting for one, holding it for a block, leading."""
