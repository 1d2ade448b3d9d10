"""What a SavedModel would do, as far as its operations tell, before any of it is loaded.

Only reads the file: nothing of the model runs, and no function of it gets into TensorFlow.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import DecodeError
from tensorflow.core.protobuf import saved_model_pb2

from varserve_service.core.errors import ModelLoadError, Reason, RequestError

_SHOWN = 5


def check_operations(
    name: str, path: Path, *, allowed: Collection[str] = (), denied: Collection[str] = ()
) -> None:
    """Compare the operations of the SavedModel in a folder with two lists.

    `allowed`: there may be no others; empty: there may. `denied`: none of these. `PrintV2` that
    writes to a file is called `PrintV2:file`. Raises RequestError MODEL_NOT_ALLOWED,
    ModelLoadError.
    """
    found = operations(name, path)
    wrong = sorted({op for op in found if op in denied or (allowed and op not in allowed)})
    if wrong:
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise RequestError(
            Reason.MODEL_NOT_ALLOWED,
            f"model {name!r}: it has operations that are not allowed: "
            f"{', '.join(wrong[:_SHOWN])}{more}",
            model=name,
        )


def operations(name: str, path: Path) -> set[str]:
    """Names of all operations in a SavedModel, in its functions too. Raises ModelLoadError."""
    saved = _read(name, path)
    return {
        _called(node) for meta_graph in saved.meta_graphs for node in _nodes(meta_graph.graph_def)
    }


def _nodes(graph: Any) -> Iterator[Any]:
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _called(node: Any) -> str:
    if node.op == "PrintV2" and node.attr["output_stream"].s.startswith(b"file://"):
        return "PrintV2:file"
    return str(node.op)


def _read(name: str, path: Path) -> Any:
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
