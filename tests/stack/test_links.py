"""Links by the command line, and mail from the processes of a running service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from aiosmtpd.controller import Controller

from tests.mail.server import PAGE, SENDER, Inbox
from tests.scratch import in_temporary_directory
from tests.stack.service import PASSWORD, Service, run_command, serving
from tests.waiting import eventually, free_port

NEW_PASSWORD = "quite another long password"
PATIENCE_S = 30


@pytest.fixture(scope="module")
def inbox() -> Iterator[Inbox]:
    """A mail server in a thread."""
    inbox = Inbox()
    inbox.port = free_port()
    controller = Controller(inbox, hostname="127.0.0.1", port=inbox.port)
    controller.start()
    yield inbox
    controller.stop()


@pytest.fixture(scope="module")
def settings(inbox: Inbox) -> dict[str, str]:
    return {
        "GATELOG_SMTP_URL": f"smtp://127.0.0.1:{inbox.port}",
        "GATELOG_MAIL_FROM": SENDER,
        "GATELOG_PUBLIC_URL": PAGE,
    }


@pytest.fixture(scope="module")
def service(settings: dict[str, str]) -> Iterator[Service]:
    with (
        in_temporary_directory() as directory,
        serving(Path(directory) / "var", GATELOG_REGISTRATION="closed", **settings) as started,
    ):
        yield started


def confirm(service: Service, token: str) -> int:
    body = {"token": token, "new_password": NEW_PASSWORD}
    return service.request("POST", "/v1/recover/confirm", body).status


def test_a_link_is_printed_and_works_once(service: Service, settings: dict[str, str]) -> None:
    added = run_command(
        service.data_dir, "user", "add", "ada", "--password-file", "-", stdin=PASSWORD + "\n"
    )
    assert added.returncode == 0, added.stderr
    cookie = service.log_in("ada").cookie
    done = run_command(service.data_dir, "user", "reset", "ada", **settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{PAGE}#reset=")
    token = done.stdout.strip().rpartition("=")[2]
    assert confirm(service, token) == 200
    assert service.me(cookie) == 401
    assert confirm(service, token) == 403
    assert service.log_in("ada", NEW_PASSWORD).status == 200
    none = run_command(service.data_dir, "user", "reset", "nobody")
    assert none.returncode == 1 and "no user with this login" in none.stderr


def test_an_invitation_goes_out_by_mail(
    service: Service, inbox: Inbox, settings: dict[str, str]
) -> None:
    arguments = ("user", "invite", "eve", "--address", "eve@example.com", "--role", "auditor")
    done = run_command(service.data_dir, *arguments, **settings)
    assert done.returncode == 0, done.stderr
    assert "goes out by mail" in done.stdout
    eventually(lambda: bool(inbox.mails), PATIENCE_S, "the mail")
    assert confirm(service, inbox.mails.pop().token) == 200
    assert service.log_in("eve", NEW_PASSWORD).status == 200
    assert service.request("POST", "/v1/recover", {"login": "eve"}).status == 202
    eventually(lambda: bool(inbox.mails), PATIENCE_S, "the mail")
    assert inbox.mails[-1].to == "eve@example.com"
    told = run_command(service.data_dir, "status", "--json", **settings)
    assert json.loads(told.stdout)["mails"]["dead"] == 0
    metrics = service.request("GET", "/metrics").body.decode()
    assert 'gatelog_mails{state="waiting"}' in metrics
    invited = run_command(service.data_dir, "user", "invite", "mia", "--json")
    assert json.loads(invited.stdout)["link"] is None
    assert confirm(service, json.loads(invited.stdout)["token"]) == 200
