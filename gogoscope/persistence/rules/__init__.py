"""How what is stored changes: pure functions, for stores that read, change and write one record.

Every rule has the form ``rule(record, now_ms, *args) -> (record, answer)``. It takes what is
stored (``None`` for nothing) and the wall clock in milliseconds since the Unix epoch. It returns
what is to be stored, and what the caller learns. Returning the very record that was passed means
that nothing is to be written; returning ``None``, that nothing is to be kept.

``purge_at_ms(record, now_ms)`` returns the time from which on nobody needs a record.
"""
