"""What each RPC is, in the words of limits and policies: one verb of a few.

Knows the names of the contract's methods and nothing else.
"""

from __future__ import annotations

from typing import Final

LIST: Final = "list"
READ: Final = "read"
SUMMARIZE: Final = "summarize"
ASSIGN: Final = "assign"
RUN: Final = "run"
WATCH: Final = "watch"
ADMIN: Final = "admin"

VERBS: Final = (LIST, READ, SUMMARIZE, ASSIGN, RUN, WATCH, ADMIN)

VERB_OF_METHOD: Final[dict[str, str]] = {
    "ListModels": LIST,
    "GetModel": LIST,
    "ReadVariable": READ,
    "ReadVariables": READ,
    "SummarizeVariables": SUMMARIZE,
    "AssignVariable": ASSIGN,
    "AssignVariables": ASSIGN,
    "RunFunction": RUN,
    "StreamRunFunction": RUN,
    "WatchVariables": WATCH,
    "ListCommits": LIST,
    "RevertCommits": ASSIGN,
    "RenewLease": ASSIGN,
    "RevokeLease": ASSIGN,
    "LoadModel": ADMIN,
    "UnloadModel": ADMIN,
    "SaveModel": ADMIN,
    "ListVersions": ADMIN,
}
"""By the method's name; a test holds it against the contract."""
