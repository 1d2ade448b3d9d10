"""Commands of operators: which models, and which versions of them, a service has in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from varserve._client.values.enums import SaveFormat

from . import known, output, records
from .common import administered_argument, command, complete, header_of
from .session import Session
from .typed import Group

if TYPE_CHECKING:
    from varserve import StateHeader

STABLE = "stable"
"""The label that a model's name alone means."""

label_argument = click.argument("label")
version_argument = click.argument("version", type=click.IntRange(min=0), required=False)


@click.group("admin", cls=Group)
def admin() -> None:
    """Load, replace, save and unload models, by the service's AdminService.

    It has a port of its own: `--admin-server HOST:PORT`.
    """


@command("versions")
@click.argument("model", default="", shell_complete=complete("administered"))
def versions(session: Session, model: str) -> None:
    """List the versions of a model, or of all models.

    In memory, on their way in or out, failed, or in the repository alone.
    """
    listed = session.admin.list_versions(model)
    if session.as_json:
        output.document({"versions": records.documents(records.VERSIONS, listed)})
    else:
        records.table(records.VERSIONS, listed)


@command("load", writes=True)
@administered_argument
@version_argument
def load(session: Session, model: str, version: int | None) -> None:
    """Load a version, as what MODEL means from then on.

    Without VERSION the newest. What is in memory already is not loaded again. What served before
    goes on when that fails, and is unloaded when no label means it any more.
    """
    _label(session, model, STABLE, version)


@command("set-label", writes=True)
@administered_argument
@label_argument
@version_argument
def set_label(session: Session, model: str, label: str, version: int | None) -> None:
    """Load a version, as what MODEL@LABEL means.

    Otherwise the same as `load`, which is for the label `stable`.
    """
    _label(session, model, label, version)


def _label(session: Session, model: str, label: str, version: int | None) -> None:
    header = session.admin.load_model(model, version, label=label)
    known.forget(session)
    if session.as_json:
        output.document({**header_of(header), "label": label})
    else:
        name = header.model if label == STABLE else f"{header.model}@{label}"
        output.line(f"{name} is version {header.version} (revision {header.revision})")


@command("remove-label", writes=True)
@administered_argument
@label_argument
def remove_label(session: Session, model: str, label: str) -> None:
    """Take a label from a model.

    A version that no label means any more is unloaded.
    """
    _unloaded(session, session.admin.unload_model(model, label=label))


@command("unload", writes=True)
@administered_argument
def unload(session: Session, model: str) -> None:
    """Unload all versions of a model.

    Without a state directory what was changed live is gone then; `save` keeps it.
    """
    _unloaded(session, session.admin.unload_model(model))


def _unloaded(session: Session, headers: Sequence[StateHeader]) -> None:
    known.forget(session)
    if session.as_json:
        output.document({"unloaded": [header_of(each) for each in headers]})
        return
    for each in headers:
        last = f" at revision {each.revision}" if each.epoch else ""
        output.line(f"{each.model} version {each.version} unloaded{last}")
    if not headers:
        output.line("nothing is unloaded: another label means the version")


@command("save", writes=True)
@administered_argument
@click.argument("folder")
@click.option(
    "--format",
    "form",
    type=click.Choice([each.value for each in SaveFormat]),
    default=SaveFormat.SAVED_MODEL.value,
    show_default=True,
    help="As what it is saved.",
)
def save(session: Session, model: str, folder: str, form: str) -> None:
    """Save what a model is now in a new FOLDER, on the service's machine.

    FOLDER is NAME or NAME/VERSION, below the one that the service has for it; nothing is
    overwritten.
    """
    saved = session.admin.save_model(model, folder, format=form)
    if session.as_json:
        output.document(
            {
                **header_of(saved.header),
                "folder": folder,
                "format": form,
                "variables": saved.variable_count,
                "bytes": saved.nbytes,
            }
        )
    else:
        output.line(
            f"{saved.variable_count} variables of revision {saved.header.revision} "
            f"saved in {folder} ({output.size(saved.nbytes)})"
        )


for _command in (versions, load, set_label, remove_label, unload, save):
    admin.add_command(_command)

COMMANDS = (admin,)
