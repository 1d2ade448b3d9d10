"""How writes become changes: decided once for each variable, then carried out in steps.

A plan says what it will take (`cost`), brings its values to the device (`stage`), takes references
to what the variables hold (`capture`, under the lock), and works out what they will hold (no lock).
Which way a variable's writes go depends on three things: one write or several, a region or the
whole, and whether a region of the variable is written in place (`ways`). Knows the ports.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from varserve_service.core.ports.loaded_model import Value, Variable

from .changes import Change
from .variable_plan import ReadByParts
from .ways import plan_of
from .writes import Write


class Plan:
    """Writes that become one commit: one `VariablePlan` for each variable."""

    def __init__(
        self, writes: Iterable[tuple[Write, Variable]], read_by_parts: ReadByParts
    ) -> None:
        """All writes have been checked against their variables' specs."""
        groups: dict[str, tuple[Variable, list[Write]]] = {}
        for write, variable in writes:
            groups.setdefault(variable.spec.path, (variable, []))[1].append(write)
        self.parts = [
            plan_of(variable, group, read_by_parts) for variable, group in groups.values()
        ]

    @property
    def variables(self) -> list[Variable]:
        """The variables that are written."""
        return [part.variable for part in self.parts]

    @property
    def reads_first(self) -> bool:
        """`capture` must come before `work_out`."""
        return any(part.reads_first for part in self.parts)

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in all, of every memory, as far as shapes are known beforehand."""
        return sum(part.value_bytes + part.cost.nbytes for part in self.parts)

    def stage(self) -> None:
        """Bring all values to their variables' devices, the first time. Raises OutOfMemory."""
        for part in self.parts:
            part.stage()

    def capture(self, revision_of: Callable[[str], int]) -> None:
        """Take what working out needs. The lock is held. Raises as `VariablePlan.capture` does."""
        for part in self.parts:
            if part.reads_first:
                part.capture(revision_of(part.variable.spec.path))

    def work_out(self) -> None:
        """Work all changes out. Raises as `VariablePlan.work_out` does."""
        for part in self.parts:
            part.work_out()

    def own(self) -> None:
        """Give values that are swapped in memory of their own. Raises OutOfMemory."""
        for part in self.parts:
            part.own()

    def forget(self) -> None:
        """Take anew, for `current_changes`, what the changes were worked out from."""
        for part in self.parts:
            part.forget()

    def current_changes(self, revision_of: Callable[[str], int]) -> list[Change]:
        """The changes to be made now: those that were overtaken are worked out again.

        The lock is held exclusively. Raises as `capture` and `work_out` do.
        """
        return [part.current_change(revision_of(part.variable.spec.path)) for part in self.parts]

    @property
    def changes(self) -> list[Change]:
        """What was worked out."""
        return [part.change for part in self.parts]

    @property
    def values(self) -> Mapping[str, Value]:
        """What was worked out, by path of the variable."""
        return {change.variable.spec.path: change.value for change in self.changes}
