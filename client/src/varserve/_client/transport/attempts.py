"""A call, made again after a failure that may pass: the one place that decides what is repeated."""

from __future__ import annotations

import itertools
from functools import partial
from typing import Any

from varserve._client import errors

from .calls import Budget, Call, Op, Sleep, Work
from .retries import RECONNECT

# The service gave these answers itself, so nothing was changed and any call may come again.
_COME_AGAIN = {"MODEL_NOT_READY", "SHUTTING_DOWN", "TOO_MANY_REQUESTS"}

_LOOK_SECONDS = 1.0


def attempt(call: Call, *, repeatable: bool = True) -> Op[Any]:
    """Make the call, and again after a failure that may pass, with growing delays in between.

    `repeatable`: the call may arrive twice, because it changes nothing or carries a request_id.
    """
    budget = call.budget
    refused = uncertain = False
    for failures in itertools.count():
        try:
            answer = yield call
            # Calls that did not reach the service have not loaded it.
            budget.throttle.succeeded(repeated=refused)
            return answer
        except errors.VarserveError as error:
            delay = _delay(error, failures)
            refused = isinstance(error, errors.TooManyRequests)
            if (
                failures >= budget.retries
                or delay >= budget.remaining()
                or not _may_pass(error, failures, repeatable)
                or (refused and not budget.throttle.take())
            ):
                # What the service says of the last attempt says nothing of an earlier one.
                error.from_service = error.from_service and not uncertain
                yield from explained(error, budget)
                raise
            uncertain |= not error.from_service or isinstance(error, errors.AuditLogUnavailable)
        yield Sleep(delay)
    return None  # pragma: no cover


def explained(error: errors.VarserveError, budget: Budget) -> Op[None]:
    """Look at what is there, where no connection could be made, and tell of it in the error."""
    look, error._look = error._look, None
    # A service that has answered before is slow: it is not asked even more.
    known = isinstance(error, errors.DeadlineExceeded) and budget.throttle.answered
    if look is not None and not known:
        seconds = min(_LOOK_SECONDS, max(budget.remaining(), budget.timeout / 10))
        error.message = yield Work(partial(look, seconds))
        error.args = (error.message,)


def _delay(error: errors.VarserveError, failures: int) -> float:
    delay = RECONNECT.delay(failures)
    if isinstance(error, errors.TooManyRequests) and error.retry_after is not None:
        # Not all at the same moment, and none before it.
        from random import uniform

        delay = max(delay, error.retry_after * uniform(1.0, 1.5))
    return delay


def _may_pass(error: errors.VarserveError, failures: int, repeatable: bool) -> bool:
    if error.reason == "CHECKSUM_MISMATCH":
        return failures == 0 and repeatable
    if isinstance(error, errors.AuditLogUnavailable):
        return repeatable  # the change may have been made
    if error.from_service:
        return error.reason in _COME_AGAIN
    return repeatable and isinstance(error, errors.Unavailable)
