"""What the code inside the block of a run sees of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gogoscope.exceptions import RunError

if TYPE_CHECKING:
    from gogoscope.persistence.lock_handle import LockHandle
    from gogoscope.runs.once import Once


class RunPart:
    """The part of a run's block that is no scope; the block is both."""

    # _once: what was asked for.
    # _handle: the lease of the run, None if the run was done before.
    # _result: what it came to then; else what it is to come to.
    # _token: the fencing token of that run, or of this one.

    _once: Once
    _handle: LockHandle | None
    _result: Any
    _token: int

    @property
    def key(self) -> str:
        """The run."""
        return self._once.key

    @property
    def done(self) -> bool:
        """Whether the run was done before; then ``result`` is what it returned."""
        return self._handle is None

    @property
    def result(self) -> Any:
        """The value that the run returned, or that it has been completed with so far."""
        return self._result

    @property
    def fencing_token(self) -> int:
        """A number that is higher than that of every earlier run of this key."""
        return self._token

    def complete(self, value: Any) -> None:
        """Say what the run is to return; it is kept when the block has ended without an error.

        A value that cannot be kept, since it is not JSON-shaped or too large, leaves the run done
        all the same: it is never repeated, and later callers get ``ResultNotKeptError``.

        :raises RunError: if the run was done before
        """
        self._begun()
        self._result = value

    def ensure(self) -> None:
        """Raise if the lease is over; makes no request. Call it before each outside write.

        :raises LeaseLostError: if somebody else may run by now
        :raises RunError: if the run was done before
        """
        self._begun().ensure()

    def _begun(self) -> LockHandle:
        if self._handle is None:
            raise RunError(self.key, "it was done before; return run.result instead")
        return self._handle
