"""Which source line made an operation, where the model was saved with its debug information."""

from __future__ import annotations

import logging
import re
import threading
from pathlib import Path, PurePath

from google.protobuf.message import DecodeError
from tensorflow.core.framework import graph_debug_info_pb2

_log = logging.getLogger(__name__)

_FILE = Path("debug") / "saved_model_debug_info.pb"
# TensorFlow gives each function another number when it is loaded.
_NUMBERED = re.compile(r"^(?:__inference_|__forward_)?(.*?)(?:_\d+)?$")
# Frames of the libraries that build graphs say nothing about the model.
_LIBRARY = re.compile(r"[\\/](site-packages|dist-packages)[\\/]")


class Sources:
    """The source lines of one SavedModel, read when they are first asked for."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / _FILE
        self._lines: dict[tuple[str, str], str] | None = None
        self._reading = threading.Lock()

    def line_of(self, function: str, operation: str) -> str:
        """`file.py:12` for an operation of a function, empty where it is not known."""
        with self._reading:
            if self._lines is None:
                self._lines = _read(self._file)
        if not self._lines:
            return ""
        return self._lines.get((_cleaned(function), operation), "")


def _cleaned(function: str) -> str:
    match = _NUMBERED.match(function)
    return match[1] if match else function


def _read(file: Path) -> dict[tuple[str, str], str]:
    info = graph_debug_info_pb2.GraphDebugInfo()
    try:
        info.ParseFromString(file.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, DecodeError):
        _log.warning("the model's debug information cannot be read: %s", file)
        return {}
    traces = {key: info.traces_by_id[number] for key, number in info.name_to_trace_id.items()}
    traces.update(info.traces)
    lines: dict[tuple[str, str], set[str]] = {}
    for key, trace in traces.items():
        operation, _, function = key.partition("@")
        frames = [info.frames_by_id[number] for number in trace.frame_id]
        frames += list(trace.file_line_cols)
        own = [
            frame
            for frame in frames
            if frame.file_index < len(info.files)
            and not _LIBRARY.search(info.files[frame.file_index])
        ]
        if own:
            # Only the file's name: its folder tells about a machine, and not about the model.
            name = PurePath(info.files[own[-1].file_index].replace("\\", "/")).name
            lines.setdefault((_cleaned(function), operation), set()).add(f"{name}:{own[-1].line}")
    # Functions of the same name cannot be told apart: they have no lines.
    return {key: next(iter(found)) for key, found in lines.items() if len(found) == 1}
