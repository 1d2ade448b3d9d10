"""Handles of functions: `tf.function`'s call over the wire.

Which overload fits, the service decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from varserve._client.transport.calls import Op
from varserve._client.values.arguments import Run, bind, positional
from varserve._client.values.results import Outputs
from varserve._client.values.specs import FunctionKind, FunctionSpec, Overload

from .base import D_co, ModelHandle, operation


class Function(ModelHandle[D_co]):
    """One function of a served model: a signature, or a restored `tf.function`."""

    def __init__(self, owner: ModelHandle[D_co], path: str) -> None:
        super().__init__(owner._driver, owner._cache, owner._defaults)
        self._path = path

    @property
    def spec(self) -> FunctionSpec:
        """All that the service last said of the function."""
        return self._cache.functions.at(self._path)

    @property
    def name(self) -> str:
        """A signature's key, or a restored function's path."""
        return self.spec.name

    @property
    def path(self) -> str:
        """`signatures/KEY`, or the path in the object graph."""
        return self._path

    @property
    def kind(self) -> FunctionKind:
        """Where it comes from."""
        return self.spec.kind

    @property
    def overloads(self) -> tuple[Overload, ...]:
        """The concrete functions. A call takes the one that fits its inputs."""
        return self.spec.overloads

    @operation
    def __call__(self, *args: Any, **inputs: Any) -> Op[Outputs]:
        """Run the function, with its inputs by name or, for a `tf.function`, by position.

        Arrays are sent as they are; Python numbers and lists take the input's dtype; None, bool,
        int, float and str become constants where the function has been traced for such. A nested
        argument may be given as the dict or list that it is. For more options: `call`.

        Raises InputMismatch, OverloadMismatch, DtypeMismatch, ShapeMismatch, FunctionFailed.
        """
        return self._run({**positional(self.spec, args, inputs), **inputs}, (), None, None)

    @operation
    def call(
        self,
        inputs: Mapping[str, Any],
        *,
        outputs: Sequence[str] = (),
        if_revision_match: int | None = None,
        message: str = "",
        timeout: float | None = None,
    ) -> Op[Outputs]:
        """Run the function. As `function(**inputs)`, for any names: `{"z/0": x}`.

        outputs: names of those to send; none for all.
        if_revision_match: only if the model is at this revision.
        message: why, for who reads the history of a function that writes.
        timeout: seconds, all in all.
        """
        return self._run(inputs, outputs, if_revision_match, timeout, message)

    def _run(
        self,
        given: Mapping[str, Any],
        outputs: Sequence[str],
        revision: int | None,
        timeout: float | None,
        message: str = "",
    ) -> Op[Outputs]:
        options = self._options(revision, message=message)
        yield from self._refreshed(timeout)
        spec = self.spec
        arrays, constants = bind(spec, given)
        run = Run(spec.name, arrays, constants, tuple(outputs), spec.repeatable)
        if not spec.may_write:
            options = options._replace(request_id="", message="")
        return (yield from self._cache.run(run, self._budget(timeout, run.nbytes), options))

    def __repr__(self) -> str:
        overloads = self.overloads
        head = f"<varserve.Function {self.name!r} "
        if len(overloads) == 1:
            return f"{head}{overloads[0]}>"
        return (
            "\n".join([f"{head}{len(overloads)} overloads:", *(f"  {o}" for o in overloads)]) + ">"
        )


class Functions(ModelHandle[D_co], Mapping[str, Function[D_co]]):
    """A model's functions: iterates names, finds by name or path.

    Raises FunctionNotFound, with the closest names.
    """

    def __getitem__(self, name: str) -> Function[D_co]:
        return Function(self, self._cache.functions.find(name).path)

    def __iter__(self) -> Iterator[str]:
        return iter(self._cache.functions.names)

    def __len__(self) -> int:
        return len(self._cache.functions.by_path)

    def __contains__(self, name: object) -> bool:
        return name in self._cache.functions

    def _ipython_key_completions_(self) -> list[str]:
        return list(self)

    def __repr__(self) -> str:
        return "\n".join([f"{len(self)} functions:", *(f"  {each!r}" for each in self.values())])
