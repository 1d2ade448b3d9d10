"""The command line `varserve`: a room for each group of commands, over the public client.

Only this package knows click and rich, which the client's extra `cli` installs. The
rooms are `look` (models and values), `change` (writes, runs), `follow` (waiting, watching),
`transfer` (whole models to and from files), `compare` and `admin` (which models there are); what
they share is in `session` (where the service is), `output`, `exits` (what goes wrong, as exit
codes) and `values` (values in arguments).
"""

from __future__ import annotations

import errno
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
        raise SystemExit(_USAGE)
    if sys.stdout is None:
        # Nor would the first connection be kept apart from it.
        with suppress(OSError):
            os.write(2, b"varserve: standard output is closed; nothing was changed\n")
        _end(_USAGE)
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
    except OSError as error:
        if not is_of_output(error):
            raise
        told = f"varserve: standard output cannot be written: {error.strerror}"
        print(f"{told}; what the command does may be done", file=sys.stderr)
        _end(_USAGE)  # the usual end writes what is left once more, and tells of it


_USAGE = 2
_INTERRUPTED = 130


# What a write fails with, where no file is named.
_UNWRITTEN = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF}


def is_of_output(error: OSError) -> bool:
    """Whether an error is that of a write to standard output."""
    return error.filename is None and error.errno in _UNWRITTEN


def _end(code: int) -> NoReturn:
    """End the process at once: threads of gRPC may be busy for many seconds."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):  # a closed one is None
            stream.flush()
    os._exit(code)
