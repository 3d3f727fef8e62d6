"""Run once: a function has its effect once for a key, whichever processes are asked for it."""
