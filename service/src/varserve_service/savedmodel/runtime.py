"""The straight way into TensorFlow's runtime: functions by flat tensors, and what it knows of them.

With `restored_functions` and `object_loader` the only user of TensorFlow's private interfaces.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import chain
from typing import Any, Protocol

import tensorflow as tf
from tensorflow.core.function.polymorphism import function_type as function_types
from tensorflow.python import pywrap_tfe
from tensorflow.python.client import pywrap_tf_session as session
from tensorflow.python.eager import context, execute
from tensorflow.python.eager.cancellation import CancellationManager as CancellationManager
from tensorflow.python.framework import op_def_registry, ops
from tensorflow.python.ops import script_ops
from tensorflow.python.saved_model import load_v1_in_v2

from .restored_functions import RestoredFunction


class FlatCall(Protocol):
    """Calls a function by flat tensors. A `cancellation` makes it 5 us slower.

    `start_cancel` of that ends loops, and operations that wait, in milliseconds; one that computes
    is finished.
    """

    def __call__(
        self, inputs: list[tf.Tensor], cancellation: CancellationManager | None = None
    ) -> Sequence[tf.Tensor]: ...


def flat_call(concrete: Any) -> FlatCall:
    """A call of the concrete function with its inputs and captures in order.

    Binding a signature in Python would cost more than a small function itself; and on this way
    there is no trace to be made, whatever the inputs are. Errors come as tf.errors.OpError.
    """
    name, count = _text(concrete.inference_fn.name), len(result_specs(concrete))

    def call(
        inputs: list[tf.Tensor], cancellation: CancellationManager | None = None
    ) -> Sequence[tf.Tensor]:
        return call_by_name(name, inputs, count, cancellation)

    # The runtime forgets a function with the object that made it.
    call.keep = concrete  # type: ignore[attr-defined]
    return call


def argument_specs(concrete: Any) -> Sequence[Any]:
    """What has dtype and shape of each input of a concrete function, captures included."""
    return concrete.argument_specs if isinstance(concrete, RestoredFunction) else concrete.inputs


def result_specs(concrete: Any) -> Sequence[Any]:
    """What has dtype and shape of each output of a concrete function."""
    return concrete.result_specs if isinstance(concrete, RestoredFunction) else concrete.outputs


def keyword_order(concrete: Any, keywords: Iterable[str]) -> list[str]:
    """The keyword arguments of a concrete function in the order in which its graph takes them.

    A signature in TensorFlow 1 format takes `x_indices`, `x_values` and `x_dense_shape` in this
    order, which is that of no sorting.
    """
    ordered: Sequence[str] = concrete._arg_keywords or ()
    if concrete.function_type is not None:
        ordered = [each.name for each in concrete.function_type._sorted_parameters]
    places = {name: place for place, name in enumerate(ordered)}
    # Those of a signature may be no identifiers, for which TensorFlow puts others.
    clean = function_types.sanitize_arg_name
    return sorted(
        keywords, key=lambda name: (places.get(name, places.get(clean(name), len(places))), name)
    )


@cache
def _nothing_at_all() -> FlatCall:
    @tf.function(input_signature=[], autograph=False)
    def nothing() -> tf.Tensor:
        return tf.constant(0)

    return flat_call(nothing.get_concrete_function())


def prepare_thread() -> None:
    """Run a function on the calling thread, so that TensorFlow opens here what it opens once.

    The first function that a thread runs opens /dev/urandom. TensorFlow does not check whether that
    succeeded: without a free file descriptor the process ends by SIGSEGV.
    """
    _nothing_at_all()([])


def load_graph(path: str, tags: Sequence[str], convert: Callable[[Any], None]) -> Any:
    """Load a SavedModel in TensorFlow 1 format, whose MetaGraphDef `convert` changes in place."""

    class Loader(load_v1_in_v2._EagerSavedModelLoader):  # type: ignore[misc]
        def get_meta_graph_def_from_tags(self, tags: Sequence[str]) -> Any:
            meta_graph = super().get_meta_graph_def_from_tags(tags)
            convert(meta_graph)
            return meta_graph

    with ops.init_scope():
        return Loader(path).load(tags)


def shape_of(tensor: tf.Tensor) -> tuple[int, ...]:
    """Shape of an eager tensor, without the objects that TensorFlow makes of it: 0.3 us."""
    return tuple(tensor._shape_tuple())


def graph_functions() -> int:
    """How many functions TensorFlow's runtime has. Loading adds some, and so does every trace."""
    return len(context.context().list_function_names())


