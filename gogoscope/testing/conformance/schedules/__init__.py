"""The kit for schedules."""
