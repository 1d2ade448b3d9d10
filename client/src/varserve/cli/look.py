"""Commands that look: models, what is in one, values, their summaries, and the history."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from . import output, records
from .common import (
    REVISION,
    at_revision_option,
    command,
    complete,
    header_of,
    model_argument,
    patterns_argument,
    selected,
    variable_argument,
)
from .late import late
from .session import Session

if TYPE_CHECKING:
    from varserve import tensors
    from varserve._client import errors, wording
    from varserve._client.values import names as matching

    from . import values
else:
    errors = late("varserve._client.errors")
    wording = late("varserve._client.wording")
    matching = late("varserve._client.values.names")
    tensors = late("varserve.tensors")
    values = late("varserve.cli.values")


# More of what is not served is told by its number: a Keras export has a copy of each variable.
_SHOWN_OMISSIONS = 3
# That a service may take to tell its version.
_VERSION_SECONDS = 5.0


@command("models")
def models(session: Session) -> None:
    """List the models that are served."""
    served = session.client.models()
    if session.as_json:
        output.document({"models": records.documents(records.MODELS, served)})
    elif served:
        records.table(records.MODELS, served)
    else:
        output.note("no model is served")


@command("ls")
@model_argument
@patterns_argument
@click.option("--trainable", is_flag=True, help="Only variables that are trained.")
@click.option("--functions", "functions_only", is_flag=True, help="Only functions.")
def ls(
    session: Session,
    model: str,
    patterns: tuple[str, ...],
    trainable: bool,
    functions_only: bool,
) -> None:
    """List a model's variables and functions.

    PATTERN is a name or path, `*` for any characters; only variables that fit one are listed then.
    """
    served = session.model(model)
    names = {name: each.path for name, each in served.variables.items()}
    wanted = matching.names_matching(patterns, names) if patterns else list(names)
    variables = [served.variables[name].spec for name in wanted]
    if functions_only or trainable:
        variables = [each for each in variables if each.trainable and not functions_only]
    functions = [] if patterns or trainable else [each.spec for each in served.functions.values()]
    omissions = () if patterns or trainable or functions_only else served.omissions
    told: dict[str, tuple[records.Description, Sequence[Any]]] = {
        "variables": (records.VARIABLES, variables),
        "functions": (records.FUNCTIONS, functions),
        "omissions": (records.OMISSIONS, omissions),
    }
    if session.as_json:
        found_documents = {key: records.documents(*each) for key, each in told.items()}
        output.document({**header_of(served), **found_documents})
        return
    told["omissions"] = records.OMISSIONS, omissions[:_SHOWN_OMISSIONS]
    for fields, each in told.values():
        records.table(fields, each)
    more = len(omissions) - _SHOWN_OMISSIONS
    if more > 0:
        output.line(f"{more} more are not served; `varserve ls {served.name} --json` lists them")


# More than this is shown by its beginning.
_SHOWN_BYTES = 4 << 20


@command("describe")
@model_argument
@click.argument("name", required=False, shell_complete=complete("variable"))
def describe(session: Session, model: str, name: str | None) -> None:
    """Tell all about a model, or about one variable or function of it."""
    served = session.model(model)
    fields: records.Description
    record: Any
    if name is None:
        (record,) = (each for each in session.client.models() if each.name == served.name)
        fields = records.MODELS
    elif name in served.variables or name not in served.functions:
        fields, record = records.VARIABLES, served.variables[name].spec
    else:
        fields, record = records.FUNCTIONS, served.functions[name].spec
    if session.as_json:
        output.document({**header_of(served), **records.document(fields, record)})
        return
    shown = [(key, output.plain(str(value))) for key, value in _told(fields, record)]
    output.table(["", ""], shown)


def _told(fields: records.Description, record: Any) -> Iterator[tuple[str, object]]:
    for each in fields:
        value = each.shown(record)
        if each.key == "overloads":
            for overload in record.overloads:
                yield "overload", overload
                yield "  reads", wording.listed(overload.reads) or "nothing"
                yield "  writes", wording.listed(overload.writes) or "nothing"
        elif each.key and value not in ("", []):
            yield each.key, wording.listed(map(str, value)) if isinstance(value, list) else value


@command("version")
def version(session: Session) -> None:
    """Tell the versions of the command line, of what it stands on, and of the service."""
    import platform
    from importlib import metadata

    names = ("varserve", "grpcio", "protobuf", "numpy")
    versions = {each: metadata.version(each) for each in names} | {
        "python": platform.python_version()
    }
    try:
        versions["service"] = session.client.service_version(timeout=_VERSION_SECONDS)
    except errors.VarserveError as error:
        output.note(f"the service does not tell its version: {error}")
    if session.as_json:
        output.document(versions)
    else:
        output.table(["", ""], list(versions.items()))


@command("read")
@model_argument
@variable_argument
@click.option("--stats", is_flag=True, help="Statistics and a histogram beside the value.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the value to FILE.npy, .json or .safetensors instead of showing it.",
)
@at_revision_option
def read(
    session: Session,
    model: str,
    variable: str,
    stats: bool,
    out: Path | None,
    at_revision: int | None,
) -> None:
    """Read a variable or a part of it.

    VARIABLE may end with a part as numpy has them: `kernel[0:3,:]`; `table[[2,5]]` for rows.
    """
    if out is not None:
        values.check_file(out)
    served = session.model(model)
    name, part = values.split_part(variable, served.variables)
    spec = served.variables[name].spec
    beginning = part is None and spec.nbytes > _SHOWN_BYTES and not (session.as_json or out)
    if beginning and spec.shape is not None:
        # A person sees a few elements of it: these are read, and no more.
        part = tuple(slice(0, 3) for _ in spec.shape)
    snapshot = served.read({name: part}, at_revision=at_revision, timeout=session.timeout)
    value = snapshot[name]
    summary = None
    if stats:
        # At the revision of the value, also after later writes.
        summary = served.summaries(
            {name: part}, bins=20, at_revision=snapshot.revision, timeout=session.timeout
        )[name]
    if out is not None:
        values.write_values(out, {served.variables[name].name: value})
    if session.as_json:
        output.document(
            {
                **header_of(snapshot.header),
                "variable": served.variables[name].name,
                "region": values.part_text(part),
                "variable_revision": snapshot.revisions[name],
                "dtype": tensors.dtype_name(value.dtype),
                "shape": list(value.shape),
                **(
                    {}
                    if summary is None
                    else {"summary": records.document(records.SUMMARIES, summary)}
                ),
                **({"file": str(out)} if out is not None else {"value": output.jsonable(value)}),
            }
        )
        return
    output.line(
        f"{variable}  {output.typed(value.dtype, value.shape)}  revision {snapshot.revision}"
        f" (written at {snapshot.revisions[name]})"
    )
    if beginning:
        output.line(
            f"the beginning of {output.size(spec.nbytes)}; `varserve summary {model} {name}` "
            "describes all of it, --out FILE writes it"
        )
    if out is None:
        output.echo("\n".join(output.plain(line) for line in output.shown(value).split("\n")))
    else:
        output.line(f"written to {out}")
    if summary is not None:
        records.block(records.SUMMARIES, summary)


@command("summary")
@model_argument
@patterns_argument
@click.option(
    "--bins",
    type=click.IntRange(0, 4096),
    default=16,
    show_default=True,
    help="Of each histogram; 0 for none.",
)
@click.option(
    "--range",
    "bounds",
    type=float,
    nargs=2,
    metavar="LOW HIGH",
    help="The histograms' outer edges. [the least and the largest element]",
)
@click.option("--hash/--no-hash", "content_hash", default=True, help="The content's SHA-256.")
@at_revision_option
def summary(
    session: Session,
    model: str,
    patterns: tuple[str, ...],
    bins: int,
    bounds: tuple[float, float] | None,
    content_hash: bool,
    at_revision: int | None,
) -> None:
    """Statistics, histograms and hashes of variables, without reading them.

    PATTERN is a name or path, `*` for any characters, or one variable with a part: `kernel[0]`.
    """
    served = session.model(model)
    if len(patterns) == 1 and not _fits_any(served, patterns[0]):
        name, part = values.split_part(patterns[0], served.variables)
        wanted: Any = {name: part} if part is not None else list(patterns)
    else:
        wanted = selected(served, patterns)
    summaries = served.summaries(
        wanted,
        bins=bins,
        range=bounds,
        content_hash=content_hash,
        at_revision=at_revision,
        timeout=session.timeout,
    )
    if session.as_json:
        told = {name: records.document(records.SUMMARIES, each) for name, each in summaries.items()}
        output.document({**header_of(summaries.header), "summaries": told})
    elif len(summaries) == 1:
        records.block(records.SUMMARIES, next(iter(summaries.values())))
    else:
        records.table(records.SUMMARIES, summaries.values())


def _fits_any(model: Any, pattern: str) -> bool:
    """Whether the text is a name, a path or a pattern that fits one: `a[0]` may be all of these."""
    import fnmatch

    keys = [key for name, each in model.variables.items() for key in (name, each.path)]
    return pattern in keys or any(fnmatch.fnmatchcase(key, pattern) for key in keys)


@command("history")
@model_argument
@patterns_argument
@click.option(
    "--limit",
    "-n",
    type=click.IntRange(1, 1000),
    default=20,
    show_default=True,
    help="The most commits to list.",
)
@click.option("--before", type=REVISION, metavar="N", help="Only commits before this revision.")
def history(
    session: Session, model: str, patterns: tuple[str, ...], limit: int, before: int | None
) -> None:
    """List the last commits: who changed what, when and why."""
    commits = session.client.list_commits(
        model, patterns, limit=limit, before=before, timeout=session.timeout
    )
    if session.as_json:
        output.document(
            {
                **header_of(commits.header),
                "oldest_revision": commits.oldest_revision,
                "commits": records.documents(records.COMMITS, commits),
            }
        )
    elif commits:
        records.table(records.COMMITS, commits)
    else:
        output.note(f"no commit of {model} is kept" + (" that fits" if patterns else ""))


COMMANDS = (models, ls, describe, read, summary, history, version)
