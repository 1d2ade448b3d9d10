"""What a file of values has, whatever its kind: its tensors by key, and which variable each is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TypeAlias

from varserve._client.errors import InvalidRequest
from varserve._client.values.specs import VariableSpec
from varserve._client.wording import suggestion
from varserve.tensors import Array

Variables: TypeAlias = Mapping[str, VariableSpec]
"""All variables of a model, by the name that each is shown by."""

Keys: TypeAlias = Mapping[str, str]
"""Keys of a file's tensors, by the names of variables."""


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """One tensor of a file. `load` reads it, and raises InvalidRequest."""

    key: str
    load: Callable[[], Array]


@dataclass(frozen=True, slots=True)
class Stored:
    """The tensors of a file, by key."""

    path: Path
    kind: str
    tensors: Mapping[str, StoredTensor]
    metadata: Mapping[str, str] = field(default_factory=dict)
    keys_of: Callable[[Variables], Keys] | None = None
    """Which tensor each variable is, where keys are not the variables' names."""
    partial: bool = False
    """It has more than a model's variables, so tensors that are none are no mistake."""

    def renamed(self, names: Mapping[str, str] | None = None, prefix: str = "") -> Stored:
        """The same with other keys: without a prefix, and each in `names` as it says there.

        Raises InvalidRequest for a key that is not in the file.
        """
        names = names or {}
        absent = [key for key in names if key not in self.tensors]
        if absent:
            hint = suggestion(absent[0], self.tensors)
            raise InvalidRequest(f"{self.path}: there is no tensor {absent[0]!r} to rename{hint}")
        called = {key: names.get(key, key.removeprefix(prefix)) for key in self.tensors}
        renamed: dict[str, StoredTensor] = {}
        for key, tensor in self.tensors.items():
            if called[key] in renamed:
                first = next(each for each in called if called[each] == called[key])
                raise InvalidRequest(
                    f"{self.path}: {first!r} and {key!r} would both be {called[key]!r}"
                )
            renamed[called[key]] = replace(tensor, key=called[key])
        own = self.keys_of

        def keys_of(variables: Variables) -> Keys:
            assert own is not None
            # What the caller has named is that, and nothing else.
            found = own(variables)
            return {name: called[key] for name, key in found.items() if key not in names}

        return replace(self, tensors=renamed, keys_of=None if own is None else keys_of)

    def match(self, variables: Variables) -> dict[str, StoredTensor]:
        """The tensor of each variable that the file has, by the variable's name."""
        own = {} if self.keys_of is None else self.keys_of(variables)
        found = {}
        for name, spec in variables.items():
            for key in (name, own.get(name, name), spec.path):
                if key in self.tensors:
                    found[name] = self.tensors[key]
                    break
        return found

    def unmatched(self, matched: Mapping[str, StoredTensor]) -> list[str]:
        """Keys of the tensors that are no variable's."""
        used = {tensor.key for tensor in matched.values()}
        return [key for key in self.tensors if key not in used and not is_copy(key)]


def is_copy(key: str) -> bool:
    """Whether a checkpoint's tensor is one that Keras 3 exports beside the variable itself."""
    return key.startswith("_all_variables/")


def unusable(path: Path, problem: object) -> InvalidRequest:
    """A file that cannot be read, or not as what it seems to be."""
    return InvalidRequest(f"{path}: {problem}")
