"""Loading: from a SavedModel's folder to the core's LoadedModel."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf
from google.protobuf.message import DecodeError

from varserve_service.core.errors import ModelLoadError
from varserve_service.core.memory import Room
from varserve_service.core.ports.loaded_model import (
    Omission,
    OmissionKind,
    Value,
    Variable,
    VariableSpec,
)

from .allowed_operations import read_saved_model
from .discovery import find_functions, find_variables
from .functions import SavedFunction
from .graph_import import check_constants
from .inspection import Insides, Printing, SavedInspector, Sources
from .object_graph import names_of, walk
from .object_loader import load_objects
from .placement import Placement
from .places import set_at_load
from .reference_variables import has_references, without_references
from .runtime import load_graph
from .signatures import partial_shape
from .together import prepare, read_together, write_together
from .values import OUT_OF_MEMORY
from .variables import SavedVariable
from .xla import compile_functions

_log = logging.getLogger(__name__)

# Characters of what TensorFlow says that are passed on.
_SAID = 600
# Lines of a log about what is left out of one model, of each kind.
_MOST_TOLD = 3


class SavedModel:
    """Implements the core's LoadedModel. Keeps the loaded object: its functions die with it."""

    def __init__(
        self,
        name: str,
        version: int,
        placement: Placement,
        fingerprint: str,
        root: Any,
        variables: Sequence[SavedVariable],
        functions: Sequence[SavedFunction],
        omissions: Sequence[Omission],
        set_at_load: Collection[str],
    ) -> None:
        self._name = name
        self._version = version
        self._placement = placement
        self._fingerprint = fingerprint
        self._root = root
        self._variables = tuple(variables)
        self._functions = tuple(functions)
        self._omissions = tuple(omissions)
        self._set_at_load = set_at_load

    @property
    def name(self) -> str:
        return self._name

    @property
    def version(self) -> int:
        return self._version

    @property
    def device(self) -> str:
        return self._placement.shown

    def device_memory(self) -> Room | None:
        return self._placement.memory()

    @property
    def fingerprint(self) -> str:
        return self._fingerprint

    @property
    def set_at_load(self) -> Collection[str]:
        return self._set_at_load

    @property
    def variables(self) -> Sequence[SavedVariable]:
        return self._variables

    def read(self, variables: Sequence[Variable]) -> Sequence[Value]:
        return read_together(variables)

    def write(self, values: Sequence[tuple[Variable, Value]]) -> None:
        write_together(values)

    @property
    def functions(self) -> Sequence[SavedFunction]:
        return self._functions

    @property
    def omissions(self) -> Sequence[Omission]:
        return self._omissions


def tell_omissions(name: str, omissions: Sequence[Omission]) -> None:
    """What is left out of a model: some of each kind in the log, which others are in `GetModel`."""
    for kind in OmissionKind:
        left_out = [omission for omission in omissions if omission.kind is kind]
        for omission in left_out[:_MOST_TOLD]:
            _log.info(
                "model %r: %s %s is left out: %s", name, kind.value, omission.path, omission.reason
            )
        more = len(left_out) - _MOST_TOLD
        if more > 0:
            _log.info(
                "model %r: %d more %ss are left out; `varserve ls %s --json` lists them",
                name,
                more,
                kind.value,
                name,
            )


def load(
    name: str,
    path: Path,
    *,
    version: int = 0,
    placement: Placement,
    xla: Mapping[str, Sequence[int]] | None = None,
    tags: Sequence[str] = (),
    op_libraries: Sequence[Path] = (),
    print_to_stderr: bool = False,
) -> SavedModel:
    """Load the SavedModel in the folder `path`.

    `tags`: of the graph to load; none: the only one, or that for serving. `op_libraries`: shared
    objects with operations of its own. `xla`: functions to compile, each with sizes of dimension
    0. `print_to_stderr`: what functions print in plain runs goes to the process's own streams.
    Loading runs code of the model. Raises ModelLoadError with a message for the operator.
    """
    root = _restore(name, path, placement, tags, op_libraries)
    nodes = list(walk(root))
    variables, unserved = find_variables(root, nodes)
    insides = Insides.of(
        placement, {key: found.variable for key, found in variables.items()}, Sources(path)
    )
    look_into = partial(SavedInspector, insides=insides)
    functions, sparse, unserved_functions = find_functions(nodes, variables, placement, look_into)
    omissions = [*unserved, *unserved_functions]
    tell_omissions(name, omissions)
    if not print_to_stderr:
        _redirect_prints(functions)
    compile_functions(name, functions, xla or {}, placement)
    names = names_of({path: found.variable for path, found in variables.items()})
    saved = []
    for node_path, found in variables.items():
        variable = found.variable
        spec = VariableSpec(
            name=names[node_path],
            path=node_path,
            dtype=variable.dtype.name,
            shape=partial_shape(variable.shape),
            trainable=bool(variable.trainable),
            device=placement.show(variable.handle.device),
            copies=found.copies,
        )
        saved.append(SavedVariable(variable, spec, sparse=node_path in sparse))
    prepare(saved)
    fingerprint, at_load = fingerprint_of(path), frozenset[str]()
    if hasattr(root, "prune"):
        at_load = set_at_load(name, path) & {v.spec.path for v in saved if v.is_initialized()}
    if at_load:  # To other values each time, maybe: not they tell models apart, but the graph.
        fingerprint += f"-{_digest_of_graph(path)}"
    return SavedModel(
        name, version, placement, fingerprint, root, saved, functions, omissions, at_load
    )


