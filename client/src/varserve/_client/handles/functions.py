"""Handles of functions: `tf.function`'s call over the wire.

Which overload fits, the service decides.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from varserve import tensors
from varserve._client import errors, wording
from varserve._client.operations.methods import Scope
from varserve._client.operations.models import get_model
from varserve._client.transport.calls import Op
from varserve._client.values.arguments import Given, Run, bind, positional
from varserve._client.values.options import ReadOptions, WriteOptions
from varserve._client.values.results import Commit, Outputs, Snapshot, revision_of
from varserve._client.values.specs import FunctionKind, FunctionSpec, Overload
from varserve.tensors import Array

from .base import D_co, operation
from .cache import ModelCache
from .of_models import ModelHandle

if TYPE_CHECKING:
    # Looking into functions is imported when it is first done.
    from varserve._client.values.inspections import Comparison, InnerTensors, Inspection, Patch

    from .comparing import ComparedSide, Side


class Function(ModelHandle[D_co]):
    """One function of a served model: a signature, or a restored `tf.function`."""

    _path: str

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
        messages: bool = False,
        linearizable: bool = False,
        if_revision_match: int | None = None,
        message: str = "",
        timeout: float | None = None,
    ) -> Op[Outputs]:
        """Run the function. As `function(**inputs)`, for any names: `{"z/0": x}`.

        outputs: names of those to send; none for all.
        messages: give the lines that it prints, as `Outputs.messages`.
        linearizable: of a function that writes nothing: run on a state that is not older than any
            write that completed before, at any replica of the service.
        if_revision_match: only if the model is at this revision.
        message: the reason, for the history; of a function that writes.
        timeout: seconds, all in all.
        """
        return self._run(
            inputs, outputs, if_revision_match, timeout, message, messages, linearizable
        )

    @operation
    def tensors(
        self, *patterns: str, overload: int = 0, timeout: float | None = None
    ) -> Op[InnerTensors]:
        """The tensors in the middle of the function, in an order of computation.

        patterns: names, or patterns with `*`, `?` and `[ab]`: `"model_1/conv2d*"`; none for all.
        overload: which of `overloads`.

        Raises TensorNotFound, NameAmbiguous, InspectionUnsupported.
        """
        scope = self._cache.scope(self._budget(timeout))
        from varserve._client.operations.inspections import list_tensors

        return list_tensors(scope, self.name, patterns, overload)

    @operation
    def inspect(
        self,
        given: Mapping[str, Any] | None = None,
        /,
        *,
        probe: str | Sequence[str] = (),
        summarize: bool | int | None = None,
        patch: Mapping[str, Patch | npt.ArrayLike] | None = None,
        assume: Mapping[str, npt.ArrayLike] | None = None,
        at_revision: int | Snapshot | Commit | None = None,
        find_non_finite: bool = False,
        gradients_of: str = "",
        wrt: str | Sequence[str] = (),
        profile: bool = False,
        on_assert: str = "fail",
        open_xla: bool = False,
        timeout: float | None = None,
        **inputs: Any,
    ) -> Op[Inspection]:
        """Run the function once and see what happens inside. It is never a commit.

        given, inputs: as of `function(**inputs)`; `given` is for names that Python does not allow
            here, or that are one of the arguments below.
        probe: names or patterns of inner tensors whose values to give, as `tensors` lists them.
        summarize: give the probes in a few numbers each instead; a number, with a histogram of so
            many bins.
        patch: by name of an inner tensor, what replaces it: `varserve.zero()`, `varserve.scale(k)`
            or an array of its dtype and shape.
        assume: values of variables, by name, for this run alone.
        at_revision: run on the values of that revision, as far as the service keeps it.
        find_non_finite: find the first inner tensor that is not finite.
        gradients_of: the output whose sum to differentiate with respect to each of `wrt`, which are
            names of inputs, variables and inner tensors.
        profile: tell how long each operation takes.
        on_assert: `"fail"`, or `"continue"` after an assertion that fails, which is a message then.
        open_xla: look into what XLA compiles, which may round otherwise.

        Raises TensorNotFound, NameAmbiguous, TensorInsideXla, TensorNotRun, PatchUnsupported,
        GradientUnavailable, StateNotCopyable, InspectionTooLarge, FunctionFailed, and what a call
        and a read at a revision raise.
        """
        if on_assert not in ("fail", "continue"):
            raise errors.InvalidRequest(
                f"on_assert: expected 'fail' or 'continue', found {wording.shown(on_assert)}"
            )
        yield from self._refreshed(timeout)
        run = self._bound({**(given or {}), **inputs})
        from varserve._client.operations.inspections import Wanted, summary_options

        wanted = Wanted(
            probes=_names(probe),
            summary=summary_options(summarize),
            patches={name: _patch(name, each) for name, each in (patch or {}).items()},
            assume=self._assumed(assume or {}),
            gradients_of=gradients_of,
            wrt=_names(wrt),
            find_non_finite=find_non_finite,
            profile=profile,
            continue_after_assertion=on_assert == "continue",
            open_xla=open_xla,
        )
        nbytes = run.nbytes + sum(each.nbytes for each in wanted.values)
        revision, epoch = revision_of(at_revision)
        if revision is not None:
            epoch = epoch or self._cache.header.epoch
        options = ReadOptions(revision, epoch)
        budget = self._budget(timeout, nbytes)
        return (yield from self._cache.inspect(run, wanted, budget, options))

    @operation
    def compare(
        self,
        given: Mapping[str, Any] | None = None,
        /,
        *,
        left: Side = None,
        right: Side = None,
        probe: str | Sequence[str] = "*",
        max_bytes: int | None = None,
        timeout: float | None = None,
        **inputs: Any,
    ) -> Op[Comparison]:
        """Run the function on two sides and tell where they part.

        left, right: each one of None (the state of now), a revision, a snapshot or commit, the name
            of another model (`"m@canary"`), or a mapping of values to assume.
        probe: which inner tensors to compare.
        max_bytes: of values to fetch from each side, to work out how far the tensors that differ
            are apart, the first ones first; None: of all that differ. First all are compared by
            their hashes, which moves no tensor. Values come 64 MiB at a time, each time by another
            run of the function.

        Raises as `inspect`, and ModelNotFound, FunctionNotFound.
        """
        from .comparing import compare_sides

        yield from self._refreshed(timeout)
        sides = []
        for side in (left, right):
            sides.append((yield from self._side(side, {**(given or {}), **inputs}, timeout)))
        return (yield from compare_sides(sides[0], sides[1], _names(probe), max_bytes))

    def given(self, *args: Any, **inputs: Any) -> Given:
        """The function with its inputs, to be run later: what a transaction takes for its check."""
        run = self._bound({**positional(self.spec, args, inputs), **inputs})
        return Given(self._cache.header.model, run)

    def _side(
        self, side: Side, inputs: Mapping[str, Any], timeout: float | None
    ) -> Op[ComparedSide]:
        from .comparing import ComparedSide

        cache, run = self._cache, self._bound(inputs)
        assume: dict[str, Array] = {}
        revision, epoch = None, ""
        if isinstance(side, str):
            budget = self._budget(timeout)
            seen = self._defaults.seen
            cache = ModelCache((yield from get_model(Scope(side, budget, seen))), side, seen)
            found = cache.functions.find(self.name)
            arrays, constants = bind(found, inputs)
            run = Run(found.name, arrays, constants)
        elif isinstance(side, Mapping):
            assume = self._assumed(side)
        else:
            revision, epoch = revision_of(side)
            epoch = epoch or ("" if revision is None else cache.header.epoch)
        nbytes = run.nbytes + sum(each.nbytes for each in assume.values())
        scope = cache.scope(self._budget(timeout, nbytes))
        return ComparedSide(scope, run, assume, ReadOptions(revision, epoch))

    def _bound(self, given: Mapping[str, Any]) -> Run:
        arrays, constants = bind(self.spec, given)
        return Run(self.spec.name, arrays, constants)

    def _assumed(self, assume: Mapping[str, npt.ArrayLike]) -> dict[str, Array]:
        """Whole values of variables, in their dtypes, by the names of the wire."""
        known = self._cache.variables
        values = {}
        for name, value in assume.items():
            spec = known.find(name)
            with errors.about(f"variable {name!r}", variable=name):
                array = tensors.as_array(value, tensors.dtype_name(spec.dtype))
            values[known.key(spec)] = array
        return values

    def _run(
        self,
        given: Mapping[str, Any],
        outputs: Sequence[str],
        revision: int | None,
        timeout: float | None,
        message: str = "",
        messages: bool = False,
        linearizable: bool = False,
    ) -> Op[Outputs]:
        # A revision means something in its epoch only.
        epoch = "" if revision is None else self._cache.header.epoch
        if self._cache.stale:
            yield from self._refreshed(timeout)
        spec = self.spec
        arrays, constants = bind(spec, given)
        run = Run(
            spec.name,
            arrays,
            constants,
            tuple(outputs),
            spec.repeatable,
            messages,
            linearizable,
        )
        if spec.may_write:
            options = self._options(revision, epoch, message)
        else:
            options = WriteOptions("", revision, epoch)
        return (yield from self._cache.run(run, self._budget(timeout, run.nbytes), options))

    def __repr__(self) -> str:
        overloads = self.overloads
        head = f"<varserve.Function {self.name!r} "
        if len(overloads) == 1:
            return f"{head}{overloads[0]}>"
        return (
            "\n".join([f"{head}{len(overloads)} overloads:", *(f"  {o}" for o in overloads)]) + ">"
        )

    def _repr_html_(self) -> str:
        from .showing import function_html

        return function_html(self)


class Functions(ModelHandle[D_co], Mapping[str, Function[D_co]]):
    """A model's functions: iterates names, finds by name or path.

    Raises FunctionNotFound, with the closest names.
    """

    # Not as a Mapping's: a function is made anew where it is looked up.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

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

    def _repr_html_(self) -> str:
        from .showing import functions_html

        return functions_html(self)


def _names(given: str | Sequence[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(given)


def _patch(name: str, patch: Patch | npt.ArrayLike) -> Patch | Array:
    from varserve._client.values.inspections import Patch

    if isinstance(patch, Patch):
        return patch
    with errors.about(f"patch of {name!r}", tensor=name):
        # Only floating-point tensors can be patched: numbers without a dtype are of the usual one.
        is_typed = hasattr(patch, "dtype") or hasattr(patch, "__array__")
        return tensors.as_array(patch if is_typed else np.asarray(patch, np.float32))
