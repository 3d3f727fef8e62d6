"""Rate limits: how often the whole fleet does something."""
