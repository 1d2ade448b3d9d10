"""Command-line flags for the settings: one for each field, so that a setting is declared once.

Knows click and the fields of Settings. Only Settings validates values.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click
from pydantic.fields import FieldInfo

from .model_kinds import is_saved_model, model_name, models_in, problem, versions_in
from .settings import Settings

Command = Callable[..., Any]


class _NamedPath(click.ParamType):  # type: ignore[type-arg]
    name = "NAME=PATH"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, Path]:
        # At the first equals sign: a path may have others.
        name, equals, path = value.partition("=")
        if not (name and equals and path):
            self.fail(f"expected NAME=PATH, found {value!r}", param, ctx)
        return name, Path(path)


def settings_options(command: Command) -> Command:
    """Decorate a click command with a flag for every setting that fits into one.

    Tables, by model or verb for example, can only be set in the file and the environment.
    """
    # The last one applied is the first one shown.
    for name, field in reversed(Settings.model_fields.items()):
        for decorate in _options(name, field):
            command = decorate(command)
    return command


def given(flags: dict[str, Any], folders: Sequence[Path] = ()) -> dict[str, Any]:
    """The settings that were given as flags, by their names.

    `folders` were given without a name, each a SavedModel, a model's versions or a repository.
    Raises click.UsageError.
    """
    settings = {name: value for name, value in flags.items() if value not in (None, ())}
    models = list(settings.get("models", ()))
    for folder in folders:
        if is_saved_model(folder):
            models.append((model_name(folder), folder))
        elif versions := versions_in(folder):
            models.append((folder.resolve().name, folder / str(versions[-1])))
        elif models_in(folder):
            if "model_repository" in settings:
                raise click.UsageError(f"{folder} is a second model repository; expected one")
            settings["model_repository"] = folder
        else:
            raise click.UsageError(str(problem(folder)))
    names = [name for name, _ in models]
    for name in names:
        if names.count(name) > 1:
            raise click.UsageError(
                f"model {name} is given twice; expected each name once (--model NAME=PATH)"
            )
    if models:
        settings["models"] = dict(models)
    return settings


def _options(name: str, field: FieldInfo) -> list[Callable[[Command], Command]]:
    flag = f"--{name.replace('_', '-')}"
    help_text = _help(field)
    kind = _kind(field.annotation)
    if name == "models":
        shown = "a model and the path of its SavedModel; repeatable"
        return [click.option("--model", name, type=_NamedPath(), multiple=True, help=shown)]
    if kind is bool:
        both = f"{flag}/--no-{flag.removeprefix('--')}"
        return [click.option(both, name, default=None, help=help_text)]
    if typing.get_origin(kind) is tuple:
        each = typing.get_args(kind)[0]
        if each is int or _is_text(each):
            metavar = "INTEGER" if each is int else None
            shown = f"{help_text}; repeatable"
            return [click.option(flag, name, multiple=True, metavar=metavar, help=shown)]
    if kind in (int, float, str, Path) or typing.get_origin(kind) is typing.Literal:
        metavar = {int: "INTEGER", float: "NUMBER", Path: "PATH"}.get(kind, "TEXT")
        return [click.option(flag, name, metavar=metavar, help=help_text)]
    return []


def _is_text(kind: Any) -> bool:
    return kind in (str, Path) or typing.get_origin(kind) is typing.Literal


def _help(field: FieldInfo) -> str:
    text = field.description or ""
    if field.is_required() or field.default in (None, (), False):
        return text
    return f"{text}  [default: {field.default}]"


def _kind(annotation: Any) -> Any:
    """The annotation without its None."""
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        (kind,) = (part for part in typing.get_args(annotation) if part is not type(None))
        return kind
    return annotation
