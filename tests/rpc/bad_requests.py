"""Requests that are well-formed and wrong: names, tensors, regions, conditions, chunks, inputs."""

from __future__ import annotations

import random
from typing import Any

from tests.rpc.cases import Case, case, maker
from tests.rpc.requests import (
    MODEL,
    V_BYTES,
    assign,
    chunk,
    commits,
    entry,
    header,
    manifest,
    read,
    renew,
    revert,
    revoke,
    rows,
    run,
    run_manifest,
    slices,
    summarize,
    tensor,
    watch,
)
from varserve.v1 import model_pb2, tensor_pb2
from varserve.v1 import model_service_pb2 as pb
from varserve_service.rpc.services.history import MAX_PATTERN

LIMITS = [-(2**63), -(2**31), -1, 2**31 - 1, 2**31, 2**32, 2**62, 2**63 - 1]


def in_tensor(rng: random.Random, reasons: str, **fields: Any) -> Case:
    """A bad tensor where a message can have one."""
    if rng.random() < 0.5:
        return case("AssignVariable", assign(value=tensor(**fields)), reasons=reasons)
    return case("RunFunction", run(inputs={"x": tensor(**fields)}), reasons=reasons)


def in_header(rng: random.Random, reasons: str, **fields: Any) -> Case:
    """A bad tensor header where a manifest can have one."""
    bad = header(**fields)
    if rng.random() < 0.5:
        return case("AssignVariables", manifest(entry(tensor=bad)), reasons=reasons)
    named = [tensor_pb2.NamedTensorHeader(name="x", tensor=bad)]
    return case("StreamRunFunction", run_manifest(inputs=named), reasons=reasons)


NAMES = [
    "",
    " ",
    "\0",
    "v\0",
    "\0v",
    "nope",
    "v ",
    "V",
    "v:1",
    "x" * 4096,
    "\0" * 4096,
    "../v",
    "/etc/passwd",
    "..%2f..%2fetc",
    "\uff0e\uff0e\uff0fv",
    "\u202ev",
    "v\n",
    "{}",
    "%s%n",
    "😀" * 1000,
]


@maker
def unknown_name(rng: random.Random) -> Case:
    name = rng.choice(NAMES)
    thing = rng.choice(["model", "variable", "function"])
    if thing == "function":
        methods: list[tuple[str, Any]] = [
            ("RunFunction", run(function=name)),
            ("StreamRunFunction", run_manifest(function=name)),
        ]
    elif thing == "variable":
        many = pb.ReadVariablesRequest(model=MODEL)
        many.reads.add(variable="v")
        many.reads.add(variable=name)
        methods = [
            ("ReadVariable", read(variable=name)),
            ("ReadVariables", many),
            ("SummarizeVariables", summarize(selections=[{"variable": "v"}, {"variable": name}])),
            ("AssignVariable", assign(variable=name)),
            ("AssignVariables", manifest(entry(), entry(variable=name))),
            ("WatchVariables", watch(patterns=["v", f"{name}!"])),
            ("ListCommits", commits(patterns=[f"{name}!"])),
            ("RevertCommits", revert(0, variables=["v", name])),
        ]
    else:
        methods = [
            ("GetModel", pb.GetModelRequest(model=name)),
            ("ReadVariable", read(model=name)),
            ("ReadVariables", pb.ReadVariablesRequest(model=name, reads=[{"variable": "v"}])),
            ("SummarizeVariables", summarize(model=name)),
            ("AssignVariable", assign(model=name)),
            ("AssignVariables", manifest(model=name)),
            ("RunFunction", run(model=name)),
            ("StreamRunFunction", run_manifest(model=name)),
            ("WatchVariables", watch(model=name)),
            ("ListCommits", commits(model=name)),
            ("RevertCommits", revert(0, model=name)),
            ("RenewLease", renew(1, model=name)),
            ("RevokeLease", revoke(1, model=name)),
        ]
    method, request = rng.choice(methods)
    is_pattern = thing == "variable" and method in ("WatchVariables", "ListCommits")
    too_long = is_pattern and len(name) >= MAX_PATTERN
    reasons = "REQUEST_MALFORMED" if too_long else f"{thing.upper()}_NOT_FOUND"
    return case(method, request, reasons=reasons)


