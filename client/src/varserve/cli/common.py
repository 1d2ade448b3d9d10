"""What commands have in common: their options, and names that are completed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click
from click.shell_completion import CompletionItem

import varserve

from . import known, output, records
from .exits import Unusable
from .late import late
from .session import Session, session_of
from .typed import Command

if TYPE_CHECKING:
    import numpy as np

    from varserve import Commit, Model, StateHeader
    from varserve._client.handles import file_operations
else:
    file_operations = late("varserve._client.handles.file_operations")
    np = late("numpy")


def command(
    name: str, *, writes: bool = False, follows: bool = False
) -> Callable[[Callable[..., Any]], click.Command]:
    """A command that is given the session, and has `--json`.

    writes: it may change something. follows: it runs until it is ended, and shows no progress.
    """

    def decorate(function: Callable[..., Any]) -> click.Command:
        def run(session: Session, /, as_json: bool, **arguments: Any) -> Any:
            session.as_json |= as_json
            session.may_write = writes
            if follows or session.as_json:
                return function(session, **arguments)
            what = (click.get_current_context().info_name or name, arguments.get("model") or "")
            with session.progress.shown(output.plain(" ".join(what).strip())):
                return function(session, **arguments)

        run.__name__, run.__doc__ = function.__name__, function.__doc__
        run.__click_params__ = getattr(function, "__click_params__", [])  # type: ignore[attr-defined]
        option = click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
        return click.command(name, cls=Command)(option(click.pass_obj(run)))

    return decorate


def complete(kind: str) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Completes names of a kind of `known`; where they cannot be had, there is nothing to offer."""

    def offer(ctx: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem]:
        try:
            session = session_of(ctx.find_root())
            given = ctx.params.get("model"), ctx.params.get("function")
            try:
                names = known.names(session, kind, *given, begun)
            finally:
                session.close()
        except Exception:
            return []
        # Names with control characters are not offered.
        return [CompletionItem(name) for name in names if name.isprintable()]

    return offer


model_argument = click.argument("model", shell_complete=complete("model"))
administered_argument = click.argument("model", shell_complete=complete("administered"))
variable_argument = click.argument("variable", shell_complete=complete("variable"))
function_argument = click.argument("function", shell_complete=complete("function"))
patterns_argument = click.argument(
    "patterns", nargs=-1, metavar="[PATTERN]...", shell_complete=complete("variable")
)


class _Revision(click.IntRange):
    """A number of commits."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            revision: int = super().convert(value, param, ctx)
        except click.BadParameter:
            self.fail(f"expected a revision, from 0 on, found {value}", param, ctx)
        return revision


REVISION = _Revision(0, 2**63 - 1)
inputs_argument = click.argument(
    "inputs", nargs=-1, metavar="[NAME=VALUE]...", shell_complete=complete("input")
)
non_finite_option = click.option(
    "--allow-non-finite", is_flag=True, help="Let NaN and infinite elements be written."
)


F = TypeVar("F", bound=Callable[..., Any])


def renaming_options(command: F) -> F:
    """What a file's tensors are called in the model."""
    for option in (
        click.option(
            "--strip-prefix", default="", metavar="PREFIX", help="Names of FILE without a prefix."
        ),
        click.option(
            "--map", "names", multiple=True, metavar="OLD=NEW", help="A name of FILE, as another."
        ),
    ):
        command = option(command)
    return command


def renames(names: Sequence[str]) -> dict[str, str]:
    """What `--map` says. Raises Unusable."""
    pairs = {}
    for each in names:
        old, equals, new = each.partition("=")
        if not equals or not new:
            raise Unusable(f"--map: expected OLD=NEW, found {each!r}")
        pairs[old] = new
    return pairs


def check_finite(name: str, value: Any, allowed: bool) -> None:
    """Raises Unusable for NaN and infinite elements that are not allowed explicitly."""
    array = np.asarray(value)
    if allowed or not array.size or array.dtype.kind not in "fcV":
        return
    with np.errstate(all="ignore"):
        wrong = int(np.count_nonzero(~np.isfinite(array)))
    if wrong:
        raise Unusable(
            f"{name!r}: {wrong} of {array.size} elements are NaN or infinite; "
            "--allow-non-finite writes them"
        )


at_revision_option = click.option(
    "--at-revision", type=REVISION, metavar="N", help="As it was at this revision."
)
message_option = click.option(
    "--message", "-m", default="", metavar="TEXT", help="The reason, for the history."
)
if_revision_option = click.option(
    "--if-revision",
    type=REVISION,
    metavar="N",
    help="Only if the model is at this revision.",
)


def pairs(what: str, given: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    """NAME=VALUE, each name once."""
    names = set()
    for each in given:
        name, equals, text = each.partition("=")
        if not equals or name in names:
            problem = "is given twice" if equals else "has no value: expected NAME=VALUE"
            raise Unusable(f"{what} {name!r} {problem}")
        names.add(name)
        yield name, text


def header_of(header: StateHeader | Model) -> dict[str, Any]:
    """A header, or what was last heard of a model, as JSON has it."""
    if isinstance(header, varserve.Model):
        header = varserve.StateHeader(header.name, header.version, header.epoch, header.revision)
    return records.document(records.HEADER, header)


def committed(session: Session, commit: Commit, **more: Any) -> None:
    """Tells of a commit."""
    if session.as_json:
        output.document({**header_of(commit.header), **more})
    else:
        output.line(f"revision {commit.revision}")


def selected(model: Model, patterns: Iterable[str]) -> list[str]:
    """Names of the variables that have a value and fit the patterns; none: all that have one.

    What is named without a pattern need not have one. Raises VariableNotFound, and Unusable where
    there is none.
    """
    names = file_operations.selected(model._cache, list(patterns))
    if not names:
        raise Unusable(f"model {model.name!r} has no variable with a value")
    return names
