"""Which inner tensors an inspection names: look-up by name and by pattern, and what is refused.

Knows the ports. Checks all that can be known before anything runs.
"""

from __future__ import annotations

import difflib
import fnmatch
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache

from varserve_service.core.arrays.shapes import dtype_name, fits, shape_text
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.ports.loaded_model import Overload

from .ports import InnerTensor, Inspection, Patch, PatchKind, Place, Selection

FLOATING = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")
_SHOWN = 200  # characters of a caller's name that a message repeats
_COMPARED = 5_000
_LISTED = 8
_REMEMBERED = 64  # patterns of one catalogue
_GLOB = re.compile(r"[*?\[]")


class Catalogue:
    """The inner tensors of one overload, by name."""

    def __init__(self, function: str, tensors: Sequence[InnerTensor]) -> None:
        self._function = function
        self._tensors = tensors
        self._exact: dict[str, int] = {}
        self._shared: dict[str, list[int]] = {}
        for index, tensor in enumerate(tensors):
            self._exact[tensor.path] = self._exact[tensor.name] = index
        for index, tensor in enumerate(tensors):
            self._shared.setdefault(tensor.bare, []).append(index)
        # A pattern takes milliseconds, and who looks again asks for the same.
        self._fitting = lru_cache(_REMEMBERED)(self._find_fitting)

    @property
    def tensors(self) -> Sequence[InnerTensor]:
        """All of them, in an order of computation."""
        return self._tensors

    def find(self, name: str) -> int:
        """The index of the one tensor of this name.

        Raises RequestError TENSOR_NOT_FOUND with close names, NAME_AMBIGUOUS with all names.
        """
        name = name.removesuffix(":0")
        if name in self._exact:
            return self._exact[name]
        indices = self._shared.get(name, [])
        if len(indices) == 1:
            return indices[0]
        if not indices:
            raise self._not_found(name)
        names = [self._tensors[index].name for index in indices]
        raise RequestError(
            Reason.NAME_AMBIGUOUS,
            f"function {self._function!r}: {len(indices)} inner tensors are called "
            f"{name[:_SHOWN]!r}; expected one of the names {_listed(names)}",
            function=self._function,
            tensor=name[:_SHOWN],
        )

    def select(self, patterns: Iterable[str]) -> list[int]:
        """Indices, in an order of computation, of what the names and glob patterns fit.

        Raises RequestError as `find`; TENSOR_NOT_FOUND for a pattern that fits none.
        """
        indices: set[int] = set()
        for pattern in patterns:
            if not _GLOB.search(pattern):
                indices.add(self.find(pattern))
                continue
            indices |= self._fitting(pattern)
        return sorted(indices)

    def _find_fitting(self, pattern: str) -> frozenset[int]:
        matches = re.compile(fnmatch.translate(pattern)).match
        fitting = frozenset(
            index
            for index, tensor in enumerate(self._tensors)
            if matches(tensor.name) or matches(tensor.bare) or matches(tensor.path)
        )
        if not fitting:
            raise self._not_found(pattern)
        return fitting

    def _not_found(self, name: str) -> RequestError:
        names = list(self._shared) if len(self._shared) <= _COMPARED else []
        close = difflib.get_close_matches(name[:_SHOWN], names, n=3, cutoff=0.5)
        if not close:
            close = [each for each in names if name and name in each][:3]
        hint = f"; close names: {', '.join(close)}" if close else "; list them with ListTensors"
        return RequestError(
            Reason.TENSOR_NOT_FOUND,
            f"function {self._function!r} has no inner tensor {name[:_SHOWN]!r}{hint}",
            function=self._function,
            tensor=name[:_SHOWN],
        )

    def resolve(
        self, asked: Inspection, overload: Overload, variables: dict[str, str]
    ) -> Selection:
        """Find what an inspection names and check it, before anything runs.

        `variables`: paths of the variables that the overload uses, by name and by path. Raises
        RequestError: TENSOR_NOT_FOUND, NAME_AMBIGUOUS, TENSOR_INSIDE_XLA, PATCH_UNSUPPORTED,
        DTYPE_MISMATCH, SHAPE_MISMATCH, INPUT_MISMATCH, GRADIENT_UNAVAILABLE.
        """
        # An opened call of XLA has no inside that is out of reach; gradients open them.
        opened = asked.open_xla or bool(asked.gradients_of)
        probes = []
        for pattern in asked.probes:
            indices = self.select([pattern])
            reachable = [i for i in indices if opened or not self._is_inside_xla(i)]
            if not reachable:
                raise self._inside_xla(indices[0])
            probes += reachable
        patches: dict[int, Patch] = {}
        for name, patch in asked.patches.items():
            index = self.find(name)
            if self._is_inside_xla(index) and not opened:
                raise self._inside_xla(index)
            self._check_patch(self._tensors[index], patch)
            patches[index] = patch
        inputs, paths, tensors = self._wrt(asked, overload, variables)
        return Selection(
            asked, frozenset(probes), patches, tuple(inputs), tuple(paths), tuple(tensors)
        )

    def _wrt(
        self, asked: Inspection, overload: Overload, variables: dict[str, str]
    ) -> tuple[list[str], list[tuple[str, str]], list[tuple[str, int]]]:
        inputs: list[str] = []
        paths: list[tuple[str, str]] = []
        tensors: list[tuple[str, int]] = []
        if not asked.gradients_of:
            if asked.wrt:
                raise RequestError(
                    Reason.INPUT_MISMATCH,
                    f"function {self._function!r}: wrt without gradients_of; expected the name of "
                    "the output to differentiate",
                    function=self._function,
                )
            return inputs, paths, tensors
        outputs = {output.name: output.tensor for output in overload.outputs}
        if asked.gradients_of not in outputs:
            raise RequestError(
                Reason.INPUT_MISMATCH,
                f"function {self._function!r}: no output {asked.gradients_of[:_SHOWN]!r} to "
                f"differentiate; expected one of the outputs: {', '.join(outputs) or 'none'}",
                function=self._function,
            )
        dtypes = {each.name: getattr(each.kind, "dtype", "") for each in overload.inputs}
        self._check_differentiable(asked.gradients_of, outputs[asked.gradients_of].dtype)
        for name in asked.wrt:
            if dtypes.get(name):
                self._check_differentiable(name, dtypes[name])
                inputs.append(name)
            elif name in variables:
                paths.append((name, variables[name]))
            else:
                index = self.find(name)
                self._check_differentiable(name, self._tensors[index].dtype)
                tensors.append((name, index))
        return inputs, paths, tensors

    def _check_differentiable(self, name: str, dtype: str) -> None:
        if dtype not in FLOATING:
            raise RequestError(
                Reason.GRADIENT_UNAVAILABLE,
                f"function {self._function!r}: {name[:_SHOWN]!r} is of dtype {dtype}; expected a "
                "floating-point tensor for a gradient",
                function=self._function,
                tensor=name[:_SHOWN],
            )

    def _check_patch(self, tensor: InnerTensor, patch: Patch) -> None:
        where = f"function {self._function!r}: patch of {tensor.name!r}"
        metadata = {"function": self._function, "tensor": tensor.name}
        if tensor.dtype not in FLOATING:
            # Shapes, indices and names live in these: a wrong one can end the process.
            raise RequestError(
                Reason.PATCH_UNSUPPORTED,
                f"{where}: it is of dtype {tensor.dtype}; expected a floating-point tensor",
                **metadata,
            )
        if patch.kind is not PatchKind.VALUE or patch.value is None:
            return
        found = dtype_name(patch.value)
        if found != tensor.dtype:
            raise RequestError(
                Reason.DTYPE_MISMATCH,
                f"{where}: expected dtype {tensor.dtype}, found {found}",
                **metadata,
            )
        if not fits(patch.value.shape, tensor.shape):
            raise RequestError(
                Reason.SHAPE_MISMATCH,
                f"{where}: expected shape {shape_text(tensor.shape)}, "
                f"found {list(patch.value.shape)}",
                **metadata,
            )

    def _is_inside_xla(self, index: int) -> bool:
        return self._tensors[index].place is Place.XLA

    def _inside_xla(self, index: int) -> RequestError:
        name = self._tensors[index].name
        return RequestError(
            Reason.TENSOR_INSIDE_XLA,
            f"function {self._function!r}: {name!r} is inside a call that XLA compiles and that "
            "runs as one; ask for it with open_xla, which runs the call operation by operation "
            "and may round otherwise",
            function=self._function,
            tensor=name,
        )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(repr(name) for name in names[:_LISTED]) + more
