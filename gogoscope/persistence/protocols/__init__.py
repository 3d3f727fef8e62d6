"""What a store can do: one small Protocol for each capability.

The method names of the capabilities are disjoint, so that one object may have all of them. Every
method is atomic: whoever else works on the same key at the same time, in this process or another,
sees all of its effect or none. A cancelled method leaves its effect done or not done, never half.

Times inside records are integer milliseconds since the Unix epoch; durations that a caller passes
are seconds. A store fails with a :class:`~gogoscope.exceptions.PersistenceError`.
"""
