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
    opened,
    patterns_argument,
    renaming_options,
    selected,
)
from .exits import DIFFERENT, Unusable
from .late import late
from .session import Session

if TYPE_CHECKING:
    from varserve._client import errors

    from . import comparing
    from . import stored as files
else:
    comparing = late("varserve.cli.comparing")
    errors = late("varserve._client.errors")
    files = late("varserve.cli.stored")


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

    FILE is a safetensors file, a SavedModel's folder or a checkpoint's prefix; TensorFlow is not
    needed. Tensors that only FILE has are listed, and are no difference.
    """
    if revision is not None and other is not None:
        patterns, other = (str(other), *patterns), None
    if (other is None) == (revision is None):
        raise Unusable("expected either FILE or --revision")
    served = session.model(model)
    wanted = selected(served, patterns)
    if not wanted:
        raise Unusable(f"model {model!r} has no variable with a value")
    extra: list[str] = []
    if revision is not None:
        compared = comparing.compare_revision(
            served, wanted, revision, timeout=session.timeout, hashes_only=hashes
        )
        against = f"revision {revision}"
    else:
        assert other is not None
        stored = opened(other, names, strip_prefix)
        compared = comparing.compare(
            served, stored, wanted, timeout=session.timeout, hashes_only=hashes
        )
        every = {name: each.spec for name, each in served.variables.items()}
        used = {stored.find(spec, name) for name, spec in every.items()}
        keys = {each.key for each in used if each is not None}
        extra = [key for key in stored.tensors if key not in keys and not files.is_copy(key)]
        against = f"{stored.kind} {other}"
    if session.as_json:
        output.document(
            {
                **header_of(compared.header),
                "other": against,
                "equal": compared.equal,
                "different": records.documents(records.DIFFERENCES, compared.differences),
                "only_in_other": extra,
            }
        )
    else:
        records.table(records.DIFFERENCES, compared.differences)
        if extra:
            output.line(f"only in {against}: {errors.listed(extra)}")
        output.line(
            f"{len(compared.differences)} differ, {compared.equal} are the same: "
            f"revision {compared.header.revision} and {against}"
        )
    if compared.differences:
        click.get_current_context().exit(DIFFERENT)


COMMANDS = (diff,)
