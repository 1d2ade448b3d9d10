"""What is asked in a session, and why there may be no answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from varserve._client.transport.endpoint import Metadata

MAX_REQUEST_BYTES: Final = 64 << 10
"""Of a request that goes in a session: a longer one would hold up the others."""


class Asked(NamedTuple):
    """What is asked in a session. `seconds`: until its deadline; infinity for none."""

    method: str
    request: bytes
    seconds: float
    traces: Metadata


class Alone(Exception):
    """The call has not begun, and cannot in a session: it is to be made alone."""


class Late(Exception):
    """The call's deadline has passed."""


class Lost(Exception):
    """The session ended while the call was in progress; `error` is gRPC's."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(str(error))
        self.error = error
