"""Which models there are, what one has, and whether it is ready."""

from __future__ import annotations

import itertools

from varserve._client import errors
from varserve._client.transport.attempts import attempt
from varserve._client.transport.calls import Budget, Call, Method, Op, Sleep
from varserve._client.transport.retries import Backoff
from varserve._client.values import specs
from varserve._client.values.specs import ModelSpec, ModelSummary
from varserve.v1 import model_service_pb2 as pb

from .methods import Scope, method
from .requests import build

LIST_MODELS = method("ListModels")
GET_MODEL = method("GetModel")
# How often a description is begun anew while models are replaced.
_DESCRIPTIONS = 5
CHECK_HEALTH = Method("/grpc.health.v1.Health/Check", "Check", bytes)

_SERVING = b"\x08\x01"  # grpc.health.v1.HealthCheckResponse(status=SERVING)
_POLL = Backoff(0.05, 0.2)


def list_models(budget: Budget) -> Op[list[ModelSummary]]:
    """ListModels."""
    reply = yield from attempt(Call(LIST_MODELS, pb.ListModelsRequest(), budget))
    return [specs.summary(each) for each in reply.models]


def service_version(budget: Budget) -> Op[str]:
    """ListModels, for the version of who answers."""
    reply = yield from attempt(Call(LIST_MODELS, pb.ListModelsRequest(), budget))
    version: str = reply.service_version
    return version


def get_model(scope: Scope) -> Op[ModelSpec]:
    """GetModel: all pages of it, anew when the model is replaced between two of them."""
    for attempts_left in reversed(range(_DESCRIPTIONS)):
        try:
            spec = specs.model((yield from _pages(scope)))
        except errors.EpochMismatch:
            if not attempts_left:
                raise
        else:
            scope.seen.learn(scope.model, spec.header)
            return spec
    raise AssertionError("the last attempt answers or raises")


def _pages(scope: Scope) -> Op[pb.GetModelResponse]:
    model, budget, consistency = scope.model, scope.budget, scope.consistency()
    request = build(pb.GetModelRequest, model=model, consistency=consistency)
    whole: pb.GetModelResponse = yield from attempt(Call(GET_MODEL, request, budget))
    while whole.next_page_token:
        request = build(
            pb.GetModelRequest,
            model=model,
            page_token=whole.next_page_token,
            consistency=consistency,
        )
        page = yield from attempt(Call(GET_MODEL, request, budget))
        whole.variables.extend(page.variables)
        whole.functions.extend(page.functions)
        whole.omissions.extend(page.omissions)
        whole.next_page_token = page.next_page_token
    return whole


def wait_ready(service: str, budget: Budget) -> Op[None]:
    """Asks grpc.health.v1 until it says SERVING. `service`: a model's name, or "" for all."""
    # On the wire HealthCheckRequest is the same: one string, field 1. No package needed for it.
    request = build(pb.GetModelRequest, model=service)
    state = "no answer"
    for failures in itertools.count():
        try:
            answer = yield Call(CHECK_HEALTH, request, budget)
            if answer == _SERVING:
                return
            state = "it answers that it is not serving"
        except errors.NotFound:
            raise errors.ModelNotFound(f"the service knows no model {service!r}") from None
        except errors.Unavailable as error:
            state = str(error)
        except errors.DeadlineExceeded:
            pass
        delay = _POLL.delay(failures)
        if budget.remaining() <= delay:
            raise errors.DeadlineExceeded(f"not ready within {budget.timeout:g} s: {state}")
        yield Sleep(delay)
