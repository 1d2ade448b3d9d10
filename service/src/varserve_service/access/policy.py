"""The decision: whether a subject may apply a verb to something of a model.

Owns the rules and a cache of decisions. Knows the standard library alone.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Verb(StrEnum):
    """What can be allowed."""

    LIST = "list"
    READ = "read"
    SUMMARIZE = "summarize"
    ASSIGN = "assign"
    RUN = "run"
    INSPECT = "inspect"
    WATCH = "watch"
    ADMIN = "admin"


class Kind(StrEnum):
    """What can be named."""

    MODEL = "model"
    VARIABLE = "variable"
    FUNCTION = "function"


KINDS: dict[Verb, frozenset[Kind]] = {
    Verb.LIST: frozenset({Kind.MODEL, Kind.VARIABLE, Kind.FUNCTION}),
    Verb.READ: frozenset({Kind.VARIABLE}),
    Verb.SUMMARIZE: frozenset({Kind.VARIABLE}),
    Verb.ASSIGN: frozenset({Kind.VARIABLE}),
    Verb.WATCH: frozenset({Kind.VARIABLE}),
    Verb.RUN: frozenset({Kind.FUNCTION}),
    Verb.INSPECT: frozenset({Kind.FUNCTION}),
    Verb.ADMIN: frozenset({Kind.MODEL}),
}
"""What each verb is about."""

# Decisions that are remembered. Only of things that exist, so callers cannot make it grow.
_MAX_DECISIONS = 200_000

_Matches = Callable[[str], object]


def matcher(patterns: Sequence[str]) -> _Matches:
    """Matches whole names that fit one of the patterns.

    `*` stands for any characters, `/` too, `?` for one, `[ab]` for one of several.
    """
    if not patterns:
        return lambda name: None
    # \A and \Z are in what fnmatch makes; a name with a line break in it is one name.
    return re.compile("|".join(map(fnmatch.translate, patterns))).match


@dataclass(frozen=True, slots=True)
class Rule:
    """Allows some subjects some verbs on what fits the patterns."""

    subjects: Sequence[str]
    verbs: frozenset[Verb]
    models: Sequence[str]
    variables: Sequence[str] = ()
    functions: Sequence[str] = ()


class _Rule:
    def __init__(self, rule: Rule) -> None:
        self.subjects = matcher(rule.subjects)
        self.verbs = rule.verbs
        self.models = matcher(rule.models)
        self.things: dict[Kind, _Matches] = {
            Kind.MODEL: lambda name: True,
            Kind.VARIABLE: matcher(rule.variables),
            Kind.FUNCTION: matcher(rule.functions),
        }


class Policy:
    """Rules that allow. Whatever no rule allows is denied."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = [_Rule(rule) for rule in rules]
        self._decided: dict[tuple[str, Verb, str, Kind, str], bool] = {}
        self._known: dict[tuple[str, str], bool] = {}

    def allows(self, subject: str, verb: Verb, model: str, kind: Kind, name: str = "") -> bool:
        """Whether the subject may, by the names under which model and thing are listed.

        Kind.MODEL asks of the model itself and takes no `name`.
        """
        key = (subject, verb, model, kind, name)
        allowed = self._decided.get(key)
        if allowed is None:
            if len(self._decided) >= _MAX_DECISIONS:
                self._decided.clear()
            allowed = self._decided[key] = self.decide(subject, verb, model, kind, name)
        return allowed

    def knows(self, subject: str, model: str) -> bool:
        """Whether the subject has any verb on anything of a model that exists."""
        known = self._known.get((subject, model))
        if known is None:
            if len(self._known) >= _MAX_DECISIONS:
                self._known.clear()
            known = self._known[subject, model] = self.would_know(subject, model)
        return known

    def grants(self, subject: str, verb: Verb) -> bool:
        """Whether a rule gives the subject this verb on anything, whether it exists or not."""
        return any(verb in rule.verbs and rule.subjects(subject) for rule in self._rules)

    def would_know(self, subject: str, model: str) -> bool:
        """The same without the cache: for names that a caller made up."""
        return any(rule.subjects(subject) and rule.models(model) for rule in self._rules)

    def decide(self, subject: str, verb: Verb, model: str, kind: Kind, name: str = "") -> bool:
        """The same without the cache: for names that a caller made up."""
        return kind in KINDS[verb] and any(
            verb in rule.verbs
            and rule.subjects(subject)
            and rule.models(model)
            and rule.things[kind](name)
            for rule in self._rules
        )
