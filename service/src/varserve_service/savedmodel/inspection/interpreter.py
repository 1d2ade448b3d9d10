"""One run of a function, operation by operation: what it computes, says and looks like inside.

Calls, loops and branches are entered as they are met. It touches nothing but the tensors that it is
given and TensorFlow's runtime, and can be stopped between any two operations.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import tensorflow as tf
from tensorflow.python.eager import context, execute

from varserve_service.core.errors import FunctionFailed, Reason, RequestError
from varserve_service.core.inspection.ports import (
    InspectionLimits,
    OperationTime,
)
from varserve_service.core.ports.function_messages import FunctionMessage, Iteration, MessageKind
from varserve_service.savedmodel.functions import failure

from . import messages
from .gradients import record_custom
from .plan import Kind, Step
from .sites import Site


class Watcher(Protocol):
    """What is done with inner tensors as they are computed."""

    def wants(self, site: Site) -> bool:
        """Whether it looks at any tensor in the site or below it."""
        ...

    def computed(self, indices: tuple[int, ...], outputs: list[Any], at: Iteration) -> None:
        """The outputs of one step, which it may replace in the list, and which tensors they are."""
        ...


class AssertionFailed(FunctionFailed):
    """An assertion of the function failed."""


_DEAD: Any = object()
"""The value of a tensor in a branch of TensorFlow 1 that is not taken."""


class Interpreter:
    """Executes sites. One object serves one run, on one thread.

    `said` takes what the function says, which is there also when the run fails. `differentiates`: a
    gradient tape is watching. `opens_xla`: what XLA would compile runs
    operation by operation.
    """

    def __init__(
        self,
        function: str,
        watcher: Watcher | None,
        limits: InspectionLimits,
        go_on: Callable[[], None],
        said: list[FunctionMessage],
        *,
        keep_going: bool = False,
        profile: bool = False,
        differentiates: bool = False,
        opens_xla: bool = False,
    ) -> None:
        self._function = function
        self._watcher = watcher
        self._limits = limits
        self._go_on = go_on
        self._keep_going = keep_going
        self._profile = profile
        self._differentiates = differentiates
        self._opens_xla = opens_xla
        self._runtime = context.context()
        self._operations = 0
        self._said = said
        self.kept_whole: dict[str, None] = {}
        """Names of the calls that XLA ran as one."""
        self._times: OrderedDict[tuple[int, int], list[Any]] = OrderedDict()

    @property
    def profile(self) -> list[OperationTime]:
        """How long each operation took, in an order of computation."""
        return [OperationTime(*found) for found in self._times.values()]

    def run(self, site: Site, arguments: Sequence[Any], at: Iteration = ()) -> list[Any]:
        """The outputs of a graph. Raises RequestError."""
        plan = site.plan
        values: list[Any] = [None] * plan.slots
        for slot, argument in zip(plan.arguments, arguments, strict=True):
            values[slot] = argument
        watcher = self._watcher
        if watcher is not None and not watcher.wants(site):
            watcher = None
        dead = [False] * len(plan.steps) if plan.may_be_dead else None
        for number, step in enumerate(plan.steps):
            if step.kind is Kind.NOTHING and dead is None:
                continue
            self._tick()
            inputs = [values[slot] for slot in step.inputs]
            if dead is not None and self._is_dead(step, inputs, dead):
                dead[number] = True
                outputs: list[Any] = [_DEAD] * len(step.outputs)
            else:
                outputs = self._step(site, number, step, inputs, at)
                if watcher is not None:
                    watcher.computed(site.tensors[number], outputs, at)
            for slot, output in zip(step.outputs, outputs, strict=True):
                values[slot] = output
            for slot in step.released:
                values[slot] = None
        results = [values[slot] for slot in plan.results]
        if any(result is _DEAD for result in results):
            raise FunctionFailed(
                f"function {self._function!r} failed: an output stands in a branch that was not "
                "run",
                function=self._function,
            )
        return results

    def _tick(self) -> None:
        self._go_on()
        self._operations += 1
        if self._operations > self._limits.operations:
            raise RequestError(
                Reason.INSPECTION_TOO_LARGE,
                f"function {self._function!r}: an inspection executes at most "
                f"{self._limits.operations} operations, and this run needs more; give it inputs "
                "that take fewer iterations",
                function=self._function,
                limit=self._limits.operations,
            )

    def _is_dead(self, step: Step, inputs: Sequence[Any], dead: Sequence[bool]) -> bool:
        if step.kind is Kind.MERGE:
            return all(each is _DEAD for each in inputs)
        return any(each is _DEAD for each in inputs) or any(dead[c] for c in step.controls)

    def _step(
        self, site: Site, number: int, step: Step, inputs: list[Any], at: Iteration
    ) -> list[Any]:
        began = time.perf_counter() if self._profile else 0.0
        name = site.names[number]
        try:
            outputs = self._outputs(site, number, step, inputs, at, name)
        except tf.errors.ResourceExhaustedError:
            raise
        except tf.errors.OpError as error:
            raise FunctionFailed(
                f"function {self._function!r} failed: {name} ({step.op})"
                f"{_iterations(at)}: {failure(error)}",
                function=self._function,
                tensor=name,
            ) from error
        runs_as_one = step.kind is Kind.XLA_CALL and not self._opens_xla
        if self._profile and (runs_as_one or not step.callees):
            found = self._times.setdefault((id(site), number), [name, step.op, 0, 0.0])
            found[2] += 1
            found[3] += time.perf_counter() - began
        return outputs

    def _outputs(
        self, site: Site, number: int, step: Step, inputs: list[Any], at: Iteration, name: str
    ) -> list[Any]:
        kind = step.kind
        if kind is Kind.EXECUTE:
            return self._execute(step, inputs)
        if kind is Kind.CONSTANT:
            return [step.constant]
        if kind is Kind.NOTHING:
            return []
        if kind is Kind.CALL:
            return self.run(site.children[number][0], inputs, at)
        if kind is Kind.XLA_CALL:
            return self._xla_call(site, number, step, inputs, at, name)
        if kind is Kind.WHILE:
            condition, body = site.children[number]
            turn = 0
            while _is_true(self.run(condition, inputs, (*at, turn))[0]):
                inputs = self.run(body, inputs, (*at, turn))
                turn += 1
            return inputs
        if kind is Kind.IF:
            then, otherwise = site.children[number]
            return self.run(then if _is_true(inputs[0]) else otherwise, inputs[1:], at)
        if kind is Kind.CASE:
            branches = site.children[number]
            index = int(inputs[0])
            last = len(branches) - 1
            return self.run(branches[index if 0 <= index <= last else last], inputs[1:], at)
        return self._said_or_chosen(step, inputs, at, name)

    def _said_or_chosen(self, step: Step, inputs: list[Any], at: Iteration, name: str) -> list[Any]:
        kind = step.kind
        if kind is Kind.PRINT:
            text = messages.printed(inputs[0])
            self._say(
                MessageKind.PRINT, name, at, text, stream=step.text["stream"], end=step.text["end"]
            )
            return []
        if kind is Kind.LEGACY_PRINT:
            text = messages.legacy_printed(step.text["message"], inputs[1:])
            self._say(MessageKind.PRINT, name, at, text, stream="stderr", end="\n")
            return [inputs[0]]
        if kind is Kind.ASSERT:
            if not bool(inputs[0]):
                self._failed(MessageKind.ASSERTION, name, at, inputs[1:])
            return []
        if kind is Kind.CHECK_NUMERICS:
            try:
                return self._execute(step, inputs)
            except tf.errors.InvalidArgumentError as error:
                self._failed(MessageKind.CHECK_NUMERICS, name, at, (), failure(error))
                return [inputs[0]]
        if kind is Kind.SWITCH:
            return [_DEAD, inputs[0]] if bool(inputs[1]) else [inputs[0], _DEAD]
        if kind is Kind.MERGE:
            index = next(i for i, each in enumerate(inputs) if each is not _DEAD)
            return [inputs[index], tf.constant(index)]
        assert step.read_reference is not None
        return [step.read_reference()]

    def _execute(self, step: Step, inputs: list[Any]) -> list[Any]:
        found = execute.quick_execute(
            step.op, len(step.outputs), inputs, step.attributes, self._runtime
        )
        outputs = list(found) if found is not None else []
        if self._differentiates and execute.must_record_gradient():
            if step.custom_gradient:
                record_custom(step, inputs, outputs)
            else:
                execute.record_gradient(step.op, tuple(inputs), step.attributes, outputs)
        return outputs

    def _xla_call(
        self, site: Site, number: int, step: Step, inputs: list[Any], at: Iteration, name: str
    ) -> list[Any]:
        if self._opens_xla:
            return self.run(site.children[number][0], inputs, at)
        self.kept_whole[name] = None
        outputs = self._runtime.call_function(step.callees[0].encode(), inputs, len(step.outputs))
        return list(outputs or ())

    def _say(
        self,
        kind: MessageKind,
        name: str,
        at: Iteration,
        text: str,
        parts: tuple[str, ...] = (),
        stream: str = "",
        end: str = "",
    ) -> None:
        if len(self._said) >= self._limits.records:
            raise RequestError(
                Reason.INSPECTION_TOO_LARGE,
                f"function {self._function!r}: an inspection keeps at most {self._limits.records} "
                "messages, and this run says more; give it inputs that take fewer iterations",
                function=self._function,
                limit=self._limits.records,
            )
        self._said.append(FunctionMessage(kind, name, at, text, parts, stream, end))

    def _failed(
        self,
        kind: MessageKind,
        name: str,
        at: Iteration,
        shown: Sequence[tf.Tensor],
        problem: str = "",
    ) -> None:
        parts = tuple(map(messages.part, shown))
        text = problem or " ".join(f"[{part}]" for part in parts)
        self._say(kind, name, at, text, parts)
        if self._keep_going:
            return
        raise AssertionFailed(
            f"function {self._function!r}: {kind.value} {name}{_iterations(at)} failed: "
            f"{text[:2000]}; with on_assert continue the run goes on",
            function=self._function,
            tensor=name,
        )


def _iterations(at: Iteration) -> str:
    return f" in iteration {', '.join(map(str, at))}" if at else ""


def _is_true(condition: tf.Tensor) -> bool:
    """As TensorFlow takes what is no bool: numbers by zero, strings by length, others by size."""
    if condition.shape.rank == 0:
        return bool(condition.numpy())
    return int(tf.size(condition)) > 0