@maker
def wrong_dtype(rng: random.Random) -> Case:
    if rng.random() < 0.5:
        number = rng.choice([0, 11, 12, 13, 15, 16, 20, 21, 29, 30, 31, 33, 99, -1, 2**31 - 1])
        spoil = in_tensor if rng.random() < 0.5 else in_header
        return spoil(rng, "DTYPE_UNSUPPORTED", dtype=number)
    number, size = rng.choice([(2, 8), (3, 4), (4, 1), (9, 8), (10, 1), (14, 2), (18, 16), (24, 1)])
    if rng.random() < 0.5:
        data = bytes(3 * size)
        return in_tensor(rng, "DTYPE_MISMATCH", dtype=number, data=data)
    return in_header(rng, "DTYPE_MISMATCH", dtype=number, byte_length=3 * size)


@maker
def wrong_cast(rng: random.Random) -> Case:
    variable, number, reason = rng.choice(
        [
            ("v", 3, "CAST_UNSUPPORTED"),
            ("v", 7, "CAST_UNSUPPORTED"),
            ("v", 24, "CAST_UNSUPPORTED"),
            ("count", 1, "CAST_UNSUPPORTED"),
            ("v", 99, "DTYPE_UNSUPPORTED"),
            ("count", -1, "DTYPE_UNSUPPORTED"),
        ]
    )
    if rng.random() < 0.5:
        request = read(variable=variable, dtype=number)  # type: ignore[arg-type]
        return case("ReadVariable", request, reasons=reason)
    selections = [{"variable": "v"}, {"variable": variable, "dtype": number}]
    return case(
        "ReadVariables", pb.ReadVariablesRequest(model=MODEL, reads=selections), reasons=reason
    )


@maker
def wrong_shape(rng: random.Random) -> Case:
    shape = rng.choice([[], [2], [4], [0], [3, 1], [1, 3], [0, 2**40], [1] * 64, [3, 0]])
    count = 0 if 0 in shape else shape[0] * (shape[1] if len(shape) > 1 else 1) if shape else 1
    if rng.random() < 0.5:
        bad = tensor(shape=shape, data=bytes(4 * count))
        return case("AssignVariable", assign(value=bad), reasons="SHAPE_MISMATCH")
    bad_header = header(shape=shape, byte_length=4 * count)
    return case("AssignVariables", manifest(entry(tensor=bad_header)), reasons="SHAPE_MISMATCH")


@maker
def impossible_shape(rng: random.Random) -> Case:
    shape = rng.choice(
        [
            [-1],
            [3, -1],
            [-1, -3],
            [rng.choice(LIMITS), rng.choice(LIMITS)],
            [2**31, 2**31],
            [0, 2**62],
            [2**32, 2**32],
            [1] * rng.choice([65, 254, 255, 300, 2000]),
            [2**63 - 1],
        ]
    )
    if rng.random() < 0.5:
        return in_tensor(rng, "SHAPE_MISMATCH LENGTH_MISMATCH", shape=shape)
    return in_header(rng, "SHAPE_MISMATCH LENGTH_MISMATCH", shape=shape)


@maker
def wrong_length(rng: random.Random) -> Case:
    length = rng.choice([0, 1, 8, 11, 13, 24, 4096])
    if rng.random() < 0.5:
        return in_tensor(rng, "LENGTH_MISMATCH", data=bytes(length))
    return in_header(rng, "LENGTH_MISMATCH", byte_length=rng.choice([length, -12, 2**62]))


