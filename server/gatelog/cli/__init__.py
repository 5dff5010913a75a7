"""The command line: ``run.py COMMAND``, or ``gatelog COMMAND`` where it is installed.

One module per group of commands; each imports what it needs when it runs, so that ``--help`` is
quick. Rules: a person gets a table, a program gets ``--json``; what cannot be done is told in one
line on standard error, with an exit code other than 0 and never a traceback; a password is never
an argument.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from gatelog.cli.asof import as_of
from gatelog.cli.configuration import config
from gatelog.cli.database import after_restore, check, migrate, rebuild
from gatelog.cli.keys import keys
from gatelog.cli.log import log
from gatelog.cli.service import demo, projector, sealer, serve
from gatelog.cli.sessions import session
from gatelog.cli.status import status
from gatelog.cli.users import user
from gatelog.config import load_config
from gatelog.errors import GatelogError


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="gatelog", prog_name="gatelog")
@click.pass_context
def cli(context: click.Context) -> None:
    """Gatelog: login sessions on an event log.

    Settings come from GATELOG_* variables; 'config' lists them.
    """
    context.obj = load_config(os.environ)


for command in (
    *(serve, demo, status, projector, sealer, config),
    *(user, session, log, as_of, keys),
    *(migrate, check, rebuild, after_restore),
):
    cli.add_command(command)


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
