"""The command line itself: its options, its commands, and how a run ends."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.shell_completion import CompletionItem

from varserve import __version__
from varserve._client.contexts import DEFAULT_ADMIN_SERVER, DEFAULT_SERVER, context_names

from . import (
    admin,
    change,
    compare,
    fetch,
    follow,
    inside,
    is_of_output,
    look,
    shell,
    transfer,
    web,
)
from .exits import DEFECT, INTERRUPTED, Failed
from .late import late
from .session import Session, session_of
from .typed import Root

if TYPE_CHECKING:
    from varserve._client import errors
else:
    errors = late("varserve._client.errors")


class _Commands(Root):
    """Turns what commands raise into messages and exit codes."""

    def make_context(self, *args: Any, **options: Any) -> click.Context:
        try:
            return super().make_context(*args, **options)
        except KeyboardInterrupt:  # while it reads the arguments; click would say "Aborted!"
            click.echo("varserve: interrupted; nothing was changed", err=True)
            raise click.exceptions.Exit(INTERRUPTED) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except errors.VarserveError as error:
            session = ctx.find_object(Session)
            if session is None:
                raise Failed(error, as_json=False) from error
            # Without a certificate the server may not answer.
            denied = isinstance(error, (errors.AccessDenied, errors.Unavailable))
            why = session.withheld if denied else ""
            raise Failed(error, as_json=session.as_json, why=why) from error
        except KeyboardInterrupt:
            session = ctx.find_object(Session)
            if session is not None:
                session.abandoned = True
            ended = "nothing was changed" if session is None else session.interrupted
            click.echo(f"varserve: interrupted; {ended}", err=True)
            ctx.exit(INTERRUPTED)
        except (click.ClickException, click.Abort, click.exceptions.Exit, BrokenPipeError):
            raise
        except Exception as error:
            if isinstance(error, OSError) and is_of_output(error):
                raise
            import traceback

            traceback.print_exc()
            ctx.exit(DEFECT)


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="varserve")
@click.option(
    "--server",
    "-s",
    metavar="HOST:PORT",
    help=f"Where the service is. [{DEFAULT_SERVER}]",
)
@click.option(
    "--admin-server",
    metavar="HOST:PORT",
    help=f"Where its AdminService is, for `admin`. [{DEFAULT_ADMIN_SERVER}, without --server]",
)
@click.option(
    "--context",
    "-c",
    metavar="NAME",
    shell_complete=lambda ctx, param, begun: [
        CompletionItem(name) for name in context_names() if name.startswith(begun)
    ],
    help="A context of the configuration file.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=0, min_open=True),
    metavar="SECONDS",
    help="For each call. [30, and more for what moves bytes; 600 for `admin`]",
)
@click.option(
    "--tls/--no-tls",
    default=None,
    help="TLS, checked by the authorities that gRPC brings where no --ca is given.",
)
@click.option(
    "--ca",
    metavar="FILE",
    help="PEM file of the authorities that the service's certificate is checked by.",
)
@click.option(
    "--cert",
    metavar="FILE",
    help="PEM file of your certificate, for mutual TLS.",
)
@click.option("--key", metavar="FILE", help="PEM file of its private key.")
@click.option(
    "--server-name",
    metavar="NAME",
    help="The name in the service's certificate, where it is not that of the address.",
)
@click.option(
    "--token-file",
    metavar="FILE",
    help="File with a bearer token. $VARSERVE_TOKEN is one itself.",
)
@click.option("--json", "as_json", is_flag=True, help="JSON, for programs.")
@click.option(
    "--output",
    "-o",
    type=click.Choice(["table", "json"]),
    help="json: the same as --json.",
)
@click.pass_context
def varserve(ctx: click.Context, /, **flags: Any) -> None:
    """Read, change and run what a TensorFlow model is serving right now.

    Options may stand anywhere, in the environment (VARSERVE_SERVER, ...) or in a configuration
    file with named contexts; see docs/cli.md.
    """
    ctx.obj = session_of(ctx)
    ctx.obj.as_json = flags["as_json"] or flags["output"] == "json"
    ctx.call_on_close(ctx.obj.close)


for _room in (look, inside, change, follow, transfer, compare, admin, fetch, web, shell):
    for _command in _room.COMMANDS:
        varserve.add_command(_command)
