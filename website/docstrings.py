"""How docstrings and signatures of the client are shown in its reference."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ARGUMENT = re.compile(r"^((?:[a-z]\w*)(?:, [a-z]\w*)*): ", re.MULTILINE)


class Shown(griffe.Extension):
    """Arguments that a docstring explains become a list, and `Op[Commit]` is shown as `Commit`.

    An operation is run by the client, or awaited: its caller gets what it returns. What
    `@options_of` makes takes the options as keywords. Which driver a handle has, the types of
    `varserve` and `varserve.aio` differ in alone: it is not shown.
    """

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = _listed(obj.docstring.value)

    def on_function(self, *, func: griffe.Function, **_: Any) -> None:
        if any(str(each.value).startswith("options_of(") for each in func.decorators):
            func.parameters["options"].kind = griffe.ParameterKind.var_keyword
        returns = func.returns
        if isinstance(returns, griffe.ExprSubscript) and str(returns.left) == "Op":
            func.returns = returns.slice
        func.returns = _without_driver(func.returns)
        for parameter in func.parameters:
            parameter.annotation = _without_driver(parameter.annotation)

    def on_attribute(self, *, attr: griffe.Attribute, **_: Any) -> None:
        attr.annotation = _without_driver(attr.annotation)


def _without_driver(annotation: Any) -> Any:
    """`Watch[D_co]` and `Client[Sync]` as `Watch` and `Client`."""
    if isinstance(annotation, griffe.ExprSubscript):
        if str(annotation.slice) in ("D_co", "Sync", "Async"):
            return annotation.left
        annotation.slice = _without_driver(annotation.slice)
    elif isinstance(annotation, griffe.ExprTuple):
        annotation.elements = [_without_driver(each) for each in annotation.elements]
    elif isinstance(annotation, griffe.ExprBinOp):
        annotation.left = _without_driver(annotation.left)
        annotation.right = _without_driver(annotation.right)
    return annotation


def _listed(text: str) -> str:
    lines: list[str] = []
    for line in text.split("\n"):
        match = _ARGUMENT.match(line)
        if match and (not lines or not lines[-1].strip() or _is_of_list(lines[-1])):
            if lines and lines[-1].strip() and not _is_of_list(lines[-1]):
                lines.append("")
            names = ", ".join(f"`{name}`" for name in match[1].split(", "))
            lines.append(f"- {names}: {line[match.end() :]}")
        else:
            lines.append(line)
    return "\n".join(lines)


def _is_of_list(line: str) -> bool:
    return line.startswith(("- `", "    "))
