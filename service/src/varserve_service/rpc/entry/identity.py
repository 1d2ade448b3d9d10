"""Who makes a call: found once, before anything else is done for it, and kept while it lasts.

Knows gRPC's contexts. How a caller proves who he is, is behind `Authenticator`.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any, Protocol

import grpc

from varserve_service.core.errors import Reason, RequestError

Context = grpc.aio.ServicerContext[Any, Any]

# gRPC has a task of its own for each call, and so a context variable is the call's own.
_subject: ContextVar[str] = ContextVar("subject", default="")
_authenticator: ContextVar[Authenticator | None] = ContextVar("authenticator", default=None)


class Authenticator(Protocol):
    """Tells who a caller is."""

    async def subject(self, context: Context) -> str:
        """The caller's name, never empty. Raises RequestError UNAUTHENTICATED.

        Called on the event loop, which it must not hold up.
        """
        ...


async def identify(authenticator: Authenticator | None, context: Context) -> None:
    """Find out who makes the call that the running task answers.

    Without an authenticator callers have no names. Raises RequestError UNAUTHENTICATED.
    """
    if authenticator is not None:
        _subject.set(await authenticator.subject(context))
        _authenticator.set(authenticator)


async def identify_again(context: Context) -> None:
    """Whether who began this call still is who he said: for calls that outlast a credential.

    Raises RequestError UNAUTHENTICATED.
    """
    authenticator = _authenticator.get()
    if authenticator is not None and await authenticator.subject(context) != _subject.get():
        raise RequestError(
            Reason.UNAUTHENTICATED, "the credential that this call began with is another's by now"
        )


def subject_of(context: Context) -> str:
    """The caller's name; empty where callers are not authenticated.

    To be asked on the event loop, in the task that answers the call: a worker thread is told.
    """
    return _subject.get()
