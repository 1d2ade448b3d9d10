"""The command line `varserve`: a room for each group of commands, over the public client.

Only this package knows click and rich, which the client's extra `cli` installs. The
rooms are `look` (models and values), `change` (writes, runs), `follow` (waiting, watching),
`transfer` (whole models to and from files), `compare` and `admin` (which models there are); what
they share is in `session` (where the service is), `output`, `exits` (what goes wrong, as exit
codes) and `values` (values in arguments).
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from typing import NoReturn

_NEEDED = ("click", "rich", "safetensors")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, and end the process with its exit code."""
    missing = [name for name in _NEEDED if find_spec(name) is None]
    if missing:
        print(
            f"varserve: the command line needs {', '.join(missing)}: pip install 'varserve[cli]'",
            file=sys.stderr,
        )
        raise SystemExit(2)
    # What gRPC would write of a connection, the command line says itself.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from .app import varserve

        varserve.main(args=arguments, prog_name="varserve")
    except KeyboardInterrupt:  # before a command began
        print("varserve: interrupted; nothing was changed", file=sys.stderr)
        _end(_INTERRUPTED)
    except SystemExit as ended:
        if ended.code == _INTERRUPTED:
            _end(_INTERRUPTED)
        raise


_INTERRUPTED = 130


def _end(code: int) -> NoReturn:
    """End the process at once: threads of gRPC may be busy for many seconds."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
