"""``config``: every setting, its value and its meaning."""

from __future__ import annotations

import click

from gatelog.cli.output import json_option, print_json, print_table
from gatelog.config import Config, settings_of


@click.command()
@json_option
@click.pass_obj
def config(config: Config, as_json: bool) -> None:
    """Show every setting; secrets are masked, and may come from a file (NAME_FILE)."""
    settings = settings_of(config)
    if as_json:
        print_json(settings)
        return
    rows = [(s.variable, s.value, s.default, s.meaning) for s in settings]
    print_table("Settings", ["variable", "value", "default", "meaning"], rows)
