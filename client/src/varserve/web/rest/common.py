"""What both protocols have in common: bodies with a bound, models by version, runs, failures."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse

from varserve import FunctionKind, InputSpec, InvalidRequest, Outputs, TensorSpec, aio
from varserve.web.pages.common import caller_of, check_writable

DEFAULT_SIGNATURE = "serving_default"


def is_rest(request: Request) -> bool:
    """Whether failures of this request are answered in JSON."""
    return request.url.path.startswith(("/v1", "/v2"))


def failed(status: int, text: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """A failure as both protocols have it."""
    return JSONResponse({"error": text}, status, headers)


async def body_of(request: Request) -> bytes:
    """The body, decompressed. Raises HTTPException."""
    _check_origin(request)
    limit = request.app.state.options.max_body_bytes
    encoding = request.headers.get("content-encoding", "identity").lower()
    if encoding not in ("identity", "gzip", "deflate"):
        raise HTTPException(415, f"content-encoding: expected gzip or deflate, found {encoding!r}")
    # 47: zlib finds out itself which of the two it is.
    inflate = None if encoding == "identity" else zlib.decompressobj(47)
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        try:
            data = part if inflate is None else inflate.decompress(part, limit + 1 - size)
        except zlib.error as error:
            raise HTTPException(400, f"the body is not {encoding}: {error}") from None
        size += len(data)
        if size > limit or (inflate is not None and inflate.unconsumed_tail):
            raise HTTPException(413, f"expected a body of at most {limit} bytes")
        parts.append(data)
    if inflate is not None and not inflate.eof:
        raise HTTPException(400, f"the body is not {encoding}: it is cut off")
    return b"".join(parts)


def _check_origin(request: Request) -> None:
    """Refuse what a page of another site sends: a browser says where it comes from."""
    origin = request.headers.get("origin")
    hosts = {each.strip("[]") for each in request.app.state.options.hosts}
    if origin and urlsplit(origin).hostname not in hosts:
        raise HTTPException(403, f"requests of pages from {origin[:200]} are not taken")


def json_of(data: bytes | memoryview, thing: str = "body") -> dict[str, Any]:
    """A JSON object. Raises HTTPException."""
    try:
        content = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise HTTPException(400, f"{thing}: expected JSON: {error}") from None
    if not isinstance(content, dict):
        raise HTTPException(400, f"{thing}: expected a JSON object, found another value")
    return content


async def model_of(request: Request) -> aio.Model:
    """The model, version or label that a path names."""
    params = request.path_params
    version = params.get("version", params.get("label", ""))
    name = f"{params['model']}@{version}" if version else params["model"]
    return await caller_of(request).model(name)


def signature_of(model: aio.Model, name: str) -> aio.Function:
    """A function; none is named: the default signature, or the only one that there is."""
    if not name:
        signatures = [
            each.name for each in model.functions.values() if each.kind is FunctionKind.SIGNATURE
        ]
        only = len(signatures) == 1 and DEFAULT_SIGNATURE not in signatures
        name = signatures[0] if only else DEFAULT_SIGNATURE
    return model.functions[name]


def tensors_of(function: aio.Function) -> dict[str, tuple[InputSpec, TensorSpec]]:
    """The inputs that are tensors, by name, in the function's order."""
    inputs = function.overloads[0].inputs
    return {each.name: (each, each.kind) for each in inputs if isinstance(each.kind, TensorSpec)}


async def run(
    request: Request, function: aio.Function, inputs: Mapping[str, Any], outputs: list[str]
) -> Outputs:
    """Run a function. Raises HTTPException for one that may write where pages may not."""
    if function.spec.may_write:
        check_writable(request)
    return await function.call(inputs, outputs=outputs)


def sizes(shape: tuple[int | None, ...] | None) -> list[int]:
    """A shape with -1 for a dimension of any size."""
    return [-1] if shape is None else [-1 if size is None else size for size in shape]


def shape_from(given: Any, thing: str) -> tuple[int, ...]:
    """A shape in JSON. Raises InvalidRequest."""
    if not isinstance(given, list) or any(type(size) is not int or size < 0 for size in given):
        raise InvalidRequest(f"{thing}: expected a shape, found {json.dumps(given)[:100]}")
    if len(given) > 64 or math.prod(given) > 2**48:
        raise InvalidRequest(f"{thing}: the shape has too many dimensions or elements")
    return tuple(given)
