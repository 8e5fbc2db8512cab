"""The commands of `everlatch`, with typer: options in, exit statuses out.

Exit statuses: 0 all is well; 1 it was tried and is not; 2 it could not be tried (wrong options, no ZooKeeper build);
128 + n ended by signal n.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from everlatch.cli.demo import Options, run
from everlatch.cli.devserver import serve_until_stopped, tls_context
from everlatch.cli.render import LiveView, PlainView, View, show_verdict
from everlatch.errors import EverlatchError, InvalidArgumentError, describe
from everlatch.testing.builds import ZooKeeperNotFoundError

if TYPE_CHECKING:
    from everlatch.cli.election import Verdict

__all__ = ["app"]

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="An always-connected ZooKeeper client for Python.",
)


@app.callback()
def _everlatch() -> None:
    # With a callback, `demo` stays a command of its own even while it is the only one.
    pass


@app.command()
def demo(
    instances: Annotated[int, typer.Option(min=1, help="How many processes take part.")] = 6,
    hosts: Annotated[
        str | None, typer.Option(help="host:port,…/chroot of a running ZooKeeper; left out: starts a server.")
    ] = None,
    real: Annotated[
        bool, typer.Option("--real", help="Start a real ZooKeeper (it needs Java) instead of the dev server.")
    ] = False,
    session_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds; the servers have the last word.")] = 2.0,
    work: Annotated[float, typer.Option(min=0.0, help="Seconds that each leads before it kills itself.")] = 0.5,
    zookeeper_version: Annotated[
        str, typer.Option(help="Which ZooKeeper to start, or to behave like: 3.8 or 3.9.")
    ] = "3.8",
    timeout: Annotated[
        float | None, typer.Option(min=0.1, help="Seconds for the whole; left out: enough for all to lead.")
    ] = None,
    plain: Annotated[bool, typer.Option("--plain", help="Lines instead of a table, also on a terminal.")] = False,
) -> None:
    """Leaders that die without a word, and who takes over.

    Processes join one latch; each, once elected, works for a moment and kills itself with SIGKILL. The first leader is
    paused before that until another one leads, and then goes on writing. Ends by itself when all are dead. Exit status
    1: two led at once, somebody never did, or a write of a leader of the past was accepted.
    """
    try:
        options = Options(instances, hosts, real, session_timeout, work, zookeeper_version, timeout)
    except InvalidArgumentError as error:
        raise _failed(error, 2) from None
    console = Console()
    view = LiveView(console) if console.is_terminal and not plain else PlainView(console)
    verdict = _demonstrated(options, view)
    show_verdict(console, verdict)
    raise typer.Exit(0 if verdict.passed else 1)


@app.command()
def devserver(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 2181,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    zookeeper_version: Annotated[str, typer.Option(help="Which ZooKeeper to behave like: 3.8 or 3.9.")] = "3.9",
    tls_cert: Annotated[Path | None, typer.Option(help="Speak TLS, with this certificate (PEM).")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, unless that is in the same file.")] = None,
    tls_ca: Annotated[
        Path | None, typer.Option(help="Who signs the certificates of clients, which need not show one.")
    ] = None,
) -> None:
    """A ZooKeeper server in memory, for development and tests only, never for production. Ends with Ctrl-C.

    Nothing is stored or replicated, and anybody who reaches the port may do as he likes.
    """
    try:
        tls = tls_context(tls_cert, tls_key, tls_ca)
        ended_by = asyncio.run(serve_until_stopped(port, host, zookeeper_version, tls, _say))
    except InvalidArgumentError as error:
        raise _failed(error, 2) from None
    except OSError as error:
        print(f"everlatch: can't listen on {host}, port {port}: {error.strerror or error}", file=sys.stderr)
        raise typer.Exit(2) from None
    raise typer.Exit(128 + ended_by)


def _say(line: str) -> None:
    print(line, flush=True)


def _demonstrated(options: Options, view: View) -> Verdict:
    stopped_by: list[signal.Signals] = []
    try:
        return asyncio.run(_run(options, view, stopped_by))
    except (ZooKeeperNotFoundError, InvalidArgumentError) as error:
        raise _failed(error, 2) from None
    except EverlatchError as error:
        raise _failed(error, 1) from None
    except asyncio.CancelledError:
        raise typer.Exit(128 + stopped_by[0]) from None


async def _run(options: Options, view: View, stopped_by: list[signal.Signals]) -> Verdict:
    task = asyncio.current_task()
    assert task is not None

    def stop(number: signal.Signals) -> None:
        stopped_by.append(number)
        task.cancel()

    # By cancellation: the members, the server and its files are cleared away first.
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop, number)
    with view:
        return await run(options, view)


def _failed(error: EverlatchError, code: int) -> typer.Exit:
    print(f"everlatch: {describe(error)}", file=sys.stderr)
    return typer.Exit(code)
