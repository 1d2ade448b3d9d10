"""Commands that look: models, what is in one, values, their summaries, and the history."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from varserve import FunctionSpec, ListedCommit, Summary, tensors
from varserve._client.values.names import names_matching

from . import output
from .common import (
    REVISION,
    at_revision_option,
    command,
    header_of,
    model_argument,
    patterns_argument,
    selected,
    variable_argument,
)
from .session import Session
from .values import part_text, split_part, write_values


@command("models")
def models(session: Session) -> None:
    """List the models that are served."""
    found = session.client.models()
    if session.as_json:
        output.document(
            {
                "models": [
                    {
                        "name": each.name,
                        "version": each.version,
                        "epoch": each.epoch,
                        "revision": each.revision,
                        "state": str(each.state),
                        "device": each.device,
                        "variables": each.variable_count,
                        "bytes": each.variable_bytes,
                    }
                    for each in found
                ]
            }
        )
        return
    output.table(
        ["model", ">version", "state", ">revision", "device", ">variables", ">size"],
        [
            (
                each.name,
                each.version,
                each.state,
                each.revision,
                each.device,
                each.variable_count,
                output.size(each.variable_bytes),
            )
            for each in found
        ],
    )


@command("ls")
@model_argument
@patterns_argument
def ls(session: Session, model: str, patterns: tuple[str, ...]) -> None:
    """List a model's variables and functions.

    PATTERN is a name or path, `*` for any characters; only variables that fit one are listed then.
    """
    found = session.model(model)
    names = {name: each.path for name, each in found.variables.items()}
    wanted = names_matching(patterns, names) if patterns else list(names)
    specs = {name: found.variables[name].spec for name in wanted}
    functions = [] if patterns else [each.spec for each in found.functions.values()]
    omissions = () if patterns else found.omissions
    if session.as_json:
        output.document(
            {
                **header_of(found),
                "variables": [
                    {
                        "name": each.name,
                        "path": each.path,
                        "dtype": tensors.dtype_name(each.dtype),
                        "shape": None if each.shape is None else list(each.shape),
                        "trainable": each.trainable,
                        "device": each.device,
                        "initialized": each.initialized,
                        "bytes": each.nbytes,
                        "revision": each.revision,
                    }
                    for each in specs.values()
                ],
                "functions": [_function(each) for each in functions],
                "omissions": [
                    {"kind": str(each.kind), "path": each.path, "reason": each.reason}
                    for each in omissions
                ],
            }
        )
        return
    output.table(
        ["variable", "type", ">size", ">revision", "device"],
        [
            (
                name,
                output.typed(each.dtype, each.shape),
                output.size(each.nbytes) if each.nbytes else "",
                each.revision if each.initialized else "no value",
                each.device,
            )
            for name, each in specs.items()
        ],
    )
    output.table(
        ["function", "inputs and outputs", "writes"],
        [
            (each.name if not number else "", str(overload), ", ".join(overload.writes))
            for each in functions
            for number, overload in enumerate(each.overloads)
        ],
    )
    if omissions:
        output.table(
            ["not served", "kind", "reason"],
            [(each.path, each.kind, each.reason) for each in omissions],
        )


def _function(spec: FunctionSpec) -> dict[str, Any]:
    return {
        "name": spec.name,
        "path": spec.path,
        "kind": str(spec.kind),
        "overloads": [
            {
                "inputs": [str(each) for each in overload.inputs],
                "outputs": [f"{each.name}: {each.tensor}" for each in overload.outputs],
                "reads": list(overload.reads),
                "writes": list(overload.writes),
                "changes_other_state": overload.changes_other_state,
            }
            for overload in spec.overloads
        ],
    }


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
    found = session.model(model)
    name, part = split_part(variable, found.variables)
    snapshot = found.read({name: part}, at_revision=at_revision, timeout=session.timeout)
    value = snapshot[name]
    summary = None
    if stats:
        # Of the value that was read, also when somebody has written since.
        summary = found.summaries(
            {name: part}, bins=20, at_revision=snapshot.revision, timeout=session.timeout
        )[name]
    if out is not None:
        write_values(out, {found.variables[name].name: value})
    if session.as_json:
        output.document(
            {
                **header_of(snapshot.header),
                "variable": found.variables[name].name,
                "region": part_text(part),
                "variable_revision": snapshot.revisions[name],
                "dtype": tensors.dtype_name(value.dtype),
                "shape": list(value.shape),
                **({} if summary is None else {"summary": summary_of(summary)}),
                **({"file": str(out)} if out is not None else {"value": output.jsonable(value)}),
            }
        )
        return
    output.line(
        f"{variable}  {output.typed(value.dtype, value.shape)}  revision {snapshot.revision}"
        f" (written at {snapshot.revisions[name]})"
    )
    if out is None:
        click.echo("\n".join(output.plain(line) for line in output.shown(value).split("\n")))
    else:
        output.line(f"written to {out}")
    if summary is not None:
        _show(summary)


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
    found = session.model(model)
    if len(patterns) == 1 and not _fits_any(found, patterns[0]):
        name, part = split_part(patterns[0], found.variables)
        wanted: Any = {name: part} if part is not None else list(patterns)
    else:
        wanted = selected(found, patterns)
    summaries = found.summaries(
        wanted,
        bins=bins,
        range=bounds,
        content_hash=content_hash,
        at_revision=at_revision,
        timeout=session.timeout,
    )
    if session.as_json:
        output.document(
            {
                **header_of(summaries.header),
                "summaries": {name: summary_of(each) for name, each in summaries.items()},
            }
        )
        return
    if len(summaries) == 1:
        _show(next(iter(summaries.values())))
        return
    output.table(
        [
            "variable",
            "type",
            ">min",
            ">max",
            ">mean",
            ">std",
            ">norm",
            ">zeros",
            ">NaN",
            ">inf",
            *(["histogram"] if bins else []),
            *(["hash"] if content_hash else []),
        ],
        [
            (
                name,
                output.typed(each.dtype, each.shape),
                *(output.number(n) for n in (each.min, each.max, each.mean)),
                *(output.number(n) for n in (each.standard_deviation, each.norm)),
                each.zeros,
                each.nans,
                each.infinities,
                *([f"|{each.histogram}|"] if bins else []),
                *([each.content_hash[:12]] if content_hash else []),
            )
            for name, each in summaries.items()
        ],
    )


def _fits_any(model: Any, pattern: str) -> bool:
    """Whether the text is a name, a path or a pattern that fits one: `a[0]` may be all of these."""
    import fnmatch

    keys = [key for name, each in model.variables.items() for key in (name, each.path)]
    return pattern in keys or any(fnmatch.fnmatchcase(key, pattern) for key in keys)


def summary_of(each: Summary) -> dict[str, Any]:
    """A summary as JSON has it."""
    histogram = None
    if each.histogram is not None:
        histogram = {
            "edges": output.jsonable(each.histogram.edges),
            "counts": each.histogram.counts.tolist(),
            "below": each.histogram.below,
            "above": each.histogram.above,
        }
    return {
        "variable": each.variable,
        "variable_revision": each.variable_revision,
        "dtype": tensors.dtype_name(each.dtype),
        "shape": list(each.shape),
        "bytes": each.nbytes,
        "count": each.count,
        "nans": each.nans,
        "infinities": each.infinities,
        "zeros": each.zeros,
        "min": each.min,
        "max": each.max,
        "mean": output.jsonable(each.mean),
        "standard_deviation": output.jsonable(each.standard_deviation),
        "norm": output.jsonable(each.norm),
        "histogram": histogram,
        "content_hash": each.content_hash or None,
    }


def _show(each: Summary) -> None:
    rows: list[tuple[str, object]] = [
        ("variable", each.variable),
        ("type", output.typed(each.dtype, each.shape)),
        ("count", each.count),
        ("min", output.number(each.min)),
        ("max", output.number(each.max)),
        ("mean", output.number(each.mean)),
        ("std", output.number(each.standard_deviation)),
        ("norm", output.number(each.norm)),
        ("zeros", each.zeros),
        ("NaN", each.nans),
        ("inf", each.infinities),
    ]
    if each.histogram is not None:
        low, high = each.histogram.edges[0], each.histogram.edges[-1]
        rows.append(("histogram", f"{low:.6g} |{each.histogram}| {high:.6g}"))
    if each.content_hash:
        rows.append(("hash", each.content_hash))
    output.table(["", ""], rows)


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
    found = session.client.list_commits(
        model, patterns, limit=limit, before=before, timeout=session.timeout
    )
    if session.as_json:
        output.document(
            {
                **header_of(found.header),
                "oldest_revision": found.oldest_revision,
                "commits": [_commit(each) for each in found],
            }
        )
        return
    output.table(
        [">revision", "time", "kind", "who", "variables", ">size", "message"],
        [
            (
                each.revision,
                f"{each.info.time.astimezone():%Y-%m-%d %H:%M:%S}",
                each.info.kind,
                each.info.subject,
                names_of(each),
                output.size(each.nbytes),
                each.info.message,
            )
            for each in found
        ],
    )


def names_of(commit: ListedCommit) -> str:
    """A few of the names that a commit changed."""
    shown = ", ".join(commit.variables[:3])
    more = commit.variable_count - min(3, len(commit.variables))
    return f"{shown} and {more} more" if more else shown


def _commit(each: ListedCommit) -> dict[str, Any]:
    return {
        "revision": each.revision,
        "time": each.info.time.isoformat(),
        "kind": str(each.info.kind),
        "subject": each.info.subject,
        "message": each.info.message,
        "request_id": each.info.request_id,
        "variables": list(each.variables),
        "variable_count": each.variable_count,
        "bytes": each.nbytes,
    }


COMMANDS = (models, ls, read, summary, history)
