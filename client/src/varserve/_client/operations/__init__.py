"""One description for each RPC: how its request is built, its answer read, when it is repeated.

The drivers run them; the handles and the client's flat methods put them together. Values come
prepared (contract dtype, C order), and parts resolved.
"""

from .commits import WatchMessage, event, list_commits, watch_request
from .methods import Scope
from .models import get_model, list_models, service_version, wait_ready
from .reads import read_variable, read_variables, summarize_variables
from .runs import run_function, stream_run_function
from .writes import (
    assign_variable,
    assign_variables,
    renew_lease,
    revert_commits,
    revoke_lease,
)

__all__ = [
    "Scope",
    "WatchMessage",
    "assign_variable",
    "assign_variables",
    "event",
    "get_model",
    "list_commits",
    "list_models",
    "read_variable",
    "read_variables",
    "renew_lease",
    "revert_commits",
    "revoke_lease",
    "run_function",
    "service_version",
    "stream_run_function",
    "summarize_variables",
    "wait_ready",
    "watch_request",
]
