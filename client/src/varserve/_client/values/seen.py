"""What one client has seen of each state, so that it never reads an older one.

Replicas of a service follow each other within milliseconds. A client that says what it has seen
reads its own writes, whichever replica a call reaches. Knows the contract; knows no calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from varserve.v1 import model_pb2 as pb

if TYPE_CHECKING:
    from .specs import StateHeader

_MAX_EPOCHS = 1_000


class Seen:
    """The newest revision of each state that a client was told of. May be used from any thread.

    No lock: each step is one operation of a dict, and what two threads learn at the same moment is
    as good in either order. The larger revision wins at the next answer, if not at this one.
    """

    def __init__(self) -> None:
        self._epochs: dict[str, str] = {}
        self._revisions: dict[str, int] = {}

    def learn(self, asked: str, header: StateHeader) -> None:
        """Take note of an answer to a call that asked for a model by this name."""
        self._epochs[asked] = header.epoch
        if header.revision > self._revisions.get(header.epoch, -1):
            self._revisions[header.epoch] = header.revision
            if len(self._revisions) > _MAX_EPOCHS:
                # Not the last one alone: replicas may serve two versions while one is replaced.
                self._revisions.pop(next(iter(self._revisions)), None)

    def consistency(
        self, asked: str, min_revision: int = 0, epoch: str = "", *, linearizable: bool = False
    ) -> pb.Consistency | None:
        """What a call says of how recent the state must be; None: anything will do.

        `min_revision`, `epoch`: what the caller wants beside what it has seen.
        """
        known = self._epochs.get(asked, "")
        if epoch in ("", known):
            epoch = known
            min_revision = max(min_revision, self._revisions.get(known, 0))
        if min_revision == 0 and not linearizable:
            return None
        return pb.Consistency(min_revision=min_revision, epoch=epoch, linearizable=linearizable)
