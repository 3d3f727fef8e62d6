"""The rules of semaphores and read/write locks."""
