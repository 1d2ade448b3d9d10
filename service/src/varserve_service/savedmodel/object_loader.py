"""Loads a SavedModel with an object graph as TensorFlow does, without graphs of its functions."""

from __future__ import annotations

from typing import Any

from tensorflow.python.checkpoint import checkpoint, checkpoint_options
from tensorflow.python.framework import ops
from tensorflow.python.saved_model import load as tensorflow_load
from tensorflow.python.saved_model import load_options
from tensorflow.python.trackable import resource

from .restored_functions import restore_functions


def load_objects(path: str, meta_graph: Any) -> Any:
    """The root of the objects in a MetaGraphDef, which is changed.

    `path` is the folder of its checkpoint and assets. Raises whatever TensorFlow raises.
    """
    with ops.init_scope():
        return _Loader(path, meta_graph).get(0)


class _Loader(tensorflow_load.Loader):  # type: ignore[misc]
    # In place of TensorFlow's constructor, which makes the graphs first. No nodes are selected, and
    # there are no aliases of functions, which are for saving.
    def __init__(self, path: str, meta_graph: Any) -> None:
        self._asset_file_def = meta_graph.asset_file_def
        self._operation_attributes = {node.name: node.attr for node in meta_graph.graph_def.node}
        self._proto = meta_graph.object_graph_def
        self._export_dir = path
        self._concrete_functions = restore_functions(meta_graph)
        self._restored_concrete_functions: set[str] = set()
        self._checkpoint_options = checkpoint_options.CheckpointOptions()
        self._save_options = load_options.LoadOptions()
        self._concrete_function_aliases = meta_graph.meta_info_def.function_aliases
        self.function_aliases: dict[str, Any] = {}
        self._pretty_printer = checkpoint.ObjectGraphProtoPrettyPrinter(self._proto)
        self._node_filters = self._filtered_nodes = self._node_path_to_id = None
        self._loaded_nodes: dict[int, Any] = {}
        self._ordered_node_ids = self._generate_ordered_node_ids()
        self._load_all()
        self._restore_checkpoint()
        for node in self._nodes:
            if isinstance(node, resource.CapturableResource):
                node._initialize()

    def _recreate_function(self, proto: Any, dependencies: Any) -> Any:
        # The function keeps its message: a copy, or it would keep the whole SavedModel's.
        return super()._recreate_function(
            type(proto).FromString(proto.SerializeToString()), dependencies
        )

    def _setup_function_captures(self, concrete_function_name: str, nodes: Any) -> None:
        if concrete_function_name not in self._restored_concrete_functions:
            self._restored_concrete_functions.add(concrete_function_name)
            bound = self._proto.concrete_functions[concrete_function_name].bound_inputs
            function = self._concrete_functions[concrete_function_name]
            try:
                function.bind([nodes[number] for number in bound])
            except ValueError as problem:
                raise ValueError(
                    f"function {concrete_function_name!r} is damaged: {problem}"
                ) from problem
