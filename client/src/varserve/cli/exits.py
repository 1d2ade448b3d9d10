"""Exit codes, and what goes wrong as text or as JSON."""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any

import click

import varserve

from .output import plain

if TYPE_CHECKING:
    from varserve import VarserveError

DIFFERENT = 1
USAGE = 2
NOT_FOUND = 3
STATE = 4
DENIED = 5
UNAVAILABLE = 6
EXHAUSTED = 7
DEFECT = 8
INTERRUPTED = 130

MEANINGS = {
    0: "done; nothing differs",
    DIFFERENT: "`diff` or `push --dry-run` found differences; `wait-ready`: not ready in time",
    USAGE: "wrong arguments, files or values, or an address where something else answers: "
    "`InvalidRequest` and its kinds",
    NOT_FOUND: "no such model, variable, function or lease: `NotFound`",
    STATE: "the state is another than the command needs: `Conflict`, `FailedPrecondition`, "
    "`OutOfRange`",
    DENIED: "credentials are missing or do not suffice: `AccessDenied`",
    UNAVAILABLE: "no answer, or not in time: `Unavailable`, `DeadlineExceeded`",
    EXHAUSTED: "too large or too many: `ResourceExhausted`",
    DEFECT: "a defect, of the service or of the command line",
    INTERRUPTED: "interrupted by Ctrl-C",
}
"""What each exit code means; the documentation says the same."""


def code_of(error: VarserveError) -> int:
    """The exit code of an error."""
    if error.reason == "UNIMPLEMENTED":  # no varserve service, or its other port
        return USAGE
    codes: tuple[tuple[type[VarserveError], int], ...] = (
        (varserve.InvalidRequest, USAGE),
        (varserve.NotFound, NOT_FOUND),
        (varserve.Conflict, STATE),
        (varserve.FailedPrecondition, STATE),
        (varserve.OutOfRange, STATE),
        (varserve.AccessDenied, DENIED),
        (varserve.Unavailable, UNAVAILABLE),
        (varserve.DeadlineExceeded, UNAVAILABLE),
        (varserve.ClientClosed, UNAVAILABLE),
        (varserve.ResourceExhausted, EXHAUSTED),
    )
    return next((code for kind, code in codes if isinstance(error, kind)), DEFECT)


class Failed(click.ClickException):
    """A command came to nothing because of an error of the client or service.

    why: what the command line knows of it besides.
    """

    def __init__(self, error: VarserveError, *, as_json: bool, why: str = "") -> None:
        super().__init__(f"{error.message}; {why}" if why else error.message)
        self.error = error
        self.as_json = as_json
        self.exit_code = code_of(error)  # type: ignore[misc]

    def show(self, file: IO[Any] | None = None) -> None:
        """On standard error: one line for people, one document for programs."""
        if self.as_json:
            told: dict[str, Any] = {
                "reason": self.error.reason,
                "message": self.message,
                "metadata": self.error.metadata,
            }
            if self.error.messages:
                told["messages"] = [
                    {**each._asdict(), "kind": str(each.kind)} for each in self.error.messages
                ]
            click.echo(json.dumps({"error": told}), err=True)
            return
        click.echo(f"varserve: {plain(self.message)} ({self.error.reason})", err=True)


class Unusable(click.UsageError):
    """A value or file in an argument is not what it must be. Says no more than that."""

    def show(self, file: IO[Any] | None = None) -> None:
        """On standard error, without the usage: it would not help."""
        click.echo(f"varserve: {plain(self.message)}", err=True)
