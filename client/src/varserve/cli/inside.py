"""Commands that look inside functions: their inner tensors, and one run of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import varserve

from . import output, records
from .common import (
    at_revision_option,
    command,
    function_argument,
    header_of,
    inputs_argument,
    model_argument,
    pairs,
)
from .exits import Unusable
from .late import late
from .output import Column
from .session import Session

if TYPE_CHECKING:
    import numpy as np

    from varserve import FunctionMessage, Inspection, NonFinite, Summary, tensors

    from . import values
else:
    np = late("numpy")
    tensors = late("varserve.tensors")
    values = late("varserve.cli.values")


@command("tensors")
@model_argument
@function_argument
@click.argument("patterns", nargs=-1, metavar="[PATTERN]...")
@click.option("--overload", type=click.IntRange(0), default=0, help="Which overload, from 0. [0]")
def list_tensors(
    session: Session, model: str, function: str, patterns: tuple[str, ...], overload: int
) -> None:
    """List the tensors in the middle of a function, in an order of computation.

    PATTERN is a name, or has `*` for any characters: `model_1/conv2d*`.
    """
    found = session.model(model).functions[function]
    listed = found.tensors(*patterns, overload=overload, timeout=session.timeout)
    if session.as_json:
        told = records.documents(records.INNER_TENSORS, listed)
        output.document({**header_of(listed.header), "tensors": told})
    else:
        records.table(records.INNER_TENSORS, listed)


@command("inspect")
@model_argument
@function_argument
@inputs_argument
@click.option("--probe", multiple=True, metavar="PATTERN", help="Inner tensors to give.")
@click.option(
    "--bins",
    type=click.IntRange(0, 4096),
    default=16,
    show_default=True,
    help="Of each probe's histogram; 0 for none.",
)
@click.option(
    "--values", "values_wanted", is_flag=True, help="Give the probes' values instead of summaries."
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write outputs, probes and gradients to FILE.npz or .safetensors.",
)
@click.option(
    "--patch",
    multiple=True,
    metavar="NAME=WHAT",
    help="Replace an inner tensor by `zero`, a multiple of it (`*0.5`) or a VALUE.",
)
@click.option(
    "--assume", multiple=True, metavar="NAME=VALUE", help="A variable's value for this run alone."
)
@at_revision_option
@click.option("--find-non-finite", is_flag=True, help="Find the first number that is not finite.")
@click.option("--gradients-of", default="", metavar="OUTPUT", help="Differentiate its sum.")
@click.option(
    "--wrt", multiple=True, metavar="NAME", help="With respect to this input, variable or tensor."
)
@click.option("--profile", is_flag=True, help="Tell how long each operation takes.")
@click.option(
    "--on-assert",
    type=click.Choice(["fail", "continue"]),
    default="fail",
    show_default=True,
    help="What a failed assertion does.",
)
@click.option("--open-xla", is_flag=True, help="Look into what XLA compiles.")
def inspect(
    session: Session,
    model: str,
    function: str,
    inputs: tuple[str, ...],
    probe: tuple[str, ...],
    bins: int,
    values_wanted: bool,
    out: Path | None,
    patch: tuple[str, ...],
    assume: tuple[str, ...],
    at_revision: int | None,
    find_non_finite: bool,
    gradients_of: str,
    wrt: tuple[str, ...],
    profile: bool,
    on_assert: str,
    open_xla: bool,
) -> None:
    """Run a function once and see what happens inside. Nothing is changed.

    VALUE is JSON (`0.5`, `[1, 2]`) or @FILE, of .npy, .json or .safetensors.
    """
    if out is not None:
        values.check_file(out)
    found = session.model(model).functions[function]
    try:
        seen = found.inspect(
            {name: values.read_value(text) for name, text in pairs("input", inputs)},
            probe=probe,
            summarize=None if values_wanted or out is not None else bins,
            patch={name: _patch(text) for name, text in pairs("--patch", patch)},
            assume={name: values.read_value(text) for name, text in pairs("--assume", assume)},
            at_revision=at_revision,
            find_non_finite=find_non_finite,
            gradients_of=gradients_of,
            wrt=wrt,
            profile=profile,
            on_assert=on_assert,
            open_xla=open_xla,
            timeout=session.timeout,
        )
    except varserve.VarserveError as error:
        if not session.as_json:
            for message in error.messages:
                output.line(_said(message))
        raise
    if out is not None:
        values.write_values(out, dict(_arrays(seen)))
    if session.as_json:
        output.document(_document(seen, out))
    else:
        _show(seen, out)


def _patch(text: str) -> Any:
    if text == "zero":
        return varserve.zero()
    if text.startswith("*"):
        try:
            return varserve.scale(float(text[1:]))
        except ValueError:
            raise Unusable(f"--patch: expected a number after *, found {text[1:]!r}") from None
    return values.read_value(text)


def _each(seen: Inspection) -> Iterator[tuple[str, str, tuple[int, ...], Any]]:
    """Kind, name, iteration and content of all that has a value or a summary."""
    for name, array in seen.outputs.items():
        yield "output", name, (), array
    for kind, found in (("probe", seen.probes), ("gradient", seen.gradients)):
        for name, content in found.items():
            if isinstance(content, varserve.Iterations):
                for iteration, each in zip(content.iterations, content, strict=True):
                    yield kind, name, iteration, each
            else:
                yield kind, name, (), content


def _arrays(seen: Inspection) -> Iterator[tuple[str, Any]]:
    """What is written to a file, by `kind/name`, in loops with the iteration after `@`."""
    for kind, name, iteration, content in _each(seen):
        if isinstance(content, np.ndarray):
            at = f"@{','.join(map(str, iteration))}" if iteration else ""
            yield f"{kind}/{name}{at}", content


def _document(seen: Inspection, out: Path | None) -> dict[str, Any]:
    told: dict[str, list[dict[str, Any]]] = {"outputs": [], "probes": [], "gradients": []}
    for kind, name, iteration, content in _each(seen):
        record: dict[str, Any] = {"name": name, "iteration": list(iteration)}
        if isinstance(content, varserve.Summary):
            record["summary"] = records.document(records.SUMMARIES, content)
        elif content is not None:
            record |= {
                "dtype": tensors.dtype_name(content.dtype),
                "shape": list(content.shape),
            }
            if out is None:
                record["value"] = output.jsonable(content)
        told[f"{kind}s"].append(record)
    first = seen.first_non_finite
    return {
        **header_of(seen.header),
        **told,
        "not_run": list(seen.not_run),
        "messages": records.documents(records.MESSAGES, seen.messages),
        "first_non_finite": None if first is None else records.document(records.NON_FINITE, first),
        "profile": records.documents(records.TIMES, seen.profile),
        "notes": list(seen.notes),
        "file": None if out is None else str(out),
    }


def _show(seen: Inspection, out: Path | None) -> None:
    output.line(f"revision {seen.revision}")
    for message in seen.messages:
        output.line(_said(message))
    summaries = []
    for kind, name, iteration, content in _each(seen):
        if isinstance(content, varserve.Summary):
            summaries.append((name, iteration, content))
            continue
        head = f"{kind} {name}{_iterations(iteration)}"
        if content is None:
            output.line(f"{head}  the output does not depend on it")
            continue
        output.line(f"{head}  {output.typed(content.dtype, content.shape)}")
        if out is None:
            lines = output.shown(content).split("\n")
            output.echo("\n".join(output.plain(line) for line in lines))
    _show_summaries(summaries)
    for name in seen.not_run:
        output.line(
            f"probe {name}  not run: its branch was not taken, or its loop had no iteration"
        )
    if seen.first_non_finite is not None:
        output.line(_first(seen.first_non_finite))
    records.table(records.TIMES, sorted(seen.profile, key=lambda each: -each.seconds))
    for note in seen.notes:
        output.line(note)
    if out is not None:
        output.line(f"written to {out}")


def _show_summaries(found: list[tuple[str, tuple[int, ...], Summary]]) -> None:
    output.table(
        (
            Column("probe"),
            Column("type", drop=1),
            Column("min", right=True),
            Column("max", right=True),
            Column("mean", right=True),
            Column("std", right=True, drop=2),
            Column("not finite", right=True, drop=3),
            Column("histogram", drop=4),
        ),
        [
            (
                f"{name}{_iterations(iteration)}",
                output.typed(summary.dtype, summary.shape),
                output.number(summary.min),
                output.number(summary.max),
                output.number(summary.mean),
                output.number(summary.standard_deviation),
                summary.nans + summary.infinities or "",
                "" if summary.histogram is None else str(summary.histogram),
            )
            for name, iteration, summary in found
        ],
    )


def _iterations(iteration: tuple[int, ...]) -> str:
    return f" [{', '.join(map(str, iteration))}]" if iteration else ""


def _said(message: FunctionMessage) -> str:
    return f"{message.kind}{_iterations(message.iteration)}: {message}"


def _first(found: NonFinite) -> str:
    counts = [
        f"{count} {what}"
        for count, what in (
            (found.nans, "NaN"),
            (found.positive_infinities, "+inf"),
            (found.negative_infinities, "-inf"),
        )
        if count
    ]
    where = f"{found.name}{_iterations(found.iteration)} ({found.op})"
    return f"not finite first in {where}: {', '.join(counts)}"


COMMANDS = (list_tensors, inspect)