def _redirect_prints(functions: Sequence[SavedFunction]) -> None:
    known: dict[str, bool] = {}
    for function in functions:
        function.replace(
            [
                callee.with_printing(Printing.of(callee.call, len(callee.overload.outputs), known))
                for callee in function.callees
            ]
        )


def _digest_of_graph(path: Path) -> str:
    """A digest of the SavedModel's graph, which tells what is run when it is loaded."""
    for name in ("saved_model.pb", "saved_model.pbtxt"):
        if (path / name).is_file():
            return hashlib.blake2b((path / name).read_bytes(), digest_size=16).hexdigest()
    return ""


def fingerprint_of(path: Path) -> str:
    """A digest of the values that the variables begin with.

    The checkpoint's index has the checksum of each of them: gigabytes need not be read.
    """
    index = path / "variables" / "variables.index"
    data = index.read_bytes() if index.is_file() else b""
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _restore(
    name: str, path: Path, placement: Placement, tags: Sequence[str], op_libraries: Sequence[Path]
) -> Any:
    def failed(problem: str) -> ModelLoadError:
        return ModelLoadError(f"model {name!r}: {problem}")

    if not path.is_dir():
        raise failed(f"{path} is not a folder")
    if not ((path / "saved_model.pb").is_file() or (path / "saved_model.pbtxt").is_file()):
        raise failed(f"{path} holds no saved_model.pb")
    for library in op_libraries:
        try:
            tf.load_op_library(str(library))
        except Exception as error:
            raise failed(f"op library {library} cannot be loaded: {_in_short(error)}") from error
    try:
        with placement.scope():
            return _load(name, path, tags)
    except _NoSuchGraph as problem:
        raise failed(str(problem)) from None
    except OUT_OF_MEMORY as error:
        raise failed(f"not enough memory to load {path}") from error
    except DecodeError as error:
        raise failed(f"{path}/saved_model.pb is damaged") from error
    except Exception as error:
        # Loading runs the model's own code: there is no list of what it may raise.
        if "object has no attribute 'add_slot'" in str(error):
            raise failed(
                f"{path} was saved by Keras 2 with its optimizer, which takes tf-keras to load: "
                "pip install --no-deps tf-keras==2.21.*"
            ) from error
        raise failed(f"TensorFlow cannot load {path}: {_in_short(error)}") from error


def _load(name: str, path: Path, wanted: Sequence[str]) -> Any:
    graphs = read_saved_model(name, path).meta_graphs
    tags = _graph_tags(path, [sorted(each.meta_info_def.tags) for each in graphs], wanted)
    graph = next(each for each in graphs if sorted(each.meta_info_def.tags) == tags)
    check_constants(graph.graph_def)
    if has_references(graph):
        return load_graph(str(path), tags, without_references)
    if len(graphs) == 1 and graph.HasField("object_graph_def"):
        return load_objects(str(path), graph)
    return tf.saved_model.load(str(path), tags=tags)


class _NoSuchGraph(Exception):
    """Which graph of a SavedModel is to be loaded is not clear."""


def _graph_tags(path: Path, there: Sequence[list[str]], wanted: Sequence[str]) -> list[str]:
    """The tags of the graph to load: the wanted ones, the only ones there are, or `serve`."""
    listed = ", ".join(f"[{', '.join(tags)}]" for tags in there) or "none"
    if wanted:
        if sorted(wanted) not in there:
            raise _NoSuchGraph(
                f"{path} has no graph with the tags [{', '.join(wanted)}]; it has {listed}"
            )
        return sorted(wanted)
    if len(there) == 1:
        return there[0]
    if ["serve"] in there:
        return ["serve"]
    raise _NoSuchGraph(
        f"{path} has several graphs, and none with the tag `serve` alone: {listed}; "
        "say which in the setting `loading`"
    )


# Where in a graph something happened, which is of no use to an operator.
_WHERE = re.compile(r"\{\{[^}]*\}\}|\[\[.*?\]\]|\[Op:[^\]]*\]|<[^<>]* object at 0x[0-9a-f]+>")
_NOISE = re.compile(
    r"(Detected at node|File \"|Node: |Stack trace|\d+ successful op|Original stack)"
)


def _in_short(error: BaseException) -> str:
    """What TensorFlow says, in one line, with the cause, which may be many lines down."""
    lines = (" ".join(_WHERE.sub("", line).split()) for line in str(error).splitlines())
    said = [line for line in lines if line and not _NOISE.match(line)]
    # The heading tells nothing that its cause does not.
    if len(said) > 1 and said[0].endswith("error:"):
        said = said[1:]
    return "; ".join(dict.fromkeys(said))[:_SAID] or type(error).__name__
