"""``serve`` and ``demo``: the running service, and a walk through what it promises."""

from __future__ import annotations

import click

from gatelog.cli.output import json_option
from gatelog.config import Config


@click.command()
@click.option(
    "--reload",
    is_flag=True,
    help="For development: start the workers again when the application's source changes.",
)
@click.pass_obj
def serve(config: Config, reload: bool) -> None:
    """Run the service until it is stopped (Ctrl-C, SIGTERM)."""
    import os

    from gatelog.host.logs import configure_logging
    from gatelog.host.supervisor import serve as run

    configure_logging(config)
    if reload:
        # a cached module counts as fresh for a second after it was written, if its length is right
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    run(config, lambda url: click.echo(walk(url)), reload=reload)


def walk(url: str) -> str:
    """The address and the curl lines that walk login to logout."""
    body = """'{"login": "ada", "password": "correct horse battery staple"}'"""
    json = f"-H 'Content-Type: application/json' -d {body}"
    lines = [
        ("401: nobody is logged in", f"{url}/v1/me"),
        ("201: the first user; registration closes with it", f"{json} {url}/v1/register_user"),
        (
            "200: logged in, the cookie is in cookies.txt",
            f"-c cookies.txt {json} {url}/v1/login_user",
        ),
        ("200: this is you", f"-b cookies.txt {url}/v1/me"),
        ("200: logged out", f"-b cookies.txt -X POST {url}/v1/logout_user"),
        ("401: the cookie is worth nothing any more", f"-b cookies.txt {url}/v1/me"),
    ]
    walked = "\n".join(f"# {answer}\ncurl -i {arguments}" for answer, arguments in lines)
    return f"Gatelog answers on {url}\n\n{walked}\n\nStop it with Ctrl-C."


@click.command()
@click.pass_obj
def projector(config: Config) -> None:
    """Run this host's projector alone; 'serve' runs one by itself."""
    from gatelog.host.projector import run

    run(config)


@click.command()
@click.pass_obj
def sealer(config: Config) -> None:
    """Run the log's sealer alone; 'serve' runs one by itself."""
    from gatelog.host.sealer import run

    run(config)


@click.command()
@json_option
@click.pass_obj
def demo(config: Config, as_json: bool) -> int:
    """Walk login to logout, against the running service or a temporary one.

    The exit code is 0 only if every answer was the promised one.
    """
    from gatelog.cli.demo import run

    return run(config, as_json)
