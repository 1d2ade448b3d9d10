"""What a SavedModel would do, as far as its operations tell, before any of it is loaded.

Only reads the file: nothing of the model runs, and no function of it gets into TensorFlow. What
counts is what can be called, or is run by loading: not the training pipeline of a graph, nor what
TensorFlow itself saves and restores by.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from varserve_service.core.errors import ModelLoadError, Reason, RequestError

from .object_graph import LIFE_CYCLE
from .operations import ASSETS, DENIABLE, kind_of

_SHOWN = 5
_INIT_COLLECTIONS = ("saved_model_main_op", "legacy_init_op")
_INIT_SIGNATURE = "__saved_model_init_op"


def check_operations(
    name: str, path: Path, *, allowed: Collection[str] = (), denied: Collection[str] = ()
) -> None:
    """Compare the operations of the SavedModel in a folder with two lists.

    `allowed`: there may be no others; empty: there may. `denied`: none of these; `@files`,
    `@python` and `@network` are all operations of a kind, and `-NAME` takes one out again.
    `PrintV2` that writes to a file is called `PrintV2:file`. Raises RequestError
    MODEL_NOT_ALLOWED, ModelLoadError.
    """
    found = operations(name, path)
    groups = {kind for kind in DENIABLE if f"@{kind}" in denied}

    def wrong(op: str) -> str:
        if f"-{op}" not in denied and (op in denied or kind_of(op) in groups):
            return "denied_operations"
        return "allowed_operations" if allowed and op not in allowed else ""

    refused = {op: wrong(op) for op in sorted(found) if wrong(op)}
    if refused:
        shown = ", ".join(f"{op} (in {found[op]})" for op in list(refused)[:_SHOWN])
        more = f" and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        settings = " and ".join(sorted(set(refused.values())))
        raise RequestError(
            Reason.MODEL_NOT_ALLOWED,
            f"model {name!r}: it has operations that are not allowed: {shown}{more}; "
            f"the setting {settings} says which are",
            model=name,
        )


def operations(name: str, path: Path) -> dict[str, str]:
    """The operations of a SavedModel that can run, each with a place where it is.

    Raises ModelLoadError.
    """
    found: dict[str, str] = {}
    for meta_graph in read_saved_model(name, path).meta_graphs:
        for place, node, at_load in MetaGraph(meta_graph).nodes():
            op = _called(node)
            if not (at_load and op in ASSETS):
                found.setdefault(op, place)
    return found


class MetaGraph:
    """The nodes of one graph that can run, from where they are called."""

    def __init__(self, meta_graph: Any) -> None:
        self._meta_graph = meta_graph
        self._library = {
            function.signature.name: function for function in meta_graph.graph_def.library.function
        }
        self._graph = {node.name: node for node in meta_graph.graph_def.node}
        self._seen: set[str] = set()

    def nodes(self) -> Iterator[tuple[str, Any, bool]]:
        """Where a node is, the node, and whether only loading runs it."""
        objects = self._meta_graph.object_graph_def
        # What callers can call goes first: what it shares with loading is theirs too.
        yield from self._of_objects(objects, at_load=False)
        for key, signature in self._meta_graph.signature_def.items():
            if key != _INIT_SIGNATURE and not objects.nodes:
                outputs = [name for each in signature.outputs.values() for name in _names(each)]
                yield from self._of_graph(f"signature {key!r}", outputs, signature, at_load=False)
        yield from self._of_objects(objects, at_load=True)
        yield from self._of_graph("what loading runs", self._init_ops(), None, at_load=True)

    def _of_objects(self, objects: Any, *, at_load: bool) -> Iterator[tuple[str, Any, bool]]:
        life_cycle = {
            child.node_id: child.local_name
            for node in objects.nodes
            for child in node.children
            if child.local_name in LIFE_CYCLE
        }
        names = {child.node_id: child.local_name for n in objects.nodes for child in n.children}
        # A function has its traces as children, which are callable where anything else has them.
        elsewhere = {
            child.node_id
            for number, node in enumerate(objects.nodes)
            if number not in life_cycle
            for child in node.children
        }
        life_cycle |= {
            child.node_id: child.local_name
            for number in life_cycle
            for child in objects.nodes[number].children
            if child.node_id not in elsewhere
        }
        for number, node in enumerate(objects.nodes):
            if (number in life_cycle) is not at_load:
                continue
            callees = list(node.function.concrete_functions)
            if node.HasField("bare_concrete_function"):
                callees.append(node.bare_concrete_function.concrete_function_name)
            for callee in callees:
                place = f"function {names.get(number, callee)!r}"
                yield from self._of_function(place, callee, at_load=at_load)

    def _init_ops(self) -> list[str]:
        collections = self._meta_graph.collection_def
        names = [
            value
            for key in _INIT_COLLECTIONS
            if key in collections
            for value in collections[key].node_list.value
        ]
        signatures = self._meta_graph.signature_def
        if _INIT_SIGNATURE in signatures:
            names += [
                n for each in signatures[_INIT_SIGNATURE].outputs.values() for n in _names(each)
            ]
        return names

    def _of_graph(
        self, place: str, outputs: Iterable[str], signature: Any, *, at_load: bool
    ) -> Iterator[tuple[str, Any, bool]]:
        """Nodes of the graph that these outputs need. What is fed needs nothing."""
        fed: set[str] = set()
        if signature is not None:
            fed = {_node(n) for each in signature.inputs.values() for n in _names(each)}
        waiting = [_node(output) for output in outputs]
        seen: set[str] = set()
        while waiting:
            name = waiting.pop()
            node = self._graph.get(name)
            if node is None or name in seen:
                continue
            seen.add(name)
            yield place, node, at_load
            for callee in _callees(node):
                yield from self._of_function(place, callee, at_load=at_load)
            if name not in fed:
                waiting.extend(_node(each) for each in node.input)

    def _of_function(
        self, place: str, name: str, *, at_load: bool
    ) -> Iterator[tuple[str, Any, bool]]:
        waiting = [name]
        while waiting:
            function = self._library.get(waiting.pop())
            if function is None or function.signature.name in self._seen:
                continue
            self._seen.add(function.signature.name)
            for node in function.node_def:
                yield place, node, at_load
                waiting.extend(_callees(node))


def _names(info: Any) -> list[str]:
    """The tensors of a TensorInfo, which may be a sparse or another composite tensor."""
    if info.HasField("coo_sparse"):
        sparse = info.coo_sparse
        return [
            sparse.values_tensor_name,
            sparse.indices_tensor_name,
            sparse.dense_shape_tensor_name,
        ]
    if info.HasField("composite_tensor"):
        return [name for each in info.composite_tensor.components for name in _names(each)]
    return [info.name]


def _node(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


def _callees(node: Any) -> Iterator[str]:
    yield node.op  # a call as TensorFlow 1 writes it
    attributes: Mapping[str, Any] = node.attr
    for attribute in attributes.values():
        if attribute.HasField("func"):
            yield attribute.func.name
        for function in attribute.list.func:
            yield function.name


def _called(node: Any) -> str:
    if node.op == "PrintV2" and node.attr["output_stream"].s.startswith(b"file://"):
        return "PrintV2:file"
    return str(node.op)


def read_saved_model(name: str, path: Path) -> Any:
    """The message in a SavedModel's folder. Raises ModelLoadError."""
    saved = saved_model_pb2.SavedModel()
    try:
        if (path / "saved_model.pb").is_file():
            saved.ParseFromString((path / "saved_model.pb").read_bytes())
        else:
            text_format.Parse((path / "saved_model.pbtxt").read_bytes(), saved)
    except FileNotFoundError:
        raise ModelLoadError(f"model {name!r}: {path} holds no saved_model.pb") from None
    except (OSError, DecodeError, text_format.ParseError) as error:
        raise ModelLoadError(f"model {name!r}: {path}/saved_model.pb is damaged") from error
    return saved