def xla_call(
    call: FlatCall, shapes: Sequence[tuple[int, ...]]
) -> tuple[FlatCall, tuple[tf.Tensor, ...]]:
    """The same call through XLA for inputs of just these shapes, and the captures that it takes.

    It is compiled when it is first called.
    """
    concrete = call.keep  # type: ignore[attr-defined]
    taken = argument_specs(concrete)[: len(shapes)]
    signature = [
        tf.TensorSpec(shape, each.dtype) for shape, each in zip(shapes, taken, strict=True)
    ]

    @tf.function(input_signature=signature, jit_compile=True, autograph=False)
    def compiled(*inputs: Any) -> Any:
        return tf.nest.flatten(concrete._call_flat(list(inputs), concrete.captured_inputs))

    found = compiled.get_concrete_function()
    return flat_call(found), tuple(found.captured_inputs)


def function_definition(name: str) -> Any | None:
    """The FunctionDef of a function that this process knows, None where there is none."""
    try:
        return context.context().get_function_def(name)
    except (tf.errors.OpError, ValueError):
        return None


def operation_definition(op: str) -> Any | None:
    """The OpDef of an operation that this process knows, None where there is none."""
    return op_def_registry.get(op)


def is_stateful(op: str) -> bool:
    """Whether TensorFlow says that an operation has effects; True of one that it does not know."""
    definition = operation_definition(op)
    return definition is None or bool(definition.is_stateful)


def memory_limit(device: str) -> int | None:
    """Bytes that TensorFlow may have on a device, by a name that ends as `GPU:0`; None: unknown."""
    runtime = context.context()
    runtime.ensure_initialized()
    devices = pywrap_tfe.TFE_ContextListDevices(runtime._context_handle)
    for index in range(session.TF_DeviceListCount(devices)):
        if session.TF_DeviceListName(devices, index).endswith(device):
            return int(session.TF_DeviceListMemoryBytes(devices, index))
    return None


def release(variable: tf.Variable) -> None:
    """Take the memory of a variable that nothing uses back. It has a value of no elements then."""
    with tf.device(variable.handle.device):
        nothing = tf.zeros([0], variable.dtype)
        tf.raw_ops.AssignVariableOp(resource=variable.handle, value=nothing)


def reference_reader(node: Any) -> Callable[[], tf.Tensor]:
    """What reads a reference variable of TensorFlow 1, by the node of its VariableV2."""
    shared_name = node.attr["shared_name"].s.decode() or node.name
    container = node.attr["container"].s.decode()
    shape = tf.TensorShape(node.attr["shape"].shape)
    dtype = tf.as_dtype(node.attr["dtype"].type)

    @tf.function(autograph=False, input_signature=[])
    def read() -> Any:
        reference = tf.raw_ops.VariableV2(
            shape=shape, dtype=dtype, container=container, shared_name=shared_name
        )
        return tf.identity(reference)

    call: FlatCall | None = None

    def current() -> tf.Tensor:
        nonlocal call
        if call is None:
            call = flat_call(read.get_concrete_function())
        (tensor,) = call([])
        return tensor

    return current


def call_by_name(
    name: str,
    inputs: list[tf.Tensor],
    count: int,
    cancellation: CancellationManager | None = None,
) -> Sequence[tf.Tensor]:
    """Call a registered function with all its inputs in order; `count` is that of its outputs."""
    runtime, attributes = context.context(), _call_attributes()
    if cancellation is None:
        return execute.quick_execute(name, count, inputs, attributes, runtime) or ()
    outputs = execute.execute_with_cancellation(
        name, count, inputs, attributes, runtime, cancellation
    )
    return outputs or ()


@cache
def _call_attributes() -> tuple[Any, ...]:
    """Those of every call: TensorFlow's settings, which are fixed once it is in use."""
    return tuple(chain(*context.context().function_call_options.as_attrs().items()))


def name_of(call: FlatCall) -> str:
    """The name of the function that a flat call calls."""
    return _text(call.keep.inference_fn.name)  # type: ignore[attr-defined]


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else str(name)


def register_function(definition: Any) -> None:
    """Let this process know a FunctionDef."""
    context.context().add_function_def(definition)


def unregister_functions(names: Sequence[str]) -> None:
    """Forget registered functions; what the runtime made of them goes with them."""
    for name in names:
        context.context().remove_function(name)


def register_python(function: Callable[..., Any]) -> str:
    """The token by which a PyFunc calls a Python function, as long as the function lives."""
    return str(script_ops._py_funcs.insert(function))
