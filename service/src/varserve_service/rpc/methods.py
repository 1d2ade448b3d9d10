"""The table of methods: one row for each RPC that the service answers.

A row has everything that is particular to a method: its verb, what it requires of the caller, the
bounds of its repeated fields, and its handler. What the table does not have is answered to nobody.
"""

from __future__ import annotations

from typing import Final

from varserve import frames
from varserve.v1 import admin_service_pb2, model_service_pb2
from varserve_service.access.policy import Verb

from .authorization import requirements
from .calls.method import Method
from .decoding import MAX_FIELDS
from .facades import open_inference, tensorflow_serving
from .row import Row
from .services import admin, discovery, history, inspection, leases, reads, runs, writes

MODEL_SERVICE = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]
ADMIN_SERVICE = admin_service_pb2.DESCRIPTOR.services_by_name["AdminService"]

# As many items as a model has variables; the handler knows how many that is.
_ITEMS: Final = 10 * MAX_FIELDS
# Arguments of a function; the handler knows how many it has.
_ARGUMENTS: Final = 10_000
_PATTERNS: Final = history.MAX_PATTERNS

METHODS: Final = (
    Row.of(
        MODEL_SERVICE,
        "ListModels",
        Verb.LIST,
        requirements.list_models,
        discovery.list_models,
    ),
    Row.of(
        MODEL_SERVICE,
        "GetModel",
        Verb.LIST,
        requirements.get_model,
        discovery.get_model,
    ),
    Row.of(
        MODEL_SERVICE,
        "ReadVariable",
        Verb.READ,
        requirements.read_variable,
        reads.read_variable,
    ),
    Row.of(
        MODEL_SERVICE,
        "ReadVariables",
        Verb.READ,
        requirements.read_variables,
        reads.read_variables,
        bounds={"reads": _ITEMS},
    ),
    Row.of(
        MODEL_SERVICE,
        "SummarizeVariables",
        Verb.SUMMARIZE,
        requirements.summarize_variables,
        reads.summarize_variables,
        bounds={"selections": _ITEMS},
    ),
    Row.of(
        MODEL_SERVICE,
        "AssignVariable",
        Verb.ASSIGN,
        requirements.assign_variable,
        writes.assign_variable,
    ),
    Row.of(
        MODEL_SERVICE,
        "AssignVariables",
        Verb.ASSIGN,
        requirements.assign_variables,
        writes.assign_variables,
        opening=frames.assign_variables_request,
        bounds={"entries": _ITEMS},
    ),
    Row.of(
        MODEL_SERVICE,
        "RunFunction",
        Verb.RUN,
        requirements.run_function,
        runs.run_function,
        bounds={"inputs": _ARGUMENTS, "constants": _ARGUMENTS, "outputs": _ARGUMENTS},
    ),
    Row.of(
        MODEL_SERVICE,
        "StreamRunFunction",
        Verb.RUN,
        requirements.stream_run_function,
        runs.stream_run_function,
        opening=frames.stream_run_function_request,
        bounds={"inputs": _ARGUMENTS, "constants": _ARGUMENTS, "outputs": _ARGUMENTS},
    ),
    Row.of(
        MODEL_SERVICE,
        "ListTensors",
        Verb.INSPECT,
        requirements.list_tensors,
        inspection.list_tensors,
        bounds={"patterns": inspection.MAX_NAMES},
    ),
    Row.of(
        MODEL_SERVICE,
        "InspectFunction",
        Verb.INSPECT,
        requirements.inspect_function,
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
    Row.of(
        MODEL_SERVICE,
        "WatchVariables",
        Verb.WATCH,
        requirements.watch,
        history.watch_variables,
        bounds={"patterns": _PATTERNS},
    ),
    Row.of(
        MODEL_SERVICE,
        "ListCommits",
        Verb.LIST,
        requirements.watch,
        history.list_commits,
        bounds={"patterns": _PATTERNS},
    ),
    Row.of(
        MODEL_SERVICE,
        "RevertCommits",
        Verb.ASSIGN,
        requirements.revert_commits,
        writes.revert_commits,
        bounds={"variables": _ITEMS},
    ),
    # Done at once, on the event loop. Were it refused, a lease would end because others are busy.
    Row.of(
        MODEL_SERVICE,
        "RenewLease",
        Verb.ASSIGN,
        requirements.renew_lease,
        leases.renew_lease,
        always_admitted=True,
    ),
    Row.of(
        MODEL_SERVICE,
        "RevokeLease",
        Verb.ASSIGN,
        requirements.revoke_lease,
        leases.revoke_lease,
    ),
    Row.of(
        ADMIN_SERVICE,
        "LoadModel",
        Verb.ADMIN,
        requirements.load_model,
        admin.load_model,
    ),
    Row.of(
        ADMIN_SERVICE,
        "UnloadModel",
        Verb.ADMIN,
        requirements.unload_model,
        admin.unload_model,
    ),
    Row.of(
        ADMIN_SERVICE,
        "SaveModel",
        Verb.ADMIN,
        requirements.save_model,
        admin.save_model,
    ),
    Row.of(
        ADMIN_SERVICE,
        "ListVersions",
        Verb.ADMIN,
        requirements.list_versions,
        admin.list_versions,
    ),
)


FACADES: Final = {"oip": open_inference.ROWS, "tfs": tensorflow_serving.ROWS}
"""The rows of foreign protocols, by the names that the operator turns them on with."""


def methods() -> list[Method]:
    """All methods of the table."""
    return [row.method for row in METHODS]
