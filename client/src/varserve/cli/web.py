"""`varserve web`: pages for a browser."""

from __future__ import annotations

from importlib.util import find_spec

import click

from . import output
from .exits import Unusable
from .session import Session

NEEDED = ("jinja2", "starlette", "uvicorn")


@click.command("web")
@click.option("--host", default="127.0.0.1", metavar="ADDRESS", help="Where to listen. [127.0.0.1]")
@click.option("--port", default=8600, type=click.IntRange(0, 65535), help="[8600; 0: any free one]")
@click.option("--writable", is_flag=True, help="Pages may assign, revert and run what writes.")
@click.option(
    "--allowed-host",
    multiple=True,
    metavar="NAME",
    help="A name that browsers call these pages by, beside localhost. May be repeated.",
)
@click.option(
    "--share-credentials",
    is_flag=True,
    help="Use your credentials for everybody who can reach an address that is not loopback.",
)
@click.pass_obj
def web(
    session: Session,
    host: str,
    port: int,
    writable: bool,
    allowed_host: tuple[str, ...],
    share_credentials: bool,
) -> None:
    """Show models, variables, functions and commits in a browser, live, until Ctrl-C.

    A request with `Authorization: Bearer TOKEN` is made as that caller. One without is made with
    your own credentials, on loopback or with --share-credentials; elsewhere it is refused.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        raise Unusable(
            f'the pages need {", ".join(missing)}, not installed here: pip install "varserve[web]"'
        )
    from varserve.web import WebOptions, make_app, serve

    options = WebOptions(
        writable=writable,
        hosts=(*WebOptions().hosts, host, *allowed_host),
        own_credentials=share_credentials or _is_loopback(host),
    )
    app = make_app(session.connect_async, options)
    try:
        serve(app, host, port, lambda url: output.line(f"varserve web on {url}"))
    except OSError as error:
        raise Unusable(f"--host {host} --port {port}: {error.strerror or error}") from None


def _is_loopback(host: str) -> bool:
    import ipaddress

    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


COMMANDS = (web,)
