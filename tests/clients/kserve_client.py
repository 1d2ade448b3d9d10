"""Every call of KServe's clients, gRPC and REST, as one JSON document. Has its own environment.

kserve_client.py HOST:PORT URL [TOKEN]

With a token: the calls that a caller makes who may not run anything.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable
from typing import Any

import grpc
import httpx
import numpy as np
from kserve import InferenceGRPCClient, InferenceRESTClient, InferInput, InferRequest, RESTConfig


async def attempt(call: Awaitable[Any]) -> Any:
    """What a call gives, or how it fails."""
    try:
        return await call
    except grpc.RpcError as error:
        failure: Any = error
        return [failure.code().name, failure.details()]
    except httpx.HTTPStatusError as error:
        return [error.response.status_code, str(error)]


def request(model: str = "scaled", *, binary: bool = True, **parameters: Any) -> Any:
    x = InferInput("x", [3], "FP32")
    x.set_data_from_numpy(np.arange(3, dtype=np.float32), binary_data=binary)
    return InferRequest(model, [x], request_id="7", parameters=parameters or None)


def shown(response: Any) -> dict[str, Any]:
    revision = (response.parameters or {})["varserve_revision"]
    return {
        "id": response.id,
        "model": response.model_name,
        "version": response.model_version,
        "revision": getattr(revision, "int64_param", revision),
        "outputs": {
            each.name: [each.datatype, each.as_numpy().tolist()] for each in response.outputs
        },
    }


def words(*, binary: bool) -> Any:
    given = InferInput("words", [2], "BYTES")
    given.set_data_from_numpy(np.array([b"ab", b""], object), binary_data=binary)
    return InferRequest("words", [given])


def texts(response: Any) -> list[str]:
    return [
        each.decode() if isinstance(each, bytes) else each
        for each in response.outputs[0].as_numpy().ravel()
    ]


async def by_grpc(address: str) -> dict[str, Any]:
    async with InferenceGRPCClient(url=address, timeout=60) as client:
        return {
            "live": await client.is_server_live(),
            "ready": await client.is_server_ready(),
            "model ready": [await client.is_model_ready(name) for name in ("scaled", "nobody")],
            "binary": shown(await client.infer(request(binary=True))),
            "typed": shown(await client.infer(request(binary=False))),
            "signature": shown(await client.infer(request(signature_name="again"))),
            "strings": [texts(await client.infer(words(binary=kind))) for kind in (True, False)],
            "refused": await attempt(client.infer(request("nobody"))),
        }


async def by_rest(url: str) -> dict[str, Any]:
    second = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))
    first = InferenceRESTClient(RESTConfig(protocol="v1", timeout=60))
    row = {"instances": [0.0, 1.0, 2.0], "signature_name": "again"}
    return {
        "live": await second.is_server_live(url),
        "ready": await second.is_server_ready(url),
        "model ready": [await second.is_model_ready(url, name) for name in ("scaled", "nobody")],
        "binary": shown(await second.infer(url, request(binary=True), "scaled")),
        "typed": shown(await second.infer(url, request(binary=False), "scaled")),
        "signature": shown(await second.infer(url, request(signature_name="again"), "scaled")),
        "strings": [
            texts(await second.infer(url, words(binary=kind), "words")) for kind in (True, False)
        ],
        "v1": await first.infer(url, row, "scaled"),
        "v1 live": await first.is_server_live(url),
        "v1 ready": await first.is_model_ready(url, "scaled"),
        "refused": await attempt(second.infer(url, request("nobody"), "nobody")),
    }


async def denied(address: str, url: str, token: str) -> dict[str, Any]:
    """What a caller is told who may not run the function."""
    bearer = f"Bearer {token}"
    second = InferenceRESTClient(RESTConfig(protocol="v2", timeout=60))
    headers = {"authorization": bearer}
    async with InferenceGRPCClient(url=address, timeout=60) as client:
        return {
            "grpc": await attempt(client.infer(request(), headers=[("authorization", bearer)])),
            "grpc without": await attempt(client.infer(request())),
            "grpc ready": await client.is_model_ready(
                "scaled", headers=[("authorization", bearer)]
            ),
            "rest": await attempt(second.infer(url, request(), "scaled", headers)),
            "rest without": await attempt(second.infer(url, request(), "scaled")),
        }


async def main(address: str, url: str, token: str = "") -> dict[str, Any]:
    if token:
        return await denied(address, url, token)
    return {"grpc": await by_grpc(address), "rest": await by_rest(url)}


if __name__ == "__main__":
    json.dump(asyncio.run(main(*sys.argv[1:])), sys.stdout)
