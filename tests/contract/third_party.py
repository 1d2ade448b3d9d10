"""A client that somebody wrote from the .proto alone: standard library, grpcio, generated stubs.

`third_party.py STUBS ADDRESS` reads, assigns and runs, and prints what it found as JSON. It runs in
an environment that has neither varserve nor numpy.
"""

import importlib.util
import json
import sys
from pathlib import Path

import grpc

sys.path.insert(0, sys.argv[1])

from varserve.v1 import error_pb2, tensor_pb2
from varserve.v1 import model_service_pb2 as pb
from varserve.v1 import model_service_pb2_grpc as rpc

CHUNK_BYTES = 2**20


def crc_table():
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
        table.append(byte)
    return table


TABLE = crc_table()


def crc32c(data):
    """CRC-32C (Castagnoli), as the comment of Chunk.crc32c says."""
    state = 0xFFFFFFFF
    for byte in data:
        state = TABLE[(state ^ byte) & 0xFF] ^ state >> 8
    return state ^ 0xFFFFFFFF


def received(responses, kind):
    """The first message of a stream, and its body put together, each chunk checked."""
    first = getattr(next(responses), kind)
    body = bytearray()
    sizes = []
    for response in responses:
        assert response.WhichOneof("message") == "chunk"
        chunk = response.chunk
        assert chunk.offset == len(body), (chunk.offset, len(body))
        assert chunk.crc32c == crc32c(chunk.data), chunk.offset
        body += chunk.data
        sizes.append(len(chunk.data))
    return first, bytes(body), sizes


def chunks(request, body):
    for offset in range(0, len(body), CHUNK_BYTES):
        data = body[offset : offset + CHUNK_BYTES]
        yield request(chunk=tensor_pb2.Chunk(offset=offset, crc32c=crc32c(data), data=data))


def main(address):
    assert importlib.util.find_spec("numpy") is None
    assert importlib.util.find_spec("varserve.frames") is None
    found = {}
    with grpc.insecure_channel(address) as channel:
        stub = rpc.ModelServiceStub(channel)
        spec = stub.GetModel(pb.GetModelRequest(model="fake"))
        found["variables"] = {each.name: each.byte_length for each in spec.variables}
        small = stub.ReadVariable(pb.ReadVariableRequest(model="fake", variable="small"))
        found["small"] = [small.value.dtype, list(small.value.shape), small.value.data.hex()]

        reads = [pb.ReadSelection(variable=name) for name in ("small", "large")]
        request = pb.ReadVariablesRequest(model="fake", reads=reads)
        manifest, body, found["chunks"] = received(stub.ReadVariables(request), "manifest")
        found["large"] = [
            [entry.variable, list(entry.tensor.shape), entry.tensor.byte_length]
            for entry in manifest.entries
        ]
        Path(sys.argv[1], "body").write_bytes(body)

        large = body[manifest.entries[0].tensor.byte_length :]
        header = manifest.entries[1].tensor
        entry = pb.AssignEntry(variable="large", tensor=header)
        first = pb.AssignVariablesRequest(manifest=pb.AssignManifest(model="fake", entries=[entry]))
        turned = b"".join(large[at : at + 8] for at in range(len(large) - 8, -1, -8))

        def writing():
            yield first
            yield from chunks(pb.AssignVariablesRequest, turned)

        found["revision"] = stub.AssignVariables(writing()).header.revision

        damaged = pb.AssignVariablesRequest(
            chunk=tensor_pb2.Chunk(offset=0, crc32c=1, data=turned[:CHUNK_BYTES])
        )
        try:
            stub.AssignVariables(iter([first, damaged]))
        except grpc.RpcError as error:
            (details,) = [
                value
                for key, value in error.trailing_metadata()
                if key == "grpc-status-details-bin"
            ]
            info = error_pb2.ErrorInfo()
            info.ParseFromString(error_pb2.Status.FromString(details).details[0].value)
            found["refused"] = [error.code().name, info.reason]

        run = pb.RunManifest(model="fake", function="double")
        named = run.inputs.add(name="x", tensor=header)
        named.tensor.CopyFrom(header)

        def running():
            yield pb.StreamRunFunctionRequest(manifest=run)
            yield from chunks(pb.StreamRunFunctionRequest, turned)

        result, body, _ = received(stub.StreamRunFunction(running()), "result")
        found["outputs"] = [[each.name, list(each.tensor.shape)] for each in result.outputs]
        Path(sys.argv[1], "doubled").write_bytes(body)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[2])
