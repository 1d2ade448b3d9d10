"""Packages that give names of their modules, and import each module with the first name of it.

A program that imports varserve is not kept waiting for what it does not use. Type checkers read the
same names from imports under `TYPE_CHECKING`; tests compare the two.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def homes_of(modules: Mapping[str, str]) -> dict[str, str]:
    """The module of each name. `modules`: by module, its names with blanks between them."""
    return {name: module for module, names in modules.items() for name in names.split()}


def attributes(package: str, modules: Mapping[str, str]) -> Callable[[str], Any]:
    """The `__getattr__` of a package. `modules`: relative to it, as of `homes_of`."""
    homes = homes_of(modules)

    def attribute(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        value = getattr(import_module(homes[name], package), name)
        setattr(sys.modules[package], name, value)
        return value

    return attribute
