"""What the audit log may say of one call; filled in as the call goes on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True, eq=False)
class AuditRecord:
    """A call that may leave a line.

    `fields` identify the call, `names` are what it named, `details` what else of the request is
    recorded. `writes`: the call leaves a line also when it succeeds. `written`: the line of its
    commit has been written.
    """

    fields: dict[str, Any]
    names: dict[str, Any] = field(default_factory=dict)
    details: dict[str, Any] = field(default_factory=dict)
    writes: bool = False
    written: bool = False
