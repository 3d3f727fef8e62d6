"""What fits gogoscope into other libraries; each module needs the extra of its name."""
