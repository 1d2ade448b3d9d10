"""TensorFlow's checkpoints: which tensor of one is the value of which object.

The messages in `v1` are TensorFlow's own under other names. What is here takes either's.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

_VALUE = "VARIABLE_VALUE"


class ObjectGraph:
    """The objects of a checkpoint, by path or by a variable's own name.

    `graph`: a message with the fields of TensorFlow's TrackableObjectGraph.
    """

    def __init__(self, graph: Any) -> None:
        self._nodes = graph.nodes
        values = [(each.full_name, each.checkpoint_key) for each in self._values()]
        self._names = Counter(name for name, _ in values)
        self._key_by_name = dict(values)

    def _values(self) -> Iterator[Any]:
        for node in self._nodes:
            yield from (each for each in node.attributes if each.name == _VALUE)

    def key_of(self, path: str, name: str) -> str | None:
        """The key of a variable's value; None where the graph has no such variable.

        By the path, or else by the variable's own name where one variable alone has it.
        """
        for key in self.keys_at(path, attribute=_VALUE):
            return key
        return self._key_by_name.get(name) if self._names[name] == 1 else None

    def keys_at(self, path: str, *, attribute: str = "") -> Iterator[str]:
        """Keys of the tensors of the objects at a path; of attributes of one name, where given."""
        for node in self._at(path):
            for each in node.attributes:
                if each.name == attribute or not attribute:
                    yield each.checkpoint_key

    def _at(self, path: str) -> Iterator[Any]:
        """Objects at the end of a path. A step of it may have slashes of its own."""
        places = [(0, path)] if self._nodes else []
        seen = set()
        while places:
            place = places.pop()
            number, rest = place
            if place in seen or not 0 <= number < len(self._nodes):
                continue
            seen.add(place)
            if not rest:
                yield self._nodes[number]
                continue
            for step, child in self._steps(number):
                if rest == step:
                    places.append((child, ""))
                elif rest.startswith(f"{step}/"):
                    places.append((child, rest[len(step) + 1 :]))

    def _steps(self, number: int) -> Iterator[tuple[str, int]]:
        """The names of what is in an object, each with the number of its node."""
        node = self._nodes[number]
        for child in node.children:
            yield child.local_name, child.node_id
        for slot in node.slot_variables:
            # A slot has the name of its variable before its own; or one that it was given.
            if 0 <= slot.original_variable_node_id < len(self._nodes):
                for each in self._nodes[slot.original_variable_node_id].attributes:
                    yield f"{each.full_name}/{slot.slot_name}", slot.slot_variable_node_id
            if 0 <= slot.slot_variable_node_id < len(self._nodes):
                for each in self._nodes[slot.slot_variable_node_id].attributes:
                    if each.full_name:
                        yield each.full_name, slot.slot_variable_node_id
