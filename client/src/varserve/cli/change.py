"""Commands that change: assign, run, revert."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import varserve

from . import output, records
from .common import (
    REVISION,
    check_finite,
    command,
    committed,
    function_argument,
    header_of,
    if_revision_option,
    inputs_argument,
    message_option,
    model_argument,
    non_finite_option,
    pairs,
    variable_argument,
)
from .exits import Unusable
from .late import late
from .session import Session

if TYPE_CHECKING:
    from varserve import tensors

    from . import values
else:
    tensors = late("varserve.tensors")
    values = late("varserve.cli.values")


@command("assign", writes=True)
@model_argument
@variable_argument
@click.argument("value")
@click.option("--add", "operation", flag_value="add", help="Add VALUE.")
@click.option("--sub", "operation", flag_value="sub", help="Subtract VALUE.")
@click.option("--cast", is_flag=True, help="Make an array of a file one of the variable's dtype.")
@non_finite_option
@click.option(
    "--if-revision",
    type=REVISION,
    metavar="N",
    help="Only if the variable's last write was at this revision.",
)
@message_option
def assign(
    session: Session,
    model: str,
    variable: str,
    value: str,
    operation: str | None,
    cast: bool,
    allow_non_finite: bool,
    if_revision: int | None,
    message: str,
) -> None:
    """Set a variable or a part of it, add to it or subtract from it, as one commit.

    VARIABLE may end with a part: `kernel[0:3,:]`; `table[[2,5]]` for rows. VALUE is JSON
    (`0.5`, `[1, 2]`) or @FILE, of .npy, .json or .safetensors.
    """
    served = session.model(model)
    name, part = values.split_part(variable, served.variables)
    target = served.variables[name]
    array = values.read_value(value, tensors.dtype_name(target.dtype), cast=cast)
    if target.dtype.kind != "O":
        check_finite(target.name, array, allow_non_finite)
    options: dict[str, Any] = {"message": message, "timeout": session.timeout}
    if isinstance(part, varserve.Rows):
        if if_revision is not None:
            raise Unusable("--if-revision is not for lists of rows")
        scatter = {
            None: target.scatter_update,
            "add": target.scatter_add,
            "sub": target.scatter_sub,
        }[operation]
        commit = scatter(part.indices, array, **options)
    else:
        of: Any = target if part is None else target[part]
        write = {None: of.assign, "add": of.assign_add, "sub": of.assign_sub}[operation]
        commit = write(array, if_revision_match=if_revision, **options)
    committed(session, commit, variable=target.name)


@command("run", writes=True)
@model_argument
@function_argument
@inputs_argument
@click.option(
    "--out",
    "out",
    multiple=True,
    metavar="[NAME=]FILE",
    help="Write one output to FILE.npy, .json, .npz or .safetensors; without NAME all of them.",
)
@click.option("--messages", is_flag=True, help="Give the lines that the function prints.")
@if_revision_option
@message_option
def run(
    session: Session,
    model: str,
    function: str,
    inputs: tuple[str, ...],
    out: tuple[str, ...],
    messages: bool,
    if_revision: int | None,
    message: str,
) -> None:
    """Run a function. A function that writes makes a commit.

    VALUE is JSON (`0.5`, `[1, 2]`) or @FILE, of .npy, .json or .safetensors.
    """
    handle = session.model(model).functions[function]
    _check_outputs(out, {each.name for overload in handle.overloads for each in overload.outputs})
    outputs = handle.call(
        {name: values.read_value(text) for name, text in pairs("input", inputs)},
        messages=messages,
        if_revision_match=if_revision,
        message=message,
        timeout=session.timeout,
    )
    files = {}
    for each in out:
        name, equals, path = each.partition("=")
        if not equals:
            name, path = "", each
        elif name not in outputs:  # of another overload
            raise Unusable(
                f"revision {outputs.revision}: there is no output {name!r}; "
                f"expected one of: {', '.join(outputs) or 'none'}"
            )
        values.write_values(Path(path), {name: outputs[name]} if name else outputs)
        files[name or "*"] = path
    if session.as_json:
        told = {
            name: {
                "dtype": tensors.dtype_name(array.dtype),
                "shape": list(array.shape),
                **({} if out else {"value": output.jsonable(array)}),
            }
            for name, array in outputs.items()
        }
        said = {"messages": records.documents(records.MESSAGES, outputs.messages)}
        output.document(
            {
                **header_of(outputs.header),
                "outputs": told,
                "files": files,
                **(said if messages else {}),
            }
        )
        return
    output.line(f"revision {outputs.revision}")
    for said_line in outputs.messages:
        output.line(str(said_line))
    for name, array in outputs.items():
        output.line(f"{name}  {output.typed(array.dtype, array.shape)}")
        if not out:
            output.echo("\n".join(output.plain(line) for line in output.shown(array).split("\n")))
    for path in files.values():
        output.line(f"written to {path}")


def _check_outputs(out: tuple[str, ...], known: Collection[str]) -> None:
    """Raises Unusable for what would be found out when the function has run, and maybe written."""
    for each in out:
        name, equals, path = each.partition("=") if "=" in each else ("", "", each)
        if equals and name not in known:
            expected = ", ".join(sorted(known)) or "none"
            raise Unusable(f"there is no output {name!r}; expected one of: {expected}")
        values.check_file(Path(path))


@command("revert", writes=True)
@model_argument
@click.argument("revision", type=REVISION)
@click.argument("variables", nargs=-1, metavar="[VARIABLE]...")
@if_revision_option
@message_option
def revert(
    session: Session,
    model: str,
    revision: int,
    variables: tuple[str, ...],
    if_revision: int | None,
    message: str,
) -> None:
    """Give variables the values that they had at a revision, as one new commit.

    Without VARIABLE: all that were written since.
    """
    commit = session.model(model).revert(
        revision,
        variables,
        if_revision_match=if_revision,
        message=message,
        timeout=session.timeout,
    )
    committed(session, commit, to_revision=revision)


COMMANDS = (assign, run, revert)