@maker
def mixed_kinds_of_data(rng: random.Random) -> Case:
    if rng.random() < 0.5:
        return in_tensor(rng, "LENGTH_MISMATCH", strings=[b"a"])
    strings = [b"a"] * rng.choice([0, 2, 3, 4])
    data = b"" if len(strings) != 3 else b"a"
    return in_tensor(rng, "LENGTH_MISMATCH", dtype=7, data=data, strings=strings)


@maker
def bad_region(rng: random.Random) -> Case:
    region, reason = rng.choice(
        [
            (slices({"start": 2, "stop": 1}), "REGION_INVALID"),
            (slices({"stop": 4}), "REGION_INVALID"),
            (slices({"start": 4}), "REGION_INVALID"),
            (slices({"start": rng.choice(LIMITS)}), "REGION_INVALID"),
            (slices({"stop": rng.choice(LIMITS)}), "REGION_INVALID"),
            (slices({"step": rng.choice(LIMITS[:3])}), "REGION_INVALID"),
            (slices({}, {}), "REGION_INVALID"),
            (slices(*[{}] * 300), "REGION_INVALID"),
            (rows(3), "REGION_INVALID"),
            (rows(0, 1, -1), "REGION_INVALID"),
            (rows(0, rng.choice(LIMITS)), "REGION_INVALID"),
            (tensor_pb2.Region(), "REQUEST_MALFORMED"),
        ]
    )
    selection = pb.ReadSelection(variable="v", region=region)
    method, request = rng.choice(
        [
            ("ReadVariable", read(region=region)),
            ("ReadVariables", pb.ReadVariablesRequest(model=MODEL, reads=[selection])),
            ("AssignVariable", assign(region=region)),
            ("AssignVariables", manifest(entry(region=region))),
        ]
    )
    return case(method, request, reasons=reason)


@maker
def region_of_another_shape(rng: random.Random) -> Case:
    region = rng.choice([slices({"stop": 2}), slices({"stop": 0}), rows(), rows(0), rows(2, 1)])
    if rng.random() < 0.5:
        return case("AssignVariable", assign(region=region), reasons="SHAPE_MISMATCH")
    return case("AssignVariables", manifest(entry(region=region)), reasons="SHAPE_MISMATCH")


@maker
def region_where_there_is_none(rng: random.Random) -> Case:
    region = rng.choice([rows(0), rows(), slices({}), slices({"stop": 0})])
    request = read(variable="count", region=region)
    return case("ReadVariable", request, reasons="REGION_INVALID")


@maker
def row_set_twice(rng: random.Random) -> Case:
    region = rows(*rng.choice([(0, 0, 1), (2, 1, 2), (1, 1, 1)]))
    if rng.random() < 0.5:
        return case("AssignVariable", assign(region=region), reasons="REGION_INVALID")
    return case("AssignVariables", manifest(entry(region=region)), reasons="REGION_INVALID")


@maker
def unknown_operation(rng: random.Random) -> Case:
    number = rng.choice([4, 99, -1, 2**31 - 1, -(2**31)])
    if rng.random() < 0.5:
        return case("AssignVariable", assign(operation=number), reasons="REQUEST_MALFORMED")
    return case("AssignVariables", manifest(entry(operation=number)), reasons="REQUEST_MALFORMED")


@maker
def condition_that_does_not_hold(rng: random.Random) -> Case:
    body = chunk(0, V_BYTES)
    if rng.random() < 0.3:
        epoch = rng.choice(["0" * 16, "x" * 4096, "\0"])
        method, *requests = rng.choice(
            [
                ("AssignVariable", assign(if_epoch_match=epoch)),
                ("AssignVariables", manifest(if_epoch_match=epoch), body),
                ("RunFunction", run(if_epoch_match=epoch)),
            ]
        )
        return case(method, *requests, reasons="EPOCH_MISMATCH")
    revision = rng.choice(LIMITS)
    method, *requests = rng.choice(
        [
            ("AssignVariable", assign(if_revision_match=revision)),
            ("AssignVariable", assign(if_model_revision_match=revision)),
            ("AssignVariables", manifest(if_model_revision_match=revision), body),
            ("AssignVariables", manifest(entry(if_revision_match=revision)), body),
            ("RunFunction", run(if_model_revision_match=revision)),
        ]
    )
    return case(method, *requests, reasons="REVISION_MISMATCH")


