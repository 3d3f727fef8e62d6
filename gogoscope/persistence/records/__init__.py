"""A whole store over any place that keeps records."""
