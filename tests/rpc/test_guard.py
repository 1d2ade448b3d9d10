"""Who may do what, over the wire: every role, method, model and name against a list by hand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from typing import Any

import grpc
import numpy as np
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from tests.rpc.requests import number, rows, tensor
from tests.rpc.roles import (
    FUNCTIONS,
    POLICY,
    ROLES,
    SAID,
    SAID_FUNCTIONS,
    VARIABLE_VERBS,
    VARIABLES,
    Caller,
    alpha,
    assigned,
    beta,
    functions,
    names,
    on_all,
    on_function,
    on_model,
    on_some,
    on_variable,
    on_variables,
    one,
    run_stream,
)
from tests.rpc.test_identity import Claimed
from tests.rpc.wire import ROWS, outcome_of
from tests.serving import serve_here
from varserve.v1 import history_pb2
from varserve.v1 import model_service_pb2 as pb
from varserve_service.access.policy import Verb
from varserve_service.access.policy_file import read_policy
from varserve_service.core.errors import Reason, RequestError
from varserve_service.core.model import naming
from varserve_service.core.model.registry import Models, ModelState
from varserve_service.rpc import Access
from varserve_service.rpc.authorization.guard import Guard
from varserve_service.rpc.authorization.requirements import (
    Arguments,
    Requirements,
    RequireModel,
    RequireRun,
    RequireVariables,
)
from varserve_service.rpc.calls.permissions import CallerPermissions


@pytest.fixture(scope="module")
def call() -> Iterator[Callable[[str], Caller]]:
    policy = read_policy(POLICY)
    access = Access(authenticator=Claimed(), policy=lambda: policy)
    with (
        serve_here(alpha(), beta(), access=access) as address,
        grpc.insecure_channel(address) as channel,
    ):
        yield lambda role: Caller(channel, role)


ON_VARIABLES = {
    "ReadVariable": "read",
    "ReadVariables": "read",
    "SummarizeVariables": "summarize",
    "AssignVariable": "assign",
    "AssignVariables": "assign",
    "RevertCommits": "assign",
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("method", ON_VARIABLES)
def test_every_name_of_a_variable(call: Callable[[str], Caller], method: str, role: str) -> None:
    """A variable is read and written by who may, by whatever name, and is not there for others."""
    for model, said in product(VARIABLES, SAID):
        expected = on_variable(role, ON_VARIABLES[method], model, said)
        if method == "SummarizeVariables" and expected == "OK":
            expected = on_variable(role, "read", model, said)  # three elements are few
        for _ in range(2):  # a second read is answered without running anything
            found = call(role).reason(method, *one(method, model, said))
            assert found == expected, (role, method, model, said)


@pytest.mark.parametrize("role", ROLES)
def test_one_variable_too_many(call: Callable[[str], Caller], role: str) -> None:
    """Of several variables that are named, each counts, wherever it stands."""
    for model, first, second in product(["alpha", "beta"], SAID, SAID):
        reads = pb.ReadVariablesRequest(
            model=model, reads=[{"variable": first, "region": rows(0)}, {"variable": second}]
        )
        expected = on_variables(role, "read", model, first, second)
        assert call(role).reason("ReadVariables", reads) == expected, (role, model, first, second)
        expected = on_variables(role, "assign", model, first, second)
        found = call(role).reason("AssignVariables", *assigned(model, first, second))
        assert found == expected, (role, model, first, second)


@pytest.mark.parametrize("role", ROLES)
def test_reading_back_is_reading(call: Callable[[str], Caller], role: str) -> None:
    """A write that asks for the value afterwards needs both verbs."""
    for model, said in product(VARIABLES, SAID):
        request = pb.AssignVariableRequest(
            model=model, variable=said, value=tensor(), read_back=True
        )
        expected = on_variable(role, "assign", model, said)
        if expected == "OK":
            expected = on_variable(role, "read", model, said)
        assert call(role).reason("AssignVariable", request) == expected, (role, model, said)


@pytest.mark.parametrize("role", ROLES)
def test_a_summary_of_a_part_is_reading(call: Callable[[str], Caller], role: str) -> None:
    """What a region comes to may be one element: it needs both verbs."""
    for model, said in product(VARIABLES, SAID):
        selection = {"variable": said, "region": rows(0)}
        request = pb.SummarizeVariablesRequest(model=model, selections=[selection])
        expected = on_variable(role, "summarize", model, said)
        if expected == "OK":
            expected = on_variable(role, "read", model, said)
        assert call(role).reason("SummarizeVariables", request) == expected, (role, model, said)


@pytest.mark.parametrize("role", ROLES)
def test_every_function(call: Callable[[str], Caller], role: str) -> None:
    """A function is run by who may run it, and may assign all that it writes."""
    for model, said in product(VARIABLES, SAID_FUNCTIONS):
        expected = on_function(role, model, said)
        request = pb.RunFunctionRequest(model=model, function=said, inputs={"n": number(1)})
        assert call(role).reason("RunFunction", request) == expected, (role, model, said)
        found = call(role).reason("StreamRunFunction", *run_stream(model, said))
        assert found == expected, (role, model, said)


@pytest.mark.parametrize("role", ROLES)
def test_what_is_shown(call: Callable[[str], Caller], role: str) -> None:
    """Models, variables and functions are shown to who may know of them, and counted so."""
    caller = call(role)
    listing = "OK" if role in ("boss", "reader", "watcher", "team-a") else "PERMISSION_DENIED"
    assert caller.reason("ListModels", pb.ListModelsRequest()) == listing
    listed = {}
    if listing == "OK":
        models = caller.answer("ListModels", pb.ListModelsRequest()).models
        listed = {summary.header.model: summary for summary in models}
    for model in VARIABLES:
        lists = role in ("boss", "watcher") or (role, model) in (
            ("reader", "alpha"),
            ("team-a", "beta"),
        )
        expected = on_model(role, model) if lists else "PERMISSION_DENIED"
        request = pb.GetModelRequest(model=model)
        assert caller.reason("GetModel", request) == expected, (role, model)
        if expected != "OK":
            assert model not in listed
            continue
        found = caller.answer("GetModel", request)
        seen = names(role, "list", model) & set(VARIABLES[model])
        shown = {each.name if each.name != "twin" else each.path for each in found.variables}
        assert shown == seen
        known = functions(role, model) & set(FUNCTIONS[model]) if role == "boss" else set()
        assert {each.name for each in found.functions} == known
        # The policy has no word for what is not served.
        everything = role == "boss" and model == "alpha"
        assert [each.path for each in found.omissions] == (["left/out"] if everything else [])
        for summary in (found.summary, listed[model]):
            assert (summary.variable_count, summary.variable_bytes) == (len(seen), 12 * len(seen))


@pytest.mark.parametrize("role", ROLES)
def test_history_is_what_may_be_watched(call: Callable[[str], Caller], role: str) -> None:
    """Watches and lists of commits tell of what the caller may watch, and of nothing else."""
    boss = call("boss")
    for said in ("head/bias", "secret"):
        boss.answer("AssignVariable", *one("AssignVariable", "alpha", said))
    boss.answer("AssignVariables", *assigned("alpha", "head/bias", "secret"))
    for model in VARIABLES:
        expected = on_some(role, "watch", model)
        listing = history_pb2.ListCommitsRequest(model=model, max_commits=1000)
        watching = history_pb2.WatchVariablesRequest(model=model)
        assert call(role).reason("ListCommits", listing) == expected, (role, model)
        assert call(role).reason("WatchVariables", watching) == expected, (role, model)
        if expected != "OK" or model != "alpha":
            continue
        seen = names(role, "watch", model) & set(VARIABLES[model])
        told = [set(each.variables) for each in call(role).answer("ListCommits", listing).commits]
        assert all(told)
        assert set().union(*told) <= seen
        both = {"head/bias", "secret"} & seen
        assert told[0] == both
        assert call(role).answer("ListCommits", listing).commits[0].variable_count == len(both)
        # A pattern that fits only what is hidden fits nothing.
        for pattern in ("head/bias", "secret", "layers*", "head/9", "zzz"):
            fits = {
                label
                for label, called in VARIABLES["alpha"].items()
                if any(c == pattern or c.startswith(pattern.rstrip("*")) for c in called)
                and label in seen
            }
            request = history_pb2.ListCommitsRequest(model=model, patterns=[pattern])
            expected = "OK" if fits else "VARIABLE_NOT_FOUND"
            assert call(role).reason("ListCommits", request) == expected, (role, pattern)


@pytest.mark.parametrize("role", ROLES)
def test_values_in_a_watch_are_read(call: Callable[[str], Caller], role: str) -> None:
    """A watch with values needs to read all that it selects, before or after the commit."""
    for model, values, previous in product(VARIABLES, [False, True], [False, True]):
        request = history_pb2.WatchVariablesRequest(
            model=model, values=values, previous_values=previous
        )
        expected = on_some(role, "watch", model)
        watched = names(role, "watch", model) & set(VARIABLES[model])
        if expected == "OK" and (values or previous) and not watched <= names(role, "read", model):
            expected = "PERMISSION_DENIED"
        assert call(role).reason("WatchVariables", request) == expected, (role, model)


@pytest.mark.parametrize("role", ROLES)
def test_reverting_everything_and_leases(call: Callable[[str], Caller], role: str) -> None:
    """To revert all variables or end a lease one may assign all that are concerned."""
    for model in VARIABLES:
        request = history_pb2.RevertCommitsRequest(model=model)
        assert call(role).reason("RevertCommits", request) == on_all(role, "assign", model)
    for said in ("head/bias", "secret"):
        write = pb.AssignVariableRequest(
            model="alpha", variable=said, value=tensor(), lease_seconds=1000
        )
        lease = call("boss").answer("AssignVariable", write).header.revision
        known = any(said in names(role, verb, "alpha") for verb in VARIABLE_VERBS)
        if said in names(role, "assign", "alpha"):
            expected = "OK"
        elif known or not names(role, "assign", "alpha"):
            expected = "PERMISSION_DENIED"
        else:
            expected = "LEASE_NOT_FOUND"  # like one that does not exist
        for method in ("RenewLease", "RevokeLease"):
            make = getattr(history_pb2, f"{method}Request")
            assert call(role).reason(method, make(model="alpha", lease=lease)) == expected
        none = history_pb2.RenewLeaseRequest(model="alpha", lease=10**6)
        found = on_some(role, "assign", "alpha")
        assert call(role).reason("RenewLease", none) == (
            "LEASE_NOT_FOUND" if found == "OK" else found
        )


@pytest.mark.parametrize("role", ROLES)
def test_a_name_of_two(call: Callable[[str], Caller], role: str) -> None:
    """That a name fits two variables, and which, is told to who may know of both."""
    request = pb.ReadVariableRequest(model="alpha", variable="twin")
    expected = {"boss": "NAME_AMBIGUOUS", "watcher": "NAME_AMBIGUOUS"}
    assert call(role).reason("ReadVariable", request) == expected.get(role, "PERMISSION_DENIED")


def test_what_is_hidden_is_as_what_is_not_there(call: Callable[[str], Caller]) -> None:
    """Refusals of hidden and of absent things differ in nothing but the name that was said."""

    def text(role: str, said: str, method: str = "ReadVariable", model: str = "alpha") -> str:
        with pytest.raises(grpc.RpcError) as caught:
            call(role).answer(method, *one(method, model, said))
        outcome = outcome_of(caught.value)
        assert outcome.failure is not None
        told = (outcome.reason, outcome.text, sorted(outcome.failure.metadata.items()))
        return str(told).replace(said, "NAME").replace(model, "MODEL")

    assert text("reader", "secret") == text("reader", "absent")
    assert text("reader", "head/9") == text("reader", "head/none")
    assert text("nobody", "secret") == text("nobody", "absent")
    assert text("reader", "head/bias", model="beta") == text("reader", "head/bias", model="gamma")
    for role in ("reader", "team-a"):
        assert "secret" not in text(role, "head/non")  # as a close name would


BOSS = CallerPermissions.of(lambda: read_policy(POLICY), "boss")


@pytest.mark.parametrize("method", ["AssignVariable", "AssignVariables", "RevertCommits"])
def test_a_request_id_is_its_subjects_own(call: Callable[[str], Caller], method: str) -> None:
    """What another subject wrote under the same id neither refuses a write nor answers for it."""

    def write(role: str, said: str) -> int:
        first, *rest = one(method, "alpha", said)
        target = first.manifest if method == "AssignVariables" else first
        target.request_id = f"the same of {method}"
        return call(role).answer(method, first, *rest).header.revision

    hidden = write("boss", "secret")  # of which the other may not even know
    assert write("boss", "secret") == hidden
    own = write("writer", "head/bias")
    assert own > hidden or method == "RevertCommits"
    assert write("writer", "head/bias") == own
    assert write("boss", "secret") == hidden


def test_no_close_names_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """On the event loop they would keep everybody waiting, and nobody would be told of them."""
    compared = []
    monkeypatch.setattr(
        naming.difflib, "get_close_matches", lambda *of, **how: compared.append(of) or []
    )
    live = alpha()
    guard = Guard(Models([live]))
    for method, request in [
        ("ReadVariable", pb.ReadVariableRequest(model="alpha", variable="secre")),
        ("RunFunction", pb.RunFunctionRequest(model="alpha", function="secre")),
    ]:
        requirements = ROWS[method].requirements(request)
        with pytest.raises(RequestError, match="has no"):
            guard.decide(requirements, BOSS)
        guard.decide(requirements, None)
    assert [names for _, names in compared if names] == []


def test_a_name_is_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """However often a request says it: the event loop has others to answer."""
    live, found = alpha(), []
    find = live.variable
    monkeypatch.setattr(live, "variable", lambda *of, **how: found.append(of) or find(*of, **how))
    reads = [{"variable": said} for said in ("secret", "head/bias") * 1000]
    request = pb.ReadVariablesRequest(model="alpha", reads=reads)
    Guard(Models([live])).decide(ROWS["ReadVariables"].requirements(request), BOSS)
    assert found == [("secret",), ("head/bias",)]


def test_what_is_asked_of_a_model_that_is_not_there_names_no_other() -> None:
    """Who may list names that fit is told that there is none; administration finds out itself."""
    policy = read_policy(
        b"rules: [{subjects: [ann], verbs: [list], models: ['a*'], variables: ['*']},"
        b"{subjects: [ann], verbs: [admin], models: ['a*']}]"
    )
    ann = CallerPermissions.of(lambda: policy, "ann")
    live = alpha()
    guard = Guard(Models([live, beta()]))

    def decide(verb: Verb, name: str) -> Any:
        return guard.decide(Requirements([RequireModel(verb, name)]), ann)

    assert decide(Verb.LIST, "alpha") == (live, False)
    assert decide(Verb.ADMIN, "alpha") == decide(Verb.ADMIN, "absent") == (None, False)
    with pytest.raises(RequestError) as caught:
        decide(Verb.LIST, "absent@stable")
    assert caught.value.reason is Reason.MODEL_NOT_FOUND
    assert caught.value.message == "no model 'absent@stable'"
    for verb in (Verb.LIST, Verb.ADMIN):
        with pytest.raises(RequestError) as caught:
            decide(verb, "beta")
        assert caught.value.reason is Reason.PERMISSION_DENIED


def test_a_call_has_all_that_its_request_requires() -> None:
    """One requirement after the other: the first that does not hold refuses it.

    The model is that of whichever names one, and it writes if any of them does.
    """
    live = alpha()
    guard = Guard(Models([live]))
    both = [RequireModel(Verb.ADMIN, "alpha"), RequireVariables(Verb.READ, "alpha", ["secret"])]
    for requirements in (both, both[::-1]):
        assert guard.decide(Requirements(requirements), BOSS) == (live, False)
    assert guard.decide(Requirements([]), BOSS) == (None, False)
    assert guard.decide(Requirements(both), None) == (None, False)


def test_a_run_writes_what_its_function_writes_where_there_is_no_policy() -> None:
    """What does not exist writes nothing: the handler refuses it."""
    live = alpha()
    guard = Guard(Models([live]))

    def writes(*runs: tuple[str, str]) -> bool:
        arguments: Arguments = ({"n": np.zeros((), np.int64)}, {})
        required = [RequireRun(model, function, lambda: arguments) for model, function in runs]
        return guard.decide(Requirements(required), None).writes

    assert [writes(("alpha", name)) for name in ("peek", "bump")] == [False, True]
    assert writes(("alpha", "peek"), ("alpha", "bump"))
    assert not writes(("absent", "bump"))
    assert not writes(("alpha", "absent"))


def test_health_is_open(call: Callable[[str], Caller]) -> None:
    """Health needs no name and no rule: any caller may ask for a model by its name."""
    policy = read_policy(b"rules: []")
    access = Access(authenticator=Claimed(), policy=lambda: policy)
    with (
        serve_here(alpha(), access=access, reflection=True) as address,
        grpc.insecure_channel(address) as channel,
    ):
        stub = health_pb2_grpc.HealthStub(channel)
        for service in ("", "alpha"):
            found = stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
            assert found.status == health_pb2.HealthCheckResponse.SERVING
        assert Caller(channel, "boss").reason("GetModel", pb.GetModelRequest(model="alpha")) == (
            "PERMISSION_DENIED"
        )


@pytest.mark.parametrize(
    ("role", "reason"), [("reader", "MODEL_NOT_READY"), ("stranger", "PERMISSION_DENIED")]
)
def test_a_model_that_is_being_loaded(role: str, reason: str) -> None:
    """Who may do something with it is told to wait; it is hidden from all others."""
    models, policy = Models(), read_policy(POLICY)
    models.note("alpha", 1, ModelState.LOADING)
    permissions = CallerPermissions.of(lambda: policy, role)
    request = pb.ReadVariableRequest(model="alpha", variable="head/bias")
    with pytest.raises(RequestError) as caught:
        Guard(models).decide(ROWS["ReadVariable"].requirements(request), permissions)
    assert caught.value.reason.value == reason
