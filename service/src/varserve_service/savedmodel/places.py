"""Where in its checkpoint a SavedModel keeps the value of each variable.

A SavedModel with an object graph says so by path. One in TensorFlow 1 format says so by the graph
that restores it: what is read by which key, or as which slice of a partitioned variable, and given
to which variable. A key need not be a name.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tensorflow.core.protobuf import trackable_object_graph_pb2
from tensorflow.python.framework import tensor_util

from varserve.checkpoint import ObjectGraph

from .allowed_operations import MetaGraph, read_saved_model

GRAPH_KEY = "_CHECKPOINTABLE_OBJECT_GRAPH"

_ASSIGNS = ("AssignVariableOp", "Assign")
_PASSES = ("Identity", "Cast")


class Place(NamedTuple):
    """A key, and of a slice of what it has: which, as TensorFlow writes it (`4 3 0,2:-`)."""

    key: str
    slice: str = ""


class Places:
    """The places of a SavedModel's variables. Raises ModelLoadError for a damaged one."""

    def __init__(self, source: Path, reader: Any) -> None:
        self._keys = reader.get_variable_to_dtype_map()
        self._graph: ObjectGraph | None = None
        self._restored: dict[str, Place] = {}
        graphs = read_saved_model(source.name, source).meta_graphs
        if GRAPH_KEY in self._keys:
            graph = trackable_object_graph_pb2.TrackableObjectGraph.FromString(
                reader.get_tensor(GRAPH_KEY)
            )
            for each in graphs:
                _name_slots(graph, each.object_graph_def)
            self._graph = ObjectGraph(graph)
        else:
            for each in graphs:
                self._restored |= _restored(each.graph_def)

    def of(self, path: str) -> Place | None:
        """The place of the variable at a path; None: it has none."""
        if self._graph is not None:
            keys = (key for key in self._graph.keys_at(path) if key in self._keys)
            return next((Place(key) for key in keys), None)
        place = self._restored.get(path, Place(path))
        return place if place.key in self._keys else None


def set_at_load(name: str, source: Path) -> frozenset[str]:
    """Names of the variables that a SavedModel in TensorFlow 1 format sets when it is loaded.

    Whatever its checkpoint says: what sets them runs after it is restored. Raises ModelLoadError.
    """
    found: set[str] = set()
    for meta_graph in read_saved_model(name, source).meta_graphs:
        if meta_graph.object_graph_def.nodes:
            continue
        for _, node, at_load in MetaGraph(meta_graph).nodes():
            if at_load and (node.op in _ASSIGNS or node.op.startswith("Assign")) and node.input:
                found.add(_name(node.input[0]))
    return frozenset(found)


def _name(tensor: str) -> str:
    return tensor.removeprefix("^").partition(":")[0]


def _restored(graph: Any) -> dict[str, Place]:
    """What each variable of a graph is given by an operation that restores."""
    nodes = {node.name: node for node in graph.node}
    found: dict[str, Place] = {}
    for node in graph.node:
        if node.op not in _ASSIGNS or len(node.input) < 2:
            continue
        source = node.input[1]
        while (giver := nodes.get(_name(source))) is not None and giver.op in _PASSES:
            source = giver.input[0]
        if giver is None or giver.op != "RestoreV2":
            continue
        index = int(source.partition(":")[2] or 0)
        names, slices = (_strings(nodes.get(_name(each))) for each in giver.input[1:3])
        if index < len(names):
            found[_name(node.input[0])] = Place(names[index], slices[index])
    return found


def _strings(node: Any) -> list[str]:
    if node is None or node.op != "Const":
        return []
    return [each.decode() for each in tensor_util.MakeNdarray(node.attr["value"].tensor).flat]


def _name_slots(graph: Any, objects: Any) -> None:
    """Fill in names that a checkpoint leaves out, from the SavedModel's own object graph.

    The slots of an optimizer are found by them. Both graphs number the same objects alike.
    """
    for number, node in enumerate(graph.nodes):
        if number >= len(objects.nodes):
            return
        other = objects.nodes[number]
        if not other.HasField("variable") or not _alike(node, other):
            continue
        for attribute in node.attributes:
            if not attribute.full_name:
                attribute.full_name = other.variable.name


def _alike(node: Any, other: Any) -> bool:
    mine: Mapping[str, int] = {child.local_name: child.node_id for child in node.children}
    theirs = {child.local_name: child.node_id for child in other.children}
    return all(theirs.get(name) == number for name, number in mine.items())
