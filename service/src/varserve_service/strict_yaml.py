"""YAML in which no key is there twice. The standard loader takes the last one without a word."""

from __future__ import annotations

from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """Takes no key twice: the second would silently win."""

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.YAMLError(f"{key!r} is there twice,{node.start_mark}")
        return super().construct_mapping(node, deep)


def load_yaml(text: bytes) -> Any:
    """What YAML says, where no key is there twice. Raises yaml.YAMLError."""
    try:
        return yaml.load(text, _Loader)
    except (yaml.YAMLError, ValueError, RecursionError, TypeError) as error:
        raise yaml.YAMLError(f"no YAML: {error}") from None
