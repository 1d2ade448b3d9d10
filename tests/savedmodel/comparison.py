"""Every function of SavedModels, in plain TensorFlow and through the service, bit for bit.

`python -m tests.savedmodel.comparison FOLDER...` prints one line for each model, as JSON: its name,
how many calls were compared, and what differed. Knows nothing of how the service names things.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from varserve_service import savedmodel
from varserve_service.savedmodel import configure_devices

PLACEMENT = configure_devices("cpu")

import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

import varserve  # noqa: E402
from tests.serving import serve_here  # noqa: E402
from varserve_service.core.model.live_model import LiveModel  # noqa: E402
from varserve_service.savedmodel.object_graph import walk  # noqa: E402

FAILURES = (varserve.FunctionFailed, varserve.OutOfMemory, varserve.VariableUninitialized)


def value_of(spec: tf.TensorSpec, seed: int) -> np.ndarray[Any, Any]:
    """Small values of a spec: sizes that are not known are 2."""
    shape = [2] if spec.shape.rank is None else [size or 2 for size in spec.shape.as_list()]
    numbers = (np.arange(int(np.prod(shape))) + seed) % 5
    if spec.dtype == tf.string:
        return np.array([f"{n}".encode() for n in numbers], object).reshape(shape)
    if spec.dtype == tf.bool:
        return (numbers % 2 == 0).reshape(shape)
    return numbers.reshape(shape).astype(spec.dtype.as_numpy_dtype)


def composite_of(spec: tf.TypeSpec, seed: int) -> Any:
    """A consistent value of a ragged, sparse or indexed spec."""
    if isinstance(spec, tf.SparseTensorSpec):
        shape = [size or 2 for size in spec.shape.as_list()]
        dense = np.arange(int(np.prod(shape))).reshape(shape) + seed
        return tf.sparse.from_dense(tf.cast(dense, spec.dtype))
    if isinstance(spec, tf.RaggedTensorSpec):
        values = tf.cast(tf.range(3) + seed, spec.dtype)
        splits = [[0, 2, 3]] * spec.ragged_rank
        splits[:-1] = [[0, 1, 2]] * (spec.ragged_rank - 1)
        return tf.RaggedTensor.from_nested_row_splits(
            values, [tf.constant(each, spec.row_splits_dtype) for each in splits]
        )
    if isinstance(spec, tf.IndexedSlicesSpec):
        return tf.IndexedSlices(
            tf.cast([seed, 2], spec._values_dtype), tf.constant([1, 0], tf.int64)
        )
    raise TypeError(f"no value of {spec}")


def argument(leaf: Any, seed: int) -> Any:
    if isinstance(leaf, tf.TensorSpec):
        return value_of(leaf, seed)
    return composite_of(leaf, seed) if isinstance(leaf, tf.TypeSpec) else leaf


def by_name(specs: Mapping[str, tf.TensorSpec]) -> dict[str, Any]:
    """Inputs of a signature; the parts of one sparse or ragged input fit together."""
    parts = {
        "_indices": np.array([[0, 1], [1, 0]], np.int64),
        "_values": np.array([5, 7]),
        "_dense_shape": np.array([2, 2], np.int64),
        "_component_0": np.array([1, 2, 4]),
        "_component_1": np.array([0, 2, 3]),
    }
    found = {}
    for seed, (name, spec) in enumerate(specs.items()):
        found[name] = value_of(spec, seed)
        for suffix, part in parts.items():
            if name.endswith(suffix):
                found[name] = part.astype(spec.dtype.as_numpy_dtype)
    return found


def at(root: Any, path: str) -> Any:
    """What lies at a path of attributes, keys and indices."""
    for part in path.split("/"):
        if isinstance(root, Mapping):
            root = root[part]
        elif isinstance(root, list | tuple):
            root = root[int(part)]
        else:
            root = getattr(root, part)
    return root


def calls(function: Any) -> Iterator[tuple[Any, tuple[Any, ...], dict[str, Any]]]:
    """What to call in TensorFlow, and arguments for it: for each concrete function its own."""
    for concrete in getattr(function, "concrete_functions", [function]):
        signature = concrete.structured_input_signature
        if signature is None:
            specs = [tf.TensorSpec(each.shape, each.dtype) for each in concrete.inputs]
            yield function, tuple(value_of(each, n) for n, each in enumerate(specs)), {}
            continue
        args, kwargs = signature
        if kwargs and not args and all(isinstance(each, tf.TensorSpec) for each in kwargs.values()):
            yield function, (), by_name(kwargs)
            continue
        leaves = [argument(leaf, seed) for seed, leaf in enumerate(tf.nest.flatten(signature))]
        args, kwargs = tf.nest.pack_sequence_as(signature, leaves)
        yield function, args, kwargs


def in_tensorflow(function: Any, args: Any, kwargs: Any) -> Any:
    tensors = tf.nest.map_structure(
        lambda leaf: tf.constant(leaf) if isinstance(leaf, np.ndarray) else leaf, (args, kwargs)
    )
    return function(*tensors[0], **tensors[1])


def bits(value: Any) -> tuple[str, tuple[int, ...], bytes]:
    array = np.asarray(value, object) if isinstance(value, bytes) else np.asarray(value)
    data = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
    return str(array.dtype), array.shape, data


def leaves_of(result: Any) -> list[Any]:
    flat = tf.nest.flatten(result, expand_composites=True)
    return [leaf for leaf in flat if leaf is not None]


def keys_of(result: Any) -> list[str]:
    """The names that outputs must begin with, in order."""
    if isinstance(result, Mapping):
        return sorted(result)
    if isinstance(result, list | tuple):
        return [f"output_{n}" for n, item in enumerate(result) if leaves_of(item)]
    return ["output_0"]


def compare_call(
    variables: Mapping[str, tf.Variable],
    plain: Any,
    served: varserve.Function,
    args: Any,
    kwargs: Any,
) -> str:
    """What differs; empty when nothing does."""
    before = [(each, each.numpy()) for each in variables.values() if each.is_initialized()]
    try:
        expected = in_tensorflow(plain, args, kwargs)
    except tf.errors.OpError as error:
        # The service takes back what a function wrote before it failed.
        for variable, value in before:
            variable.assign(value)
        try:
            served(*args, **kwargs)
        except FAILURES:
            return ""
        return f"TensorFlow fails: {error}"
    try:
        found = served(*args, **kwargs)
    except varserve.VarserveError as error:
        return f"the service fails: {error}"
    leaves = leaves_of(expected)
    if isinstance(expected, tf.Operation):
        leaves = []
    if [bits(each.numpy()) for each in leaves] != [bits(each) for each in found.values()]:
        return f"expected {leaves}, found {dict(found)}"
    if leaves and list(dict.fromkeys(name.split("/")[0] for name in found)) != keys_of(expected):
        return f"expected names {keys_of(expected)}, found {list(found)}"
    return ""


def plain_variables(root: Any) -> dict[str, tf.Variable]:
    """Variables by path; in TensorFlow 1 format by name."""
    found = {path: node for path, node in walk(root) if isinstance(node, tf.Variable)}
    if hasattr(root, "prune"):
        return {each.name.removesuffix(":0"): each for each in found.values()}
    return found


def compare(folder: Path) -> dict[str, Any]:
    """All calls of all functions of a model, one after the other on both sides."""
    plain = tf.saved_model.load(str(folder))
    live = LiveModel(savedmodel.load("m", folder, placement=PLACEMENT))
    variables = plain_variables(plain)
    differences, count = [], 0
    with serve_here(live) as address, varserve.connect(address) as client:
        model = client.model("m")
        for name, function in model.functions.items():
            for target, args, kwargs in calls(at(plain, function.path)):
                count += 1
                problem = compare_call(variables, target, function, args, kwargs)
                if problem:
                    differences.append(f"{name}: {problem}"[:500])
        for variable in model.variables.values():
            other = variables.get(variable.path) if variable.initialized else None
            if other is not None and bits(other.numpy()) != bits(variable.numpy()):
                differences.append(f"variable {variable.name}: other values")
    return {"model": folder.name, "calls": count, "differences": differences}


def main(folders: list[str]) -> None:
    for folder in folders:
        print(json.dumps(compare(Path(folder))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
