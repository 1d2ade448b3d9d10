"""Commits in PostgreSQL, which several replicas of a service share.

Knows the core's port of a shared journal, psycopg, and the records that the journal on disk keeps,
too. docs/decisions/0010-many-replicas-one-log.md has the reasons.
"""

from .state import PostgresState

__all__ = ["PostgresState"]
