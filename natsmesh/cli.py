"""``natsmesh``: finds the subcommand, and turns how it ended into a message and an exit code."""

from __future__ import annotations

import importlib
import os
import sys
from typing import NoReturn

import click

from natsmesh.exits import Exit, Failure

_COMMANDS = (
    "dev",
    "serve",
    "gateway",
    "broker",
    "list",
    "describe",
    "call",
    "jobs",
    "events",
    "logs",
    "syslog",
    "protos",
    "version",
)


class _Commands(click.Group):
    """Imports a subcommand's module when it is asked for, so that a back-end does not load what a gateway needs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command = importlib.import_module(f"natsmesh.commands.{cmd_name}").command
        return command if isinstance(command, click.Command) else None


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
    epilog="Exit codes: 0 done, 1 failed, 2 wrong usage or broken service, 3 no broker, 4 port taken, 5 not found, "
    "64+N gRPC status N.",
)
def cli() -> None:
    """Services without addresses: gRPC over NATS. Run them, serve them over HTTP, look at them, call them."""


def main() -> NoReturn:
    """Run the command line and exit."""
    try:
        code = cli.main(prog_name="natsmesh", standalone_mode=False)
    except Failure as failure:
        click.echo(f"natsmesh: {failure.message}", err=True)
        code = failure.code
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = Exit.SIGNAL + 2
    except BrokenPipeError:
        # Whoever read our output has seen enough (`natsmesh list | head -1`).
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.OK
    sys.exit(code if isinstance(code, int) else Exit.OK)
