"""What is done with inner tensors as they are computed: they are kept, summarized, replaced.

Owns what is kept, within the bytes that an inspection may keep.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.inspection.ports import (
    InnerTensor,
    InspectionLimits,
    NonFinite,
    Patch,
    PatchKind,
    Probe,
    Selection,
)
from varserve_service.core.ports.function_messages import Iteration
from varserve_service.core.ports.messages import sent_bytes
from varserve_service.core.values.summaries import summarize
from varserve_service.savedmodel.placement import is_host
from varserve_service.savedmodel.values import TensorValue, host_array, to_tensor

from .sites import Site

_CHECKED = frozenset({tf.float16, tf.bfloat16, tf.float32, tf.float64, tf.complex64, tf.complex128})


class Observation:
    """Watches one run. Patches come first: what is kept is what the run went on with."""

    def __init__(
        self,
        function: str,
        tensors: Sequence[InnerTensor],
        selection: Selection,
        limits: InspectionLimits,
        device: str,
        go_on: Callable[[], None],
        tape: Any | None,
    ) -> None:
        self._function = function
        self._tensors = tensors
        self._asked = selection.asked
        self._probes = selection.probes
        self._patches = selection.patches
        self._wrt = frozenset(index for _, index in selection.wrt_tensors)
        self._limits = limits
        self._device = device
        self._go_on = go_on
        self._tape = tape
        self._wanted = sorted({*self._probes, *self._patches, *self._wrt})
        self._kept_bytes = 0
        self._seen: set[int] = set()
        self.probes: list[Probe] = []
        self.sources: list[tuple[int, Iteration, tf.Tensor]] = []
        """The tensors to differentiate with respect to, as they were computed."""
        self.first_non_finite: NonFinite | None = None

    @property
    def not_run(self) -> tuple[str, ...]:
        """Names of the tensors that were asked for and have not been computed."""
        return tuple(self._tensors[i].name for i in self._wanted if i not in self._seen)

    def wants(self, site: Site) -> bool:
        if self._asked.find_non_finite and self.first_non_finite is None:
            return True
        next_wanted = bisect_left(self._wanted, site.first)
        return next_wanted < len(self._wanted) and self._wanted[next_wanted] < site.last

    def computed(self, indices: tuple[int, ...], outputs: list[Any], at: Iteration) -> None:
        for position, index in enumerate(indices):
            if index < 0 or position >= len(outputs) or not tf.is_tensor(outputs[position]):
                continue
            patch = self._patches.get(index)
            if patch is not None:
                outputs[position] = self._patched(index, outputs[position], patch)
                self._seen.add(index)
            tensor = outputs[position]
            if index in self._wrt:
                self._seen.add(index)
                assert self._tape is not None
                self._tape.watch(tensor)
                self.sources.append((index, at, tensor))
            if index in self._probes:
                self._seen.add(index)
                self._keep(index, tensor, at)
            if (
                self._asked.find_non_finite
                and self.first_non_finite is None
                and tensor.dtype in _CHECKED
                and self._tensors[index].op != "Const"
            ):
                self._check(index, tensor, at)

    def _patched(self, index: int, tensor: tf.Tensor, patch: Patch) -> tf.Tensor:
        if patch.kind is PatchKind.ZERO:
            return tf.zeros_like(tensor)
        if patch.kind is PatchKind.SCALE:
            return tensor * tf.cast(patch.factor, tensor.dtype)
        assert patch.value is not None
        if tuple(tensor.shape.as_list()) != patch.value.shape:
            # A kernel that is given what its graph rules out may end the process.
            name = self._tensors[index].name
            raise RequestError(
                Reason.SHAPE_MISMATCH,
                f"function {self._function!r}: patch of {name!r}: expected the shape that it has "
                f"in this run, {tensor.shape.as_list()}, found {list(patch.value.shape)}",
                function=self._function,
                tensor=name,
            )
        # It stays the caller's: a loop takes it many times.
        return to_tensor(patch.value.copy(), self._device)

    def _keep(self, index: int, tensor: tf.Tensor, at: Iteration) -> None:
        name = self._tensors[index].name
        value = TensorValue(tensor)
        spec = self._asked.summarize
        if len(self.probes) >= self._limits.records:
            raise self._too_large(
                f"at most {self._limits.records} values of probes, and this run has more; probe "
                "fewer tensors"
            )
        if spec is not None:
            summary = summarize(
                value,
                histogram=spec.histogram,
                content_hash=spec.content_hash,
                go_on=self._go_on,
            )
            self.probes.append(Probe(name, at, summary=summary))
            return
        self._kept_bytes += sent_bytes(value)
        if self._kept_bytes > self._limits.nbytes:
            raise self._too_large(
                f"at most {self._limits.nbytes} bytes of probed values, and {name!r} goes beyond; "
                "ask for summaries, or probe fewer tensors"
            )
        self._limits.admit(sent_bytes(value))
        self.probes.append(Probe(name, at, value=value))

    def _too_large(self, limit: str) -> RequestError:
        return RequestError(
            Reason.INSPECTION_TOO_LARGE,
            f"function {self._function!r}: an inspection keeps {limit}",
            function=self._function,
            limit=self._limits.nbytes,
        )

    def _check(self, index: int, tensor: tf.Tensor, at: Iteration) -> None:
        if _is_finite(tensor):
            return
        parts = [tensor]
        if tensor.dtype.is_complex:
            parts = [tf.math.real(tensor), tf.math.imag(tensor)]
        self.first_non_finite = NonFinite(
            self._tensors[index].name,
            self._tensors[index].op,
            at,
            tensor.dtype.name,
            tuple(tensor.shape.as_list()),
            nan=_count(parts, tf.math.is_nan),
            positive_infinity=_count(parts, lambda part: tf.equal(part, tf.cast(_INF, part.dtype))),
            negative_infinity=_count(
                parts, lambda part: tf.equal(part, tf.cast(-_INF, part.dtype))
            ),
        )


_INF = float("inf")


def _is_finite(tensor: tf.Tensor) -> bool:
    if not is_host(tensor.backing_device):
        if tensor.dtype.is_complex:
            tensor = tf.stack([tf.math.real(tensor), tf.math.imag(tensor)])
        return bool(tf.reduce_all(tf.math.is_finite(tensor)))
    array = host_array(tensor)
    with np.errstate(all="ignore"):
        # A sum that is finite is one of finite numbers, and takes one pass without a copy.
        return bool(np.isfinite(array.sum()) or np.isfinite(array).all())


def _count(parts: Sequence[tf.Tensor], test: Callable[[tf.Tensor], tf.Tensor]) -> int:
    return sum(int(tf.math.count_nonzero(test(part))) for part in parts)