@maker
def request_id_too_long(rng: random.Random) -> Case:
    request_id = rng.choice(["a" * 129, "é" * 65, "a" * 100_000])
    method, request = rng.choice(
        [
            ("AssignVariable", assign(request_id=request_id)),
            ("AssignVariables", manifest(request_id=request_id)),
            ("RunFunction", run(request_id=request_id)),
            ("StreamRunFunction", run_manifest(request_id=request_id)),
        ]
    )
    return case(method, request, reasons="REQUEST_MALFORMED")


@maker
def something_missing(rng: random.Random) -> Case:
    without_value = assign()
    without_value.ClearField("value")
    without_entries = pb.AssignVariablesRequest(manifest=pb.AssignManifest(model=MODEL))
    method, *requests = rng.choice(
        [
            ("AssignVariable", without_value),
            ("AssignVariables", without_entries),
            ("AssignVariables",),
            ("AssignVariables", b""),
            ("AssignVariables", chunk(0, V_BYTES)),
            ("StreamRunFunction",),
            ("StreamRunFunction", b""),
            ("StreamRunFunction", chunk(0, V_BYTES, kind=pb.StreamRunFunctionRequest)),
            ("ReadVariables", pb.ReadVariablesRequest(model=MODEL)),
        ]
    )
    return case(method, *requests, reasons="REQUEST_MALFORMED")


@maker
def wrong_chunks(rng: random.Random) -> Case:
    kind, first, method = rng.choice(
        [
            (pb.AssignVariablesRequest, manifest(), "AssignVariables"),
            (pb.StreamRunFunctionRequest, run_manifest(), "StreamRunFunction"),
        ]
    )

    def part(start: int, stop: int, **kwargs: Any) -> Any:
        return chunk(start, V_BYTES[start:stop], kind=kind, **kwargs)

    chunks, reason = rng.choice(
        [
            ([], "CHUNK_INVALID"),
            ([part(0, 11)], "CHUNK_INVALID"),
            ([part(4, 12), part(0, 4)], "CHUNK_INVALID"),
            ([part(0, 8), part(4, 12)], "CHUNK_INVALID"),
            ([part(0, 4), part(8, 12)], "CHUNK_INVALID"),
            ([part(0, 12), part(0, 12)], "CHUNK_INVALID"),
            ([part(0, 4), part(0, 4), part(4, 12)], "CHUNK_INVALID"),
            ([chunk(0, V_BYTES + b"\0", kind=kind)], "CHUNK_INVALID"),
            ([part(0, 12), chunk(12, b"\0", kind=kind)], "CHUNK_INVALID"),
            ([part(0, 4), part(4, 4), part(4, 12)], "CHUNK_INVALID"),
            ([chunk(rng.choice(LIMITS), V_BYTES, kind=kind)], "CHUNK_INVALID"),
            ([part(0, 12, checksum=rng.randrange(2**32))], "CHECKSUM_MISMATCH"),
            ([part(0, 4), part(4, 12, checksum=0)], "CHECKSUM_MISMATCH"),
            ([part(0, 4), first], "REQUEST_MALFORMED"),
            ([part(0, 4), b""], "REQUEST_MALFORMED"),
            ([part(0, 4), part(4, 12).SerializeToString()[:-1]], "REQUEST_MALFORMED"),
            ([b"\x12\x02\xff\xff"], "REQUEST_MALFORMED"),
        ]
    )
    return case(method, first, *chunks, reasons=reason)


