"""Warm-up: runs functions before the service is ready, since TensorFlow's first run is slow.

Only functions that change nothing are run, so that a warm-up changes no revision.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from google.protobuf import json_format

from varserve import tensors
from varserve.v1 import model_service_pb2 as pb
from varserve_service.core.errors import ModelLoadError, RequestError
from varserve_service.core.model.live_model import LiveModel
from varserve_service.core.model.registry import Models, bare_name
from varserve_service.core.ports.loaded_model import Constant, FunctionSpec, Overload, TensorSpec
from varserve_service.rpc.messages import translate

from .batching import BatchOptions

log = structlog.get_logger("varserve.warm_up")

Batching = Mapping[tuple[str, str], BatchOptions]


def run_everything(models: Models, batching: Batching) -> int:
    """Run every function on zeros, a batched one at each size that its batches may have.

    Sizes that are not fixed are 1. What cannot be run on zeros is logged and left cold. Returns the
    number of runs that succeeded.
    """
    done = 0
    for live in models.sorted:
        for function in live.describe().functions:
            options = batching.get((live.name, function.name))
            sizes = options.allowed_rows or (1, options.max_rows) if options else (1,)
            for overload in function.overloads:
                if overload.writes or overload.changes_other_state:
                    continue
                done += sum(_run_on_zeros(live, function, overload, rows) for rows in sizes)
    return done


def _run_on_zeros(live: LiveModel, function: FunctionSpec, overload: Overload, rows: int) -> bool:
    inputs, constants = {}, {}
    for spec in overload.inputs:
        if isinstance(spec.kind, Constant):
            constants[spec.name] = spec.kind
        elif spec.kind.shape is None:
            log.info("left cold", function=function.name, reason=f"{spec.name!r} has any rank")
            return False
        else:
            inputs[spec.name] = _zeros(spec.kind, rows)
    try:
        live.run(function.name, inputs, constants)
    except RequestError as error:
        log.info("left cold", model=live.name, function=function.name, reason=error.message)
        return False
    return True


def _zeros(spec: TensorSpec, rows: int) -> np.ndarray[Any, Any]:
    first, *rest = spec.shape or (None,)
    shape = [rows if first is None else first, *(1 if size is None else size for size in rest)]
    shape = shape if spec.shape else []
    if spec.dtype == tensors.STRING:
        return np.full(shape, b"", object)
    return np.zeros(shape, tensors.numpy_dtype(spec.dtype))


def run_requests(models: Models, file: Path, *, only: str = "", coming: bool = False) -> int:
    """Run the requests of a file: a RunFunctionRequest in protobuf's JSON on each line.

    `only`: those of one model, whatever version or label they name. `coming`: models may come
    later, so that requests of what is not there are left for then.

    Returns their number. Raises ModelLoadError, with the line, for one that cannot be read, that
    changes state, or that fails: the operator wrote it for this model.
    """
    done = 0
    for number, request in _requests(file):
        if only and bare_name(request.model) != only:
            continue
        if coming and models.resolve(request.model) is None:
            log.info("left for later", model=request.model, line=number)
            continue
        try:
            live = models.find(only or request.model)
            function = live.function(request.function)
            if any(o.writes or o.changes_other_state for o in function.overloads):
                raise _refused(file, number, f"function {function.name!r} may change state")
            inputs = translate.inputs(request.inputs)
            live.run(function.name, inputs, translate.constants(request.constants))
        except RequestError as error:
            raise _refused(file, number, error.message) from error
        done += 1
    return done


def _requests(file: Path) -> Iterator[tuple[int, pb.RunFunctionRequest]]:
    try:
        text = file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelLoadError(f"warm-up requests {file}: cannot be read: {error}") from error
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            yield number, json_format.ParseDict(json.loads(line), pb.RunFunctionRequest())
        except (json.JSONDecodeError, json_format.ParseError) as error:
            raise _refused(file, number, str(error)) from error


def _refused(file: Path, number: int, problem: str) -> ModelLoadError:
    return ModelLoadError(f"warm-up requests {file}, line {number}: {problem}")
