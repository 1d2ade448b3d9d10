"""The application: which page answers which address, and what holds for all of them.

Pages are rendered here and in the browser nothing is loaded from elsewhere. Without `writable`
every request that would change something is refused before the service hears of it.
"""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.templating import Jinja2Templates
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import varserve
from varserve import VarserveError
from varserve.tensors import dtype_name
from varserve.web import drawing
from varserve.web.changes import events
from varserve.web.connections import Callers, Connect
from varserve.web.pages import commits, common, functions, inside, variables
from varserve.web.rest import v1, v2
from varserve.web.rest.common import failed, is_rest
from varserve.web.rest.openapi import openapi

HERE = Path(__file__).parent

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
_HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cache-control": "no-store",
}

_STATUS: tuple[tuple[type[VarserveError], int], ...] = (
    (varserve.Unauthenticated, 401),
    (varserve.AccessDenied, 403),
    (varserve.NotFound, 404),
    (varserve.RequestIdReused, 409),
    (varserve.InvalidRequest, 400),
    (varserve.OutOfRange, 400),
    (varserve.Conflict, 409),
    (varserve.FailedPrecondition, 409),
    (varserve.ResourceExhausted, 429),
    (varserve.DeadlineExceeded, 504),
    (varserve.Unavailable, 503),
)
"""HTTP statuses of failures, the first class that fits; 502 for all others."""


@dataclass(frozen=True, slots=True)
class WebOptions:
    """What the inspector is allowed.

    writable: pages may assign, revert, and run functions that write.
    hosts: names that browsers may call it by; others are refused, so that no page of another site
        reaches it by a name that it made up.
    own_credentials: requests without an Authorization header use the inspector's own.
    max_body_bytes: of a request to predict.
    """

    writable: bool = False
    hosts: Sequence[str] = ("localhost", "127.0.0.1", "[::1]")
    own_credentials: bool = True
    max_body_bytes: int = 256 << 20


def make_app(connect: Connect, options: WebOptions = WebOptions()) -> Starlette:
    """The application over the service that `connect` reaches."""
    callers = Callers(connect, own_credentials=options.own_credentials)

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        try:
            yield
        finally:
            await callers.close()

    app = Starlette(
        routes=[
            Route("/", variables.models, name="models"),
            Route("/models/{model}", variables.variables, name="variables"),
            Route("/models/{model}/events", events, name="events"),
            Route("/models/{model}/functions", functions.functions, name="functions"),
            Route(
                "/models/{model}/functions/{function:path}",
                functions.function,
                name="function",
                methods=["GET", "POST"],
            ),
            Route("/models/{model}/commits", commits.commits, name="commits"),
            Route("/models/{model}/revert", commits.revert, name="revert", methods=["POST"]),
            Route(
                "/models/{model}/assign/{variable:path}",
                commits.assign,
                name="assign",
                methods=["POST"],
            ),
            Route("/models/{model}/variables/{variable:path}", variables.variable, name="variable"),
            *v1.routes(),
            *v2.routes(),
            Route("/openapi.json", openapi),
            Mount("/static", StaticFiles(directory=HERE / "static"), name="static"),
        ],
        middleware=[
            Middleware(TrustedHostMiddleware, allowed_hosts=list(options.hosts)),
            Middleware(_Headers),
            Middleware(GZipMiddleware, minimum_size=2000),
        ],
        exception_handlers={VarserveError: _failed, HTTPException: _http_failed},
        lifespan=lifespan,
    )
    templates = Jinja2Templates(directory=HERE / "templates")
    templates.env.filters["number"] = drawing.number
    templates.env.globals.update(
        histogram=drawing.histogram,
        shape_text=common.shape_text,
        size_text=common.size_text,
        place_text=inside.place_text,
        dtype_name=dtype_name,
    )
    templates.env.trim_blocks = templates.env.lstrip_blocks = True
    app.state.templates = templates
    app.state.callers = callers
    app.state.options = options
    # A form of another site does not know it.
    app.state.form_token = secrets.token_urlsafe(24)
    return app


def _failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, VarserveError)
    status = next((status for kind, status in _STATUS if isinstance(error, kind)), 502)
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return _error_page(request, status, str(error), headers)


def _http_failed(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error_page(request, error.status_code, str(error.detail), error.headers)


def _error_page(
    request: Request, status: int, text: str, headers: Mapping[str, str] | None
) -> Response:
    if is_rest(request):
        return failed(status, text, headers)
    context: dict[str, Any] = {"status": status, "text": text}
    response: Response = request.app.state.templates.TemplateResponse(
        request, "error.html", context, status_code=status, headers=headers
    )
    return response


class _Headers:
    """Adds the headers that every answer has."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        await self._app(scope, receive, sending)
