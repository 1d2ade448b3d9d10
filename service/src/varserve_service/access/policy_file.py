"""The policy as an operator writes it: a YAML file, accepted whole or refused whole.

Knows pydantic and YAML; the meaning of rules is in `policy`.
"""

from __future__ import annotations

from typing import Annotated, Any, Self

import pydantic
import yaml
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from varserve_service.strict_yaml import load_yaml

from .policy import KINDS, Kind, Policy, Rule, Verb

_Pattern = Annotated[str, StringConstraints(strict=True, min_length=1, max_length=1024)]
_Patterns = tuple[_Pattern, ...]


class PolicyError(ValueError):
    """A policy file is wrong. The message is for the operator and lists every mistake."""


class _Rule(BaseModel):
    model_config = ConfigDict(extra="forbid")

    subjects: _Patterns = Field(min_length=1)
    verbs: frozenset[Verb] = Field(min_length=1)
    models: _Patterns = Field(min_length=1)
    variables: _Patterns = ()
    functions: _Patterns = ()

    @model_validator(mode="after")
    def _every_pattern_and_verb_counts(self) -> Self:
        about = frozenset().union(*(KINDS[verb] for verb in self.verbs))
        for kind, patterns in ((Kind.VARIABLE, self.variables), (Kind.FUNCTION, self.functions)):
            if patterns and kind not in about:
                raise ValueError(
                    f"expected verbs that are about {kind}s beside `{kind}s`, "
                    f"found {', '.join(sorted(self.verbs))}"
                )
            if not patterns and (
                wanting := sorted(verb for verb in self.verbs if KINDS[verb] == {kind})
            ):
                raise ValueError(f"expected `{kind}s` beside {', '.join(wanting)}, found none")
        return self


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    rules: tuple[_Rule, ...]


def read_policy(text: bytes) -> Policy:
    """The policy in a file's bytes. Raises PolicyError."""
    try:
        file = _File.model_validate(load_yaml(text))
    except yaml.YAMLError as error:
        raise PolicyError(str(error)) from None
    except pydantic.ValidationError as error:
        raise PolicyError("; ".join(map(told, error.errors()))) from None
    return Policy(
        [
            Rule(rule.subjects, rule.verbs, rule.models, rule.variables, rule.functions)
            for rule in file.rules
        ]
    )


def told(problem: Any, *, show: bool = True) -> str:
    """One of pydantic's problems, for the operator. `show`: with the start of the wrong value."""
    where = ".".join(str(part) for part in problem["loc"]) or "the file"
    message = str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "value_error" or not show:
        return f"{where}: {message}"
    return f"{where}: {message}, found {problem['input']!r:.100}"
