"""A gRPC server whose answers a test writes itself, for what a good service never does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias

import grpc

from varserve import frames, reasons
from varserve.v1 import model_pb2
from varserve.v1 import model_service_pb2 as pb

Answer: TypeAlias = Callable[[list[bytes], grpc.ServicerContext], Iterable[bytes]]

HEADER = model_pb2.StateHeader(model="m", version=1, epoch="e", revision=3)


def reply(*messages: Any) -> Answer:
    """Gives these messages, whatever was asked."""
    return lambda requests, context: [
        each if isinstance(each, bytes) else each.SerializeToString() for each in messages
    ]


def fail(reason: str, **metadata: str) -> Answer:
    """Fails as the service does, with a reason of the contract."""
    failure = reasons.Failure(reason, f"scripted {reason}", metadata)

    def answer(requests: list[bytes], context: grpc.ServicerContext) -> Iterable[bytes]:
        context.set_trailing_metadata(((reasons.DETAILS_KEY, failure.details()),))
        context.abort(failure.status, failure.message)

    return answer


def status(code: grpc.StatusCode) -> Answer:
    """Fails as a proxy or a broken connection does, with no reason."""

    def answer(requests: list[bytes], context: grpc.ServicerContext) -> Iterable[bytes]:
        context.abort(code, "scripted")

    return answer


def model_reply() -> pb.GetModelResponse:
    """A model with one variable, `v`, functions that change nothing or something,
    and a signature with the key of another function's path."""
    spec = model_pb2.TensorSpec(dtype=1, shape=model_pb2.PartialShape(dimensions=[2]))
    inputs = [model_pb2.InputSpec(name="x", tensor=spec)]
    outputs = [model_pb2.OutputSpec(name="y", tensor=spec)]

    def function(name: str, **more: Any) -> model_pb2.FunctionSpec:
        overload = model_pb2.Overload(inputs=inputs, outputs=outputs, **more)
        parameter = model_pb2.Parameter(name="x", kind=1)
        return model_pb2.FunctionSpec(
            name=name, path=name, kind=2, overloads=[overload], parameters=[parameter]
        )

    return pb.GetModelResponse(
        header=HEADER,
        summary=model_pb2.ModelSummary(header=HEADER, state=2, device="CPU:0"),
        variables=[
            model_pb2.VariableSpec(
                name="v", path="v", dtype=1, shape=spec.shape, initialized=True, byte_length=8
            )
        ],
        functions=[
            function("pure", reads=[0]),
            function("writes", writes=[0]),
            function("elsewhere", changes_other_state=True),
            model_pb2.FunctionSpec(name="key", path="signatures/key", kind=1),
            model_pb2.FunctionSpec(name="./key", path="key", kind=2),
        ],
        limits=pb.TransferLimits(message_bytes=4 << 20, chunk_bytes=1 << 10, body_bytes=1 << 30),
    )


class Scripted(grpc.GenericRpcHandler):
    """Answers the calls of each method in turn; the last answer stays. None: no such method."""

    def __init__(self) -> None:
        self.script: dict[str, list[Answer]] = {"GetModel": [reply(model_reply())]}
        self.requests: dict[str, list[list[bytes]]] = {}
        # Whether manifests are accepted; a refusal is scripted as the answer.
        self.accepts = True
        self._server = grpc.server(ThreadPoolExecutor(8), handlers=[self])
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        name = details.method.rsplit("/", 1)[1]
        if name not in self.script:
            return None

        def behave(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            context.send_initial_metadata(((frames.ACCEPTED_KEY, "1"),) if self.accepts else ())
            # A session's client sends until it has what it asked for.
            open_ended = name in ("Session", "WatchSession")
            received = [next(requests)] if open_ended else list(requests)
            self.requests.setdefault(name, []).append(received)
            answers = self.script[name]
            answer = answers.pop(0) if len(answers) > 1 else answers[0]
            yield from answer(received, context)

        # On the wire a unary call is a stream of one message.
        return grpc.stream_stream_rpc_method_handler(behave)

    def __enter__(self) -> Scripted:
        self._server.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._server.stop(0).wait(60)
