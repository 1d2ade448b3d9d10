"""What pages have in common: who asks for what, forms, numbers in addresses, and rendering."""

from __future__ import annotations

import math
import secrets
from typing import Any
from urllib.parse import parse_qs

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from varserve import aio
from varserve.web.connections import Caller

PAGE_ROWS = 100
BINS = 24
"""Bins of the histograms in tables."""
_FORM_BYTES = 1 << 20


def shape_text(shape: tuple[int | None, ...] | None) -> str:
    """A shape for people: `3 x 4`, `? x 4`, `scalar`."""
    if shape is None:
        return "of any rank"
    return " x ".join("?" if size is None else str(size) for size in shape) or "scalar"


def size_text(nbytes: int) -> str:
    """Bytes for people: `1.5 MiB`."""
    size = float(nbytes)
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


def render(request: Request, template: str, **context: Any) -> Response:
    state = request.app.state
    response: Response = state.templates.TemplateResponse(
        request,
        template,
        {"writable": state.options.writable, "form_token": state.form_token, **context},
    )
    return response


def caller_of(request: Request) -> Caller:
    caller: Caller = request.app.state.callers.of(request.headers.get("authorization"))
    return caller


async def model_of(request: Request, *, now: bool = False) -> aio.Model:
    await request.app.state.callers.trim()
    return await caller_of(request).model(request.path_params["model"], now=now)


def check_writable(request: Request) -> None:
    if not request.app.state.options.writable:
        raise HTTPException(
            403, "these pages are read-only; `varserve web --writable` lets them change values"
        )


async def read_form(request: Request) -> dict[str, str]:
    """A form of this application's own pages. Raises HTTPException for any other."""
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _FORM_BYTES:
            raise HTTPException(413, f"expected a form of at most {_FORM_BYTES} bytes")
    try:
        fields = parse_qs(body.decode(), keep_blank_values=True, max_num_fields=1000)
    except ValueError as error:
        raise HTTPException(400, f"expected a form: {error}") from None
    form = {name: values[-1] for name, values in fields.items()}
    if not secrets.compare_digest(form.pop("form_token", ""), request.app.state.form_token):
        raise HTTPException(403, "this form is not of a page that is open now; load the page again")
    return form


def page_of(request: Request, count: int) -> tuple[int, int]:
    pages = max(1, math.ceil(count / PAGE_ROWS))
    return min(max(0, (integer(request, "page") or 1) - 1), pages - 1), pages


def integer(request: Request, name: str) -> int | None:
    text = request.query_params.get(name, "").strip()
    return whole(text, name) if text else None


def whole(text: str, name: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise HTTPException(400, f"{name}: expected a whole number, found {text[:40]!r}") from None


def clamped(request: Request, name: str, size: int) -> int:
    return min(max(0, integer(request, name) or 0), size - 1)


def literal(name: str) -> str:
    """A pattern that fits one name alone."""
    return "".join(f"[{sign}]" if sign in "*?[" else sign for sign in name)
