"""Jobs: work that survives its process, and goes on from the state that was saved last."""
