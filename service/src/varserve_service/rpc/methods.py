"""The table of methods: one row for each RPC that the service answers.

A row has everything that is particular to a method: its verb, what it requires of the caller, the
bounds of its repeated fields, and its handler. What the table does not have is answered to nobody.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from varserve import frames
from varserve.v1 import admin_service_pb2, model_service_pb2
from varserve_service.access.policy import Verb

from .authorization import requirements as needs
from .calls.method import Method
from .decoding import MAX_FIELDS
from .facades import open_inference, tensorflow_serving
from .row import Row
from .services import (
    admin,
    discovery,
    history,
    inspection,
    leases,
    reads,
    runs,
    sessions,
    watch_sessions,
    writes,
)

MODEL_SERVICE = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]
ADMIN_SERVICE = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"]

# As many items as a model has variables; the handler knows how many that is.
_ITEMS: Final = 10 * MAX_FIELDS
# Arguments of a function; the handler knows how many it has.
_ARGUMENTS: Final = 10_000
_PATTERNS: Final = history.MAX_PATTERNS

_model = partial(Row.of, MODEL_SERVICE)
_admin = partial(Row.of, ADMIN_SERVICE)

METHODS: Final = (
    _model("ListModels", Verb.LIST, needs.list_models, discovery.list_models),
    _model("GetModel", Verb.LIST, needs.get_model, discovery.get_model),
    _model("ReadVariable", Verb.READ, needs.read_variable, reads.read_variable),
    _model(
        "ReadVariables",
        Verb.READ,
        needs.read_variables,
        reads.read_variables,
        bounds={"reads": _ITEMS},
    ),
    _model(
        "SummarizeVariables",
        Verb.SUMMARIZE,
        needs.summarize_variables,
        reads.summarize_variables,
        bounds={"selections": _ITEMS},
    ),
    _model("AssignVariable", Verb.ASSIGN, needs.assign_variable, writes.assign_variable),
    _model(
        "AssignVariables",
        Verb.ASSIGN,
        needs.assign_variables,
        writes.assign_variables,
        opening=frames.assign_variables_request,
        bounds={"entries": _ITEMS, "check_inputs": _ARGUMENTS},
    ),
    _model(
        "RunFunction",
        Verb.RUN,
        needs.run_function,
        runs.run_function,
        bounds={"inputs": _ARGUMENTS, "constants": _ARGUMENTS, "outputs": _ARGUMENTS},
    ),
    _model(
        "StreamRunFunction",
        Verb.RUN,
        needs.stream_run_function,
        runs.stream_run_function,
        opening=frames.stream_run_function_request,
        bounds={"inputs": _ARGUMENTS, "constants": _ARGUMENTS, "outputs": _ARGUMENTS},
    ),
    _model(
        "ListTensors",
        Verb.INSPECT,
        needs.list_tensors,
        inspection.list_tensors,
        bounds={"patterns": inspection.MAX_NAMES},
    ),
    _model(
        "InspectFunction",
        Verb.INSPECT,
        needs.inspect_function,
        inspection.inspect_function,
        opening=frames.inspect_function_request,
        bounds={
            "inputs": _ARGUMENTS,
            "constants": _ARGUMENTS,
            "assume": _ITEMS,
            "probes": inspection.MAX_NAMES,
            "patches": inspection.MAX_NAMES,
            "wrt": inspection.MAX_NAMES,
        },
    ),
    _model(
        "WatchVariables",
        Verb.WATCH,
        needs.watch,
        history.watch_variables,
        bounds={"patterns": _PATTERNS},
    ),
    _model(
        "ListCommits", Verb.LIST, needs.watch, history.list_commits, bounds={"patterns": _PATTERNS}
    ),
    _model(
        "RevertCommits",
        Verb.ASSIGN,
        needs.revert_commits,
        writes.revert_commits,
        bounds={"variables": _ITEMS},
    ),
    # Done at once, on the event loop. Were it refused, a lease would end because others are busy.
    _model("RenewLease", Verb.ASSIGN, needs.renew_lease, leases.renew_lease, always_admitted=True),
    _model("RevokeLease", Verb.ASSIGN, needs.revoke_lease, leases.revoke_lease),
    _model(
        "Session",
        Verb.WATCH,
        needs.session,
        sessions.session,
        bounds={"calls": sessions.MAX_IN_MESSAGE, "cancelled_ids": sessions.MAX_IN_MESSAGE},
    ),
    _model(
        "WatchSession",
        Verb.WATCH,
        needs.session,
        watch_sessions.watch_session,
        bounds=dict.fromkeys(("creates", "cancelled_ids", "taken"), watch_sessions.MAX_IN_MESSAGE),
    ),
    _admin("LoadModel", Verb.ADMIN, needs.load_model, admin.load_model),
    _admin("UnloadModel", Verb.ADMIN, needs.unload_model, admin.unload_model),
    _admin("SaveModel", Verb.ADMIN, needs.save_model, admin.save_model),
    _admin("ListVersions", Verb.ADMIN, needs.list_versions, admin.list_versions),
)


FACADES: Final = {"oip": open_inference.ROWS, "tfs": tensorflow_serving.ROWS}
"""The rows of foreign protocols, by the names that the operator turns them on with."""


def methods() -> list[Method]:
    """All methods of the table."""
    return [row.method for row in METHODS]
