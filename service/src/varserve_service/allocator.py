"""glibc's allocator, told to keep what one message leaves for the next one.

By itself it gives most of it back to the system, and each message of a body would have to be given
its pages anew: half of the kernel's time for an assign of 256 MiB.
"""

from __future__ import annotations

import ctypes

# Parameters of mallopt(3), as <malloc.h> numbers them.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_KEPT_BYTES = 64 * 2**20
"""At the end of the heap, free; more is given back."""
_OWN_MAPPING_BYTES = 32 * 2**20
"""A block as large as this is mapped for itself, and given back when it is freed."""


def keep_what_is_freed() -> None:
    """For the life of the process. Other allocators, which have no such parameters, do not mind."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return
    mallopt(_MMAP_THRESHOLD, _OWN_MAPPING_BYTES)
    mallopt(_TRIM_THRESHOLD, _KEPT_BYTES)
