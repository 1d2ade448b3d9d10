"""`varserve fetch` and `varserve follow`: models from where they are into a repository."""

from __future__ import annotations

import re
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

import varserve

from . import output
from .common import command
from .exits import Unusable
from .late import late
from .session import Session

if TYPE_CHECKING:
    from varserve import fetching
    from varserve.fetching import Fetched
else:
    fetching = late("varserve.fetching")

_DIGEST = re.compile(r"([0-9a-f]{64}) [ *](?:\./)?(.+)")


def _fetched(session: Session, uri: str, target: str, manifest: Path | None) -> Fetched:
    try:
        repository, name, version = fetching.target_of(target)
        expected = None if manifest is None else _digests(manifest)
        with fetching.open_source(uri) as source:
            return fetching.place(
                source,
                repository,
                name,
                version,
                expected=expected,
                progress=session.progress.report,
            )
    except fetching.FetchError as error:
        raise Unusable(str(error)) from None


def _digests(manifest: Path) -> dict[str, str]:
    """Digests by path, as sha256sum writes them, of files relative to the model's folder."""
    try:
        lines = manifest.read_text().splitlines()
    except (OSError, ValueError) as error:
        raise Unusable(f"{manifest}: {error}") from None
    found = {}
    for number, line in enumerate(lines, 1):
        match = _DIGEST.fullmatch(line)
        if match is None:
            raise Unusable(f"{manifest}:{number}: expected `SHA256  FILE`, found {line[:80]!r}")
        found[match[2]] = match[1]
    return found


@command("fetch")
@click.argument("uri")
@click.argument("target", metavar="REPOSITORY/NAME[/VERSION]")
@click.option(
    "--sha256",
    "manifest",
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file of sha256sum, run in the model's folder: what must be fetched.",
)
def fetch(session: Session, uri: str, target: str, manifest: Path | None) -> None:
    """Fetch a SavedModel into a model repository: whole and checked, or not at all.

    URI: a folder, s3://, gs://, az://, models:/NAME/VERSION or models:/NAME@ALIAS, runs:/RUN/PATH.
    Without a VERSION it becomes the next one. Prints the lines for a list of allowed models.
    """
    done = _fetched(session, uri, target, manifest)
    if session.as_json:
        output.document(
            {
                "model": done.name,
                "version": done.version,
                "path": str(done.path),
                "bytes": done.nbytes,
                "sha256": dict(done.digests),
            }
        )
        return
    output.line(f"{done.path}: {len(done.digests)} files, {output.size(done.nbytes)}")
    output.echo(done.manifest(), newline=False)


@command("follow", follows=True)
@click.argument("uri")
@click.argument("target", metavar="REPOSITORY/NAME")
@click.option("--label", default="stable", metavar="LABEL", help="What is to mean it. [stable]")
@click.option("--every", default=30.0, type=click.FloatRange(min=1), help="Seconds. [30]")
@click.option("--count", default=0, type=click.IntRange(min=0), help="End after so many versions.")
def follow(session: Session, uri: str, target: str, label: str, every: float, count: int) -> None:
    """Load what an alias of MLflow moves to, or the newest version in a folder of versions.

    URI: models:/NAME@ALIAS, a folder, s3://, gs:// or az://. A version keeps its number. It goes
    into the service that has this repository. Needs AdminService (--admin-server).
    """
    if uri.startswith("models:") and not re.fullmatch(r"models:/[^/@]+@[^/@]+", uri):
        raise Unusable(f"{uri}: expected models:/NAME@ALIAS")
    try:
        fetching.check_installed(uri)
    except fetching.FetchError as error:
        raise Unusable(str(error)) from None
    loaded, last, said = 0, None, ""
    while True:
        try:
            version, place = fetching.newest_version(uri)
            if version != last:
                repository, name, _ = fetching.target_of(target)
                if not (repository / name / str(version)).exists():
                    _fetched(session, place, f"{target}/{version}", None)
                header = session.admin.load_model(name, version, label=label)
                output.line(f"{uri} is version {version}: loaded as {header.model}")
                last, loaded, said = version, loaded + 1, ""
        except (fetching.FetchError, Unusable, varserve.VarserveError) as error:
            # A registry or service that is away for a moment is asked again; said once.
            if str(error) != said:
                said = str(error)
                output.note(f"{said}; trying again every {every:g} seconds")
        if count and loaded >= count:
            return
        time.sleep(every)


COMMANDS = (fetch, follow)
