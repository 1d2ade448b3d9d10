"""The server on fakes, in a process whose heap is counted.

Prints its address; then, for each line of standard input, the bytes that are allocated: Python's
objects and those of the libraries below it, from one allocator.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys

from tests.rpc.models import counter
from tests.serving import serve_here


class Mallinfo(ctypes.Structure):
    """struct mallinfo2 of glibc."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
            *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
        )
    )


def allocated() -> int:
    """Bytes in use."""
    gc.collect()
    found = mallinfo()
    return int(found.uordblks + found.hblkhd)


if __name__ == "__main__":
    assert os.environ["PYTHONMALLOC"] == "malloc", "Python's own allocator is not counted"
    mallinfo = ctypes.CDLL(None).mallinfo2
    mallinfo.restype = Mallinfo
    with serve_here(counter()) as address:
        print(address, flush=True)
        for _ in sys.stdin:
            print(allocated(), flush=True)
