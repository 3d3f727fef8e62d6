"""Schedules: functions that run at their times, each time in one process of the fleet."""
