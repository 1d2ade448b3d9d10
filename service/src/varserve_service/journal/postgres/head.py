"""The row of a model's version in the table of heads, and how rows of a model are found."""

from __future__ import annotations

from typing import Any

Key = tuple[str, int]
Head = tuple[Any, ...]
"""Of a model: epoch, revision, append, horizon, and the append at the horizon."""

OF_MODEL = "model = %s AND version = %s"
HEAD = (
    f"SELECT epoch, revision, append, horizon, horizon_append FROM varserve_head WHERE {OF_MODEL}"
)
LOCKED_HEAD = (
    "SELECT epoch, revision, append, horizon, horizon_append, xmin::text FROM varserve_head "
    f"WHERE {OF_MODEL} FOR NO KEY UPDATE"
)
"""With the stamp of the row: the transaction that wrote it last."""
