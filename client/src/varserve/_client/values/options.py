"""What reads and writes may ask for besides names and values, in one object each."""

from __future__ import annotations

import os
from typing import Any, NamedTuple

from .arguments import Given


class ReadOptions(NamedTuple):
    """Of which state a read is.

    at_revision: as it was at this revision; None: as it is now.
    epoch: the epoch that revisions were learnt in; "" for any.
    min_revision: not older than this one; what the client has seen itself counts anyway.
    linearizable: not older than any write that completed before, at any replica.
    """

    at_revision: int | None = None
    epoch: str = ""
    min_revision: int = 0
    linearizable: bool = False

    def fields(self) -> dict[str, Any]:
        """The request's fields."""
        return {"at_revision": self.at_revision, "epoch": self.epoch}


PRESENT = ReadOptions()


class WriteOptions(NamedTuple):
    """What a write or run is conditional on, the id that makes it happen once, and its reason.

    if_model_revision_match, if_epoch_match: only if the model is at this revision, in this epoch.
    message: why, for the history.
    lease_seconds: above 0, the service takes the write back after so long without a renewal.
    read_back: the answer holds the value after the write.
    check: what must pass with the new values before the commit is made.
    """

    request_id: str = ""
    if_model_revision_match: int | None = None
    if_epoch_match: str = ""
    message: str = ""
    lease_seconds: float = 0
    read_back: bool = False
    check: Given | None = None

    @property
    def repeatable(self) -> bool:
        """The write may arrive twice: the service does it once."""
        return bool(self.request_id)

    def fields(self) -> dict[str, Any]:
        """The request's fields that every write has."""
        return {
            "request_id": self.request_id,
            "if_model_revision_match": self.if_model_revision_match,
            "if_epoch_match": self.if_epoch_match,
            "message": self.message,
        }


def new_request_id() -> str:
    """An id for one logical write, the same in all of its attempts."""
    return os.urandom(16).hex()
