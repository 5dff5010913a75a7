"""The command line: ``run.py COMMAND``, or ``gatelog COMMAND`` where it is installed.

One module per group of commands, imported when one of them is asked for; it imports what it needs
when it runs, so that no command starts slower than its work needs. Rules: a person gets a table, a
program gets ``--json``; what cannot be done is told in one line on standard error, with an exit
code other than 0 and never a traceback; a password is never an argument.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from pathlib import Path

import click

from gatelog.config import load_config
from gatelog.errors import GatelogError

# The modules of this package, and the commands in each.
COMMANDS = {
    "service": ("serve", "demo", "projector", "sealer"),
    "new": ("new",),
    "status": ("status",),
    "configuration": ("config",),
    "users": ("user",),
    "sessions": ("session",),
    "log": ("log",),
    "asof": ("as-of",),
    "compose": ("compose",),
    "keys": ("keys",),
    "database": ("migrate", "check", "rebuild", "after-restore"),
}
_MODULES = {command: module for module, commands in COMMANDS.items() for command in commands}


class _Commands(click.Group):
    """Imports the module of the command that is asked for, and no other."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _MODULES:
            return None
        module = import_module(f"{__name__}.{_MODULES[cmd_name]}")
        command: click.Command = getattr(module, cmd_name.replace("-", "_"))
        return command


@click.group(
    cls=_Commands,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(package_name="gatelog", prog_name="gatelog")
@click.pass_context
def cli(context: click.Context) -> None:
    """Gatelog: login sessions on an event log.

    Settings come from GATELOG_* variables; 'config' lists them.
    """
    context.obj = load_config(os.environ)


def main() -> None:
    """Run the command line and exit."""
    sys.exit(run(sys.argv[1:]))


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit code."""
    try:
        status = cli.main(arguments, prog_name=_program(), standalone_mode=False)
    except click.Abort:
        return _fail("stopped")
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except GatelogError as error:
        return _fail(str(error))
    except BrokenPipeError:  # the reader of our output has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return status if isinstance(status, int) else 0


def _program() -> str:
    """What the user has typed to get here: ``run.py``, or ``gatelog``."""
    name = Path(sys.argv[0]).name
    return "gatelog" if name == "__main__.py" else name


def _fail(reason: str) -> int:
    click.echo(f"gatelog: {' '.join(reason.split())}", err=True)
    return 1
