"""Command lines as people type them: options anywhere, negative numbers, near commands."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice

import click

_NUMBER = re.compile(r"-(\d|\.\d|inf|nan)", re.IGNORECASE)

# What tools that people know call it.
_ELSEWHERE = {
    "call": "run",
    "cat": "read",
    "compare": "diff",
    "download": "pull",
    "export": "pull",
    "follow": "watch",
    "get": "read",
    "import": "push",
    "info": "describe",
    "invoke": "run",
    "list": "ls",
    "load": "admin load",
    "log": "history",
    "patch": "assign",
    "put": "assign",
    "rollback": "revert",
    "save": "admin save",
    "set": "assign",
    "show": "describe",
    "stats": "summary",
    "status": "models",
    "undo": "revert",
    "unload": "admin unload",
    "upload": "push",
    "versions": "admin versions",
    "write": "assign",
}


def _values_of(params: Sequence[click.Parameter]) -> dict[str, int]:
    """How many words follow each option."""
    return {
        name: 0 if option.is_flag or option.count else option.nargs
        for option in params
        if isinstance(option, click.Option)
        for name in (*option.opts, *option.secondary_opts)
    }


def options_first(words: Sequence[str], params: Sequence[click.Parameter]) -> list[str]:
    """The words with options before values, so that a negative number is a value."""
    options: list[str] = []
    values: list[str] = []
    follow = _values_of(params)
    rest = iter(words)
    for word in rest:
        if word == "--":
            values += rest
        elif not word.startswith("-") or word == "-" or _NUMBER.match(word):
            values.append(word)
        else:
            options += [word, *islice(rest, follow.get(word, 0))]
    return [*options, "--", *values] if values else options


def pulled_out(words: Sequence[str], params: Sequence[click.Parameter]) -> list[str]:
    """The words with the options of `params` before a command, wherever they were typed."""
    follow = {name: count for name, count in _values_of(params).items() if name not in _FIRST}
    first: list[str] = []
    others: list[str] = []
    rest: Iterator[str] = iter(words)
    for word in rest:
        name, equals, _ = word.partition("=")
        if word == "--":
            others += [word, *rest]
        elif name in follow and (equals or name == word):
            first += [word, *islice(rest, 0 if equals else follow[name])]
        else:
            (others if others or not word.startswith("-") else first).append(word)
    return [*first, *others]


# Each command has its own.
_FIRST = {"--help", "-h", "--version", "--json"}


class Command(click.Command):
    """A command whose options may stand anywhere, and whose values may be negative."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, options_first(args, self.get_params(ctx)))


class Group(click.Group):
    """Commands; of a word that is none, what it may have meant."""

    command_class = Command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            from difflib import get_close_matches

            word = args[0]
            known = [*self.list_commands(ctx), *_ELSEWHERE]
            close = [_ELSEWHERE.get(each, each) for each in get_close_matches(word, known)]
            if not close or word.startswith("-"):
                raise
            meant = " or ".join(f"`{ctx.command_path} {each}`" for each in dict.fromkeys(close))
            raise click.UsageError(
                f"there is no command {word!r}; did you mean {meant}?", ctx
            ) from error


class Root(Group):
    """The outermost commands, whose options may stand after a command, too."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, pulled_out(args, self.get_params(ctx)))
