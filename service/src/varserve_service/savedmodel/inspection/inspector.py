"""Looking into one overload of a loaded function: implements the core's Inspector on TensorFlow."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import tensorflow as tf

from varserve_service.core.errors import FunctionFailed, OutOfMemory, Reason, RequestError
from varserve_service.core.inspection.ports import (
    Gradient,
    InnerTensor,
    Inspected,
    InspectionLimits,
    Selection,
)
from varserve_service.core.ports.function_messages import FunctionMessage, Iteration
from varserve_service.core.ports.loaded_model import Value
from varserve_service.savedmodel.functions import Callee, failure
from varserve_service.savedmodel.placement import Placement
from varserve_service.savedmodel.runtime import name_of
from varserve_service.savedmodel.values import OUT_OF_MEMORY, TensorValue, to_tensor

from .gradients import as_dense, check_custom_gradients
from .interpreter import Interpreter
from .observation import Observation
from .plan import Kind, Plans
from .rebuilt import Rebuilt, RebuiltGraphs
from .sites import Tree
from .sources import Sources
from .state import Capture, private_captures

_PRINTS = frozenset({Kind.PRINT, Kind.LEGACY_PRINT})
_CHECKS = frozenset({Kind.ASSERT, Kind.CHECK_NUMERICS})


@dataclass(frozen=True, slots=True, eq=False)
class Insides:
    """What the inspectors of one model share: its plans, variables and source lines.

    `paths` are paths of variables, by the id of their handle.
    """

    plans: Plans
    placement: Placement
    variables: Mapping[int, tuple[str, tf.Variable]]
    sources: Sources
    rebuilt: RebuiltGraphs = field(default_factory=RebuiltGraphs)

    @classmethod
    def of(
        cls, placement: Placement, variables: Mapping[str, tf.Variable], sources: Sources
    ) -> Insides:
        """Those of a model whose variables are these, by path."""
        by_handle = {id(each.handle): (path, each) for path, each in variables.items()}
        return cls(Plans(placement), placement, by_handle, sources)

    def capture(self, tensor: tf.Tensor) -> Capture:
        """What a captured tensor is."""
        if id(tensor) not in self.variables:
            return Capture(tensor)
        path, variable = self.variables[id(tensor)]
        return Capture(tensor, path, variable.dtype, variable.shape, tensor.device)


class SavedInspector:
    """Looks into one concrete function. Any thread may call it."""

    def __init__(self, function: str, callee: Callee, insides: Insides) -> None:
        self._function = function
        self._callee = callee
        self._insides = insides
        self._captures = [insides.capture(tensor) for tensor in callee.captures]
        self._building = threading.Lock()
        self._built: Tree | None = None

    @property
    def _tree(self) -> Tree:
        with self._building:
            if self._built is None:
                concrete = self._callee.call.keep  # type: ignore[attr-defined]
                self._built = Tree(
                    self._insides.plans,
                    self._insides.plans.of_concrete(concrete),
                    self._callee.feeds,
                    self._captures,
                    self._insides.sources.line_of,
                )
            return self._built

    def tensors(self) -> Sequence[InnerTensor]:
        try:
            return self._tree.tensors
        except RequestError as error:
            raise self._named(error) from error

    def run(
        self, inputs: Mapping[str, np.ndarray[Any, Any]], values: Mapping[str, Value]
    ) -> Inspected:
        self._check_state()
        return self._guarded(lambda: self._run(inputs, values))

    def inspect(
        self,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        values: Mapping[str, Value],
        selection: Selection,
        limits: InspectionLimits,
        go_on: Callable[[], None],
    ) -> Inspected:
        self._check_state()
        asked = selection.asked
        looks = bool(
            selection.probes
            or selection.patches
            or asked.gradients_of
            or asked.find_non_finite
            or asked.profile
            or asked.open_xla
        )
        if not looks and not self._has(_PRINTS) and not (asked.keep_going and self._has(_CHECKS)):
            try:
                # To the same bits as the function itself.
                return self.run(inputs, values)
            except FunctionFailed:
                if not self._has(_CHECKS):
                    raise
                # It is run again, step by step, to tell which check failed and what it shows.
        rebuilt = self._rebuilt(selection)
        if rebuilt is not None:
            try:
                return self._guarded(
                    lambda: self._probe(rebuilt, inputs, values, selection, limits, go_on)
                )
            except FunctionFailed:
                pass  # It is run again, step by step, to tell where it failed.
        said: list[FunctionMessage] = []
        try:
            return self._guarded(
                lambda: self._interpret(inputs, values, selection, limits, go_on, said)
            )
        except RequestError as error:
            error.said = tuple(said)
            raise

    def _rebuilt(self, selection: Selection) -> Rebuilt | None:
        """What gives the probes at once, where they have come before and nothing else is asked."""
        asked = selection.asked
        looks_further = (
            selection.patches
            or asked.gradients_of
            or asked.find_non_finite
            or asked.profile
            or asked.open_xla
            or asked.keep_going
        )
        if not selection.probes or looks_further or self._has(_PRINTS):
            return None
        tree = self._tree
        indices = [index for index in sorted(selection.probes) if index not in tree.inputs]
        places = tree.places(indices)
        if not places:
            return None
        outputs = len(self._callee.overload.outputs)
        name = name_of(self._callee.call)
        return self._insides.rebuilt.find(name, outputs, frozenset(indices), places)

    def _probe(
        self,
        rebuilt: Rebuilt,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        values: Mapping[str, Value],
        selection: Selection,
        limits: InspectionLimits,
        go_on: Callable[[], None],
    ) -> Inspected:
        tree = self._tree
        arguments = self._arguments(inputs)
        captures, _ = private_captures(self._captures, values)
        outputs, probed = rebuilt.call([*arguments, *captures])
        watcher = Observation(
            self._function,
            tree.tensors,
            selection,
            limits,
            self._insides.placement.logical,
            go_on,
            None,
        )
        given = dict(zip(tree.inputs, arguments, strict=True))
        found = iter(probed)
        for index in sorted(selection.probes):
            tensor = given[index] if index in given else next(found)
            watcher.computed((index,), [tensor], ())
        return Inspected(self._outputs(outputs), tuple(watcher.probes))

    def _check_state(self) -> None:
        if self._callee.overload.changes_other_state:
            raise RequestError(
                Reason.STATE_NOT_COPYABLE,
                f"function {self._function!r} cannot be inspected: it changes state that is no "
                "variable (a table, queue, iterator or file), of which no private copy can be "
                "made; look into a function that does not",
                function=self._function,
            )

    def _guarded(self, run: Callable[[], Inspected]) -> Inspected:
        """Run in the model's place, with TensorFlow's failures as the core's."""
        try:
            with self._insides.placement.scope():
                return run()
        except OUT_OF_MEMORY as error:
            raise OutOfMemory(
                f"no memory to inspect function {self._function!r}", function=self._function
            ) from error
        except tf.errors.OpError as error:
            raise FunctionFailed(
                f"function {self._function!r} failed: {failure(error)}", function=self._function
            ) from error
        except RequestError as error:
            raise self._named(error) from error

    def _named(self, error: RequestError) -> RequestError:
        if "function" in error.metadata:
            return error
        message = error.message.replace("the function", f"function {self._function!r}", 1)
        return RequestError(error.reason, message, **{**error.metadata, "function": self._function})

    def _arguments(self, inputs: Mapping[str, np.ndarray[Any, Any]]) -> list[tf.Tensor]:
        return [
            to_tensor(inputs[name], self._insides.placement.logical)
            if name in inputs
            else self._callee.defaults[name]
            for name in self._callee.feeds
        ]

    def _run(
        self, inputs: Mapping[str, np.ndarray[Any, Any]], values: Mapping[str, Value]
    ) -> Inspected:
        arguments = self._arguments(inputs)
        call, captures = self._callee.call, self._captures
        if self._callee.printing is not None:
            call = partial(self._callee.printing.call, on_message=None)
        shapes = tuple(tuple(each.shape.as_list()) for each in arguments)
        if shapes in self._callee.compiled:
            compiled = self._callee.compiled[shapes]
            call = compiled.call
            captures = [self._insides.capture(tensor) for tensor in compiled.captures]
        private, _ = private_captures(captures, values)
        return Inspected(self._outputs(call([*arguments, *private])))

    def _outputs(self, tensors: Sequence[tf.Tensor]) -> dict[str, Value]:
        return {
            output.name: TensorValue(tensor)
            for output, tensor in zip(self._callee.overload.outputs, tensors, strict=True)
        }

    def _interpret(
        self,
        inputs: Mapping[str, np.ndarray[Any, Any]],
        values: Mapping[str, Value],
        selection: Selection,
        limits: InspectionLimits,
        go_on: Callable[[], None],
        said: list[FunctionMessage],
    ) -> Inspected:
        tree, asked = self._tree, selection.asked
        arguments = self._arguments(inputs)
        captures, handles = private_captures(self._captures, values)
        tape = None
        if asked.gradients_of:
            concrete = self._callee.call.keep  # type: ignore[attr-defined]
            saved = frozenset(concrete.graph._functions)
            check_custom_gradients(self._function, self._tree.plans, saved)
            tape = tf.GradientTape(watch_accessed_variables=False)
        watcher = Observation(
            self._function,
            tree.tensors,
            selection,
            limits,
            self._insides.placement.logical,
            go_on,
            tape,
        )
        interpreter = Interpreter(
            self._function,
            watcher,
            limits,
            go_on,
            said,
            keep_going=asked.keep_going,
            profile=asked.profile,
            differentiates=tape is not None,
            opens_xla=asked.open_xla or tape is not None,
        )

        def run() -> list[tf.Tensor]:
            for position, index in enumerate(tree.inputs):
                given = [arguments[position]]
                watcher.computed((index,), given, ())
                arguments[position] = given[0]
            return interpreter.run(tree.root, [*arguments, *captures])

        gradients: tuple[Gradient, ...] = ()
        if tape is None:
            results = run()
        else:
            by_input = dict(zip(self._callee.feeds, arguments, strict=True))
            sources = [by_input[name] for name in selection.wrt_inputs]
            sources += [handles[path] for _, path in selection.wrt_variables]
            with tape:
                for source in sources:
                    tape.watch(source)
                results = run()
                names = [output.name for output in self._callee.overload.outputs]
                position = names.index(asked.gradients_of)
                total = tf.reduce_sum(results[position])
            gradients = self._gradients(tape, total, sources, selection, watcher)
        return Inspected(
            self._outputs(results),
            tuple(watcher.probes),
            watcher.not_run,
            tuple(said),
            watcher.first_non_finite,
            gradients,
            tuple(interpreter.profile),
            tuple(self._notes(interpreter, selection)),
        )

    def _gradients(
        self,
        tape: tf.GradientTape,
        total: tf.Tensor,
        sources: Sequence[tf.Tensor],
        selection: Selection,
        watcher: Observation,
    ) -> tuple[Gradient, ...]:
        asked_names = {index: name for name, index in selection.wrt_tensors}
        run = {index for index, _, _ in watcher.sources}
        unrun = [name for index, name in asked_names.items() if index not in run]
        if unrun:
            raise RequestError(
                Reason.TENSOR_NOT_RUN,
                f"function {self._function!r}: {unrun[0]!r} was not computed with these inputs: it "
                "stands in a branch that was not taken, or in a loop without an iteration; so "
                "there is no gradient with respect to it",
                function=self._function,
                tensor=unrun[0],
            )
        inner = [tensor for _, _, tensor in watcher.sources]
        try:
            found = tape.gradient(total, [*sources, *inner])
        except LookupError as error:
            raise RequestError(
                Reason.GRADIENT_UNAVAILABLE,
                f"function {self._function!r}: TensorFlow has no gradient for one of its "
                f"operations ({' '.join(str(error).split())[:200]})",
                function=self._function,
            ) from error
        names: list[tuple[str, Iteration]] = [(name, ()) for name in selection.wrt_inputs]
        names += [(name, ()) for name, _ in selection.wrt_variables]
        names += [(asked_names[index], at) for index, at, _ in watcher.sources]
        return tuple(
            Gradient(name, at, None if gradient is None else TensorValue(as_dense(gradient)))
            for (name, at), gradient in zip(names, found, strict=True)
        )

    def _notes(self, interpreter: Interpreter, selection: Selection) -> Iterator[str]:
        whole = list(interpreter.kept_whole)
        if whole and selection.asked.find_non_finite:
            shown = ", ".join(whole[:8])
            yield f"not looked into, because XLA runs it as one: {shown}; open_xla opens it"
        if selection.asked.gradients_of and self._has({Kind.XLA_CALL}):
            yield "what XLA compiles ran operation by operation, and may round otherwise"

    def _has(self, kinds: Set[Kind]) -> bool:
        return not kinds.isdisjoint(self._tree.kinds)
