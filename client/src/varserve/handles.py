"""What every handle of something in a model has: a driver, what is known of the model, defaults."""

from __future__ import annotations

from dataclasses import dataclass, field

from .errors import InvalidRequest
from .known import SECONDS_PER_BYTE, Known
from .operations import Conditions, new_request_id
from .throttle import Throttle
from .transport import Async, Budget, D_co, Handle, Sync


@dataclass(frozen=True, slots=True)
class Defaults:
    """Of a client: seconds for a call that moves little, and how often to try again."""

    timeout: float
    retries: int
    throttle: Throttle = field(default_factory=Throttle)

    def budget(self, timeout: float | None, nbytes: int | None = None) -> Budget:
        """For one call: the caller's own seconds, else the default and what its bytes take."""
        if timeout is None:
            timeout = self.timeout + (nbytes or 0) * SECONDS_PER_BYTE
            return Budget(timeout, self.retries, self.throttle)
        if not timeout > 0:
            raise InvalidRequest(f"expected a timeout above 0 seconds, found {timeout}")
        return Budget(timeout, self.retries, self.throttle)


class OfModel(Handle[D_co]):
    """A handle of a model or of something in it."""

    def __init__(self, driver: Sync | Async, known: Known, defaults: Defaults) -> None:
        self._driver = driver
        self._known = known
        self._defaults = defaults

    def _budget(self, timeout: float | None, nbytes: int | None = None) -> Budget:
        return self._defaults.budget(timeout, nbytes)

    def _conditions(
        self, revision: int | None = None, epoch: str = "", message: str = ""
    ) -> Conditions:
        """Of a new logical write. A revision means something in its epoch only: that goes with it,
        and is the present one where the caller names none."""
        if revision is not None:
            epoch = epoch or self._known.header.epoch
        return Conditions(new_request_id(), revision, epoch, message)
