"""The parts of charge_once.py."""
