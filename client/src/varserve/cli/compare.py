"""The command that compares a live model with values elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from . import output, records
from .common import (
    REVISION,
    command,
    header_of,
    model_argument,
    patterns_argument,
    renames,
    renaming_options,
)
from .exits import DIFFERENT, Unusable
from .late import late
from .session import Session

if TYPE_CHECKING:
    from varserve._client import wording
else:
    wording = late("varserve._client.wording")


@command("diff")
@model_argument
@click.argument("other", type=click.Path(path_type=Path), required=False, metavar="[FILE]")
@patterns_argument
@click.option(
    "--revision",
    type=REVISION,
    metavar="N",
    help="Compare with what the model was at this revision, and with no FILE.",
)
@renaming_options
@click.option("--hashes", is_flag=True, help="Compare hashes alone: no value is read.")
def diff(
    session: Session,
    model: str,
    other: Path | None,
    patterns: tuple[str, ...],
    revision: int | None,
    hashes: bool,
    names: tuple[str, ...],
    strip_prefix: str,
) -> None:
    """Compare a live model with a file or an earlier revision. Exit code 1: something differs.

    FILE is what `push` takes; neither TensorFlow nor Keras is needed. Tensors that only FILE has
    are listed, and are no difference.
    """
    if revision is not None and other is not None:
        patterns, other = (str(other), *patterns), None
    if (other is None) == (revision is None):
        raise Unusable("expected either FILE or --revision")
    served = session.model(model)
    compared = served.diff(
        revision if other is None else other,  # type: ignore[arg-type]
        patterns,
        names=renames(names),
        strip_prefix=strip_prefix,
        hashes_only=hashes,
        timeout=session.timeout,
    )
    against = f"revision {revision}" if other is None else str(other)
    if session.as_json:
        output.document(
            {
                **header_of(compared.header),
                "other": against,
                "equal": compared.equal,
                "different": records.documents(records.DIFFERENCES, compared.variables),
                "only_in_other": compared.only_in_other,
            }
        )
    else:
        records.table(records.DIFFERENCES, compared.variables)
        if compared.only_in_other:
            output.line(f"only in {against}: {wording.listed(compared.only_in_other)}")
        output.line(
            f"{len(compared.variables)} differ, {compared.equal} are the same: "
            f"revision {compared.revision} and {against}"
        )
    if compared:
        click.get_current_context().exit(DIFFERENT)


COMMANDS = (diff,)
