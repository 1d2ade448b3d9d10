"""The reference of the Python client: a section for each public name, from its docstring."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

_SECTIONS = {
    "Connecting": ("_client.connect", "_client.transport.credentials", "_client.transport.traces"),
    "The client and its models": ("_client.client", "_client.handles.models"),
    "Variables": ("_client.handles.variables", "_client.values.regions", "_client.handles.leases"),
    "Functions": (
        "_client.handles.functions",
        "_client.values.arguments",
        "_client.values.function_messages",
        "_client.values.inspections",
    ),
    "Several values at once": (
        "_client.handles.transactions",
        "_client.values.writes",
        "_client.values.assign_operation",
    ),
    "Watching": ("_client.handles.watches",),
    "Administration": ("_client.admin", "_client.values.enums"),
    "What calls return": (
        "_client.values.results",
        "_client.values.specs",
        "_client.values.summaries",
        "_client.values.differences",
    ),
    "Errors": ("_client.errors",),
}

_INTRODUCTION = """# Python reference

Everything is in `varserve`; `varserve.aio` has the same names, with `await`.
[The Python client](client.md) is the introduction.
"""


def reference(package: Path) -> str:
    """Markdown with a directive for each name that `varserve` exports."""
    exported = _exported((package / "_public.py").read_text())
    known = {module for modules in _SECTIONS.values() for module in modules}
    sections = _SECTIONS | {"More": tuple(module for module in exported if module not in known)}
    return "\n".join([_INTRODUCTION, *_written(sections, exported)])


def _written(sections: dict[str, tuple[str, ...]], exported: dict[str, list[str]]) -> Iterator[str]:
    for title, modules in sections.items():
        if not any(module in exported for module in modules):
            continue
        yield f"## {title}\n"
        for module in modules:
            for name in exported.get(module, []):
                yield f"::: varserve.{module}.{name}"
                options = _options(module, name)
                if options:
                    yield "    options:"
                    yield from (f"      {key}: {value}" for key, value in options.items())
                yield ""


def _options(module: str, name: str) -> dict[str, str]:
    """What is shown of a name besides what is shown of all."""
    # Errors have the members of their base; what connections make of options is their own.
    if (module == "_client.errors" and name != "VarserveError") or name == "ConnectOptions":
        return {"members": "false", "inherited_members": "false"}
    # Handles are given by methods: how they are made, and of what, is their own.
    if module.startswith("_client.handles.") or module in ("_client.client", "_client.admin"):
        return {
            "merge_init_into_class": "false",
            "filters": '["!^_[^_]", "!^__init__$"]',
            "show_bases": "false",
        }
    return {}


def _exported(source: str) -> dict[str, list[str]]:
    """Names by the module that they come from."""
    found: dict[str, list[str]] = {}
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom) and node.level:
            found.setdefault(node.module or "", []).extend(each.name for each in node.names)
    return found
