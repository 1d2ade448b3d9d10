"""How docstrings and signatures of the client are shown in its reference."""

from __future__ import annotations

import re
from typing import Any

import griffe

_ARGUMENT = re.compile(r"^((?:[a-z]\w*)(?:, [a-z]\w*)*): ", re.MULTILINE)


class Shown(griffe.Extension):
    """Arguments that a docstring explains become a list, and `Op[Commit]` is shown as `Commit`.

    An operation is run by the client, or awaited: its caller gets what it returns. What
    `@options_of` makes takes the options as keywords.
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
