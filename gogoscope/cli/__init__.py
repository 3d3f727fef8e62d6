"""The command line: who holds what, what stands open, and how to set it right by hand."""
