"""Good requests to the model `counter`, each with any field replaced.

The model has `v` float32 [3], `count` int64 [], and functions `total` (of `x` float32 [?]) and
`add` (of `n` int64 []), which writes `count`.
"""

from __future__ import annotations

from typing import Any

from crc32c import crc32c

from varserve.v1 import history_pb2, tensor_pb2
from varserve.v1 import model_service_pb2 as pb

MODEL = "counter"
V_BYTES = b"\x00\x00\x80\x3f" * 3


def tensor(**fields: Any) -> tensor_pb2.Tensor:
    return tensor_pb2.Tensor(**{"dtype": 1, "shape": [3], "data": V_BYTES} | fields)


def header(**fields: Any) -> tensor_pb2.TensorHeader:
    return tensor_pb2.TensorHeader(**{"dtype": 1, "shape": [3], "byte_length": 12} | fields)


def read(**fields: Any) -> pb.ReadVariableRequest:
    return pb.ReadVariableRequest(**{"model": MODEL, "variable": "v"} | fields)


def summarize(**fields: Any) -> pb.SummarizeVariablesRequest:
    return pb.SummarizeVariablesRequest(
        **{"model": MODEL, "selections": [{"variable": "v"}]} | fields
    )


def assign(**fields: Any) -> pb.AssignVariableRequest:
    return pb.AssignVariableRequest(
        **{"model": MODEL, "variable": "v", "operation": 1, "value": tensor()} | fields
    )


def run(**fields: Any) -> pb.RunFunctionRequest:
    return pb.RunFunctionRequest(
        **{"model": MODEL, "function": "total", "inputs": {"x": tensor()}} | fields
    )


def entry(**fields: Any) -> pb.AssignEntry:
    return pb.AssignEntry(**{"variable": "v", "operation": 1, "tensor": header()} | fields)


def manifest(*entries: pb.AssignEntry, **fields: Any) -> pb.AssignVariablesRequest:
    return pb.AssignVariablesRequest(
        manifest=pb.AssignManifest(**{"model": MODEL, "entries": entries or [entry()]} | fields)
    )


def run_manifest(**fields: Any) -> pb.StreamRunFunctionRequest:
    named = [tensor_pb2.NamedTensorHeader(name="x", tensor=header())]
    return pb.StreamRunFunctionRequest(
        manifest=pb.RunManifest(**{"model": MODEL, "function": "total", "inputs": named} | fields)
    )


def watch(**fields: Any) -> history_pb2.WatchVariablesRequest:
    return history_pb2.WatchVariablesRequest(**{"model": MODEL} | fields)


def commits(**fields: Any) -> history_pb2.ListCommitsRequest:
    return history_pb2.ListCommitsRequest(**{"model": MODEL} | fields)


def revert(to: int, **fields: Any) -> history_pb2.RevertCommitsRequest:
    return history_pb2.RevertCommitsRequest(**{"model": MODEL, "to_revision": to} | fields)


def renew(lease: int, **fields: Any) -> history_pb2.RenewLeaseRequest:
    return history_pb2.RenewLeaseRequest(**{"model": MODEL, "lease": lease} | fields)


def revoke(lease: int, **fields: Any) -> history_pb2.RevokeLeaseRequest:
    return history_pb2.RevokeLeaseRequest(**{"model": MODEL, "lease": lease} | fields)


def chunk(
    offset: int, data: bytes, *, checksum: int | None = None, kind: Any = pb.AssignVariablesRequest
) -> Any:
    crc = crc32c(data) if checksum is None else checksum
    return kind(chunk=tensor_pb2.Chunk(offset=offset, crc32c=crc, data=data))


def rows(*indices: int) -> tensor_pb2.Region:
    return tensor_pb2.Region(rows=tensor_pb2.Rows(indices=indices))


def slices(*parts: dict[str, int]) -> tensor_pb2.Region:
    dimensions = [tensor_pb2.Slice(**part) for part in parts]
    return tensor_pb2.Region(slices=tensor_pb2.Slices(dimensions=dimensions))


def number(value: int) -> tensor_pb2.Tensor:
    """An int64 scalar."""
    return tensor(dtype=9, shape=[], data=value.to_bytes(8, "little", signed=True))