@maker
def wrong_inputs(rng: random.Random) -> Case:
    inputs = rng.choice(
        [
            {},
            {"y": tensor()},
            {"x": tensor(), "y": tensor()},
            {"x": tensor(), "": tensor()},
            {"x": tensor(), "\0" * 4096: tensor()},
        ]
    )
    if rng.random() < 0.5:
        return case("RunFunction", run(inputs=inputs), reasons="INPUT_MISMATCH OVERLOAD_MISMATCH")
    named = [tensor_pb2.NamedTensorHeader(name=name, tensor=header()) for name in inputs]
    reasons = "INPUT_MISMATCH OVERLOAD_MISMATCH"
    if rng.random() < 0.2:
        named, reasons = [*named, *named, named[0]] if named else named, reasons
        reasons = "REQUEST_MALFORMED" if named else reasons
    return case("StreamRunFunction", run_manifest(inputs=named), reasons=reasons)


@maker
def wrong_constants(rng: random.Random) -> Case:
    constant = model_pb2.Constant(
        **rng.choice([{"int_value": 1}, {"float_value": float("nan")}, {"none_value": True}])
    )
    constants, reasons = rng.choice(
        [
            ({"mode": constant}, "INPUT_MISMATCH OVERLOAD_MISMATCH"),
            ({"x": constant}, "INPUT_MISMATCH OVERLOAD_MISMATCH"),
            ({"mode": model_pb2.Constant()}, "REQUEST_MALFORMED"),
        ]
    )
    if rng.random() < 0.5:
        return case("RunFunction", run(constants=constants), reasons=reasons)
    return case("StreamRunFunction", run_manifest(constants=constants), reasons=reasons)


@maker
def unknown_output(rng: random.Random) -> Case:
    outputs = ["nope", rng.choice(NAMES)]
    if rng.random() < 0.5:
        return case("RunFunction", run(outputs=outputs), reasons="INPUT_MISMATCH")
    body = chunk(0, V_BYTES, kind=pb.StreamRunFunctionRequest)
    request = run_manifest(outputs=outputs)
    return case("StreamRunFunction", request, body, reasons="INPUT_MISMATCH")


@maker
def wrong_history(rng: random.Random) -> Case:
    """A revision that there is not, too much at once, a lease that nobody has."""
    number = rng.choice(LIMITS)
    past = "REVISION_COMPACTED" if number < 0 else "REVISION_IN_FUTURE"
    other = rng.choice(["x", "\0", "0" * 16])
    method, request, reason = rng.choice(
        [
            ("ReadVariable", read(at_revision=number), past),
            ("ReadVariable", read(at_revision=0, epoch=other), "EPOCH_MISMATCH"),
            ("ReadVariable", read(at_revision=0, if_newer_than=0), "REQUEST_MALFORMED"),
            ("WatchVariables", watch(after_revision=number), past),
            ("WatchVariables", watch(epoch=other), "EPOCH_MISMATCH"),
            ("WatchVariables", watch(patterns=["*"] * 101), "REQUEST_MALFORMED"),
            ("WatchVariables", watch(patterns=["*" * 50 + "!"]), "VARIABLE_NOT_FOUND"),
            ("ListCommits", commits(max_commits=rng.choice([-1, 1001])), "REQUEST_MALFORMED"),
            ("RevertCommits", revert(number), past),
            ("RevertCommits", revert(0, if_epoch_match=other), "EPOCH_MISMATCH"),
            ("RevertCommits", revert(0, message="m" * 1025), "REQUEST_MALFORMED"),
            ("RenewLease", renew(number), "LEASE_NOT_FOUND"),
            ("RenewLease", renew(0, epoch=other), "EPOCH_MISMATCH"),
            ("RevokeLease", revoke(number), "LEASE_NOT_FOUND"),
            ("AssignVariable", assign(message="\0" * 1025), "REQUEST_MALFORMED"),
            ("AssignVariable", assign(lease_seconds=rng.choice(SECONDS)), "REQUEST_MALFORMED"),
            ("AssignVariables", manifest(lease_seconds=-1.0), "REQUEST_MALFORMED"),
        ]
    )
    return case(method, request, reasons=reason)


SECONDS = [-1.0, 86_401.0, float("nan"), float("inf"), -float("inf")]
