"""Semaphores, and read and write locks, for the whole fleet: see `s.semaphore`."""
