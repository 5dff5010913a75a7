"""The outbox and a real mail server: down, slow, refusing; and a sender that is killed."""

from __future__ import annotations

import asyncio
import os
import signal
import ssl
import sys
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from gatelog.accounts.service.accounts import Accounts
from gatelog.config import Config, load_config
from gatelog.errors import ConfigError
from gatelog.testing.moving import MovedClock

from tests.accounts.house import Opened
from tests.conftest import Dsns
from tests.mail.server import PAGE, SENDER, Inbox, mail_server
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

STEPS = ("due", "started", "taken", "forgotten")
PATIENCE_S = 60


async def invite(accounts: Accounts, number: int) -> UUID:
    made = await accounts.recovery.invite(f"user-{number}", (), f"user-{number}@example.com")
    return made.subject_id


async def test_a_mail_says_where_it_is_from_and_what_it_is(
    config: Config, opened: Opened, inbox: Inbox
) -> None:
    async with opened(inbox.settings(config)) as accounts:
        await invite(accounts, 1)
        await accounts.mailer.look()
    (mail,) = inbox.mails
    assert str(mail.message["From"]) == SENDER
    assert str(mail.message["To"]) == "user-1@example.com"
    assert mail.message["Auto-Submitted"] == "auto-generated"
    assert str(mail.message["Message-ID"]).endswith("@example.com>")
    assert f"{PAGE}#invitation={mail.token}" in mail.plain


async def test_a_server_that_is_down_delays_mail_and_nothing_else(
    config: Config, opened: Opened, inbox: Inbox, gatelog_clock: MovedClock
) -> None:
    down = inbox.settings(config, "smtp://127.0.0.1:1")
    async with opened(down) as accounts:
        for number in range(3):
            await invite(accounts, number)
        await accounts.mailer.look()
        counts = await accounts.outbox.counts()
        assert (counts.waiting, counts.delayed, counts.dead) == (3, 3, 0)
    async with opened(inbox.settings(config)) as accounts:
        await accounts.mailer.look()
        assert inbox.mails == []  # not yet: five seconds after a first failure
        gatelog_clock.advance(5)
        await accounts.mailer.look()
        assert len(inbox.mails) == 3
        await accounts.recovery.set_password(inbox.mails[0].token, "quite another password")
        assert (await accounts.outbox.counts()).waiting == 0


async def test_a_link_that_was_delayed_is_good_from_when_it_goes_out(
    config: Config, opened: Opened, inbox: Inbox, gatelog_clock: MovedClock
) -> None:
    async with opened(inbox.settings(config)) as accounts:
        await invite(accounts, 1)
        await accounts.mailer.look()
        await accounts.recovery.set_password(inbox.mails.pop().token, "quite another password")
        await accounts.recovery.ask("user-1")
    async with opened(inbox.settings(config, "smtp://127.0.0.1:1")) as accounts:
        await accounts.mailer.look()
    gatelog_clock.advance(7200)
    async with opened(inbox.settings(config)) as accounts:
        await accounts.mailer.look()
        gatelog_clock.advance(800)
        await accounts.recovery.set_password(inbox.mails[-1].token, "and yet another password")


async def test_a_mail_is_given_up_after_a_day_and_what_it_said_is_gone(
    config: Config, opened: Opened, inbox: Inbox, gatelog_clock: MovedClock, connection: Connection
) -> None:
    inbox.to_data = "451 later"
    async with opened(inbox.settings(config)) as accounts:
        await invite(accounts, 1)
        tries = 0
        while not (await accounts.outbox.counts()).dead:
            await accounts.mailer.look()
            tries += 1
            gatelog_clock.advance(3600)
        assert 24 <= tries <= 27
        assert await connection.fetchval("SELECT sealed FROM mail_outbox") == b""
        gatelog_clock.advance(86_400 * 31)
        await invite(accounts, 2)
        await accounts.mailer.look()
        assert (await accounts.outbox.counts()).dead == 0


async def test_who_does_not_exist_there_gets_no_second_try_and_others_get_theirs(
    config: Config, opened: Opened, inbox: Inbox
) -> None:
    inbox.to_recipients = lambda to: "550 nobody" if to == "user-1@example.com" else "250 OK"
    async with opened(inbox.settings(config)) as accounts:
        for number in range(3):
            await invite(accounts, number)
        await accounts.mailer.look()
        counts = await accounts.outbox.counts()
        assert (counts.waiting, counts.dead) == (0, 1)
    assert sorted(mail.to for mail in inbox.mails) == ["user-0@example.com", "user-2@example.com"]


async def test_what_is_overtaken_is_not_sent(config: Config, opened: Opened, inbox: Inbox) -> None:
    async with opened(inbox.settings(config)) as accounts:
        erased, changed = await invite(accounts, 1), await invite(accounts, 2)
        await accounts.users.erase(erased)
        token = (await accounts.recovery.reset(changed)).token
        assert token is not None
        await accounts.recovery.set_password(token, "quite another password")
        await accounts.mailer.look()
    assert [mail.subject for mail in inbox.mails] == []


async def test_one_process_sends_at_a_time(config: Config, opened: Opened, inbox: Inbox) -> None:
    async with opened(inbox.settings(config)) as accounts:
        async with accounts.outbox.turn() as mine, accounts.outbox.turn() as other:
            assert mine is not None and other is None
            assert await mine.lasts()
        async with accounts.mailer.working(), accounts.mailer.working():
            for number in range(20):
                await invite(accounts, number)
            await until(lambda: len(inbox.mails) >= 20, within_s=PATIENCE_S)
    assert sorted(mail.to for mail in inbox.mails) == sorted(
        f"user-{number}@example.com" for number in range(20)
    )


# --- a folder of texts


async def test_a_folder_has_other_texts(
    config: Config, opened: Opened, inbox: Inbox, tmp_path: Path
) -> None:
    (tmp_path / "invitation.txt").write_text("Subject: Moin $login\n\nKlick: $link $$5\n")
    (tmp_path / "invitation.html").write_text("<p>$login</p>")
    config = msgspec.structs.replace(inbox.settings(config), mail_templates=str(tmp_path))
    async with opened(config) as accounts:
        await accounts.recovery.invite("<b>&you", (), "you@example.com")
        await accounts.mailer.look()
    (mail,) = inbox.mails
    assert mail.subject == "Moin <b>&you" and "$5" in mail.plain
    html = mail.message.get_body(("html",))
    assert html is not None and "<p>&lt;b&gt;&amp;you</p>" in html.get_content()


@pytest.mark.parametrize("text", ["no subject\n", "Subject: x\nbody", "Subject: x\n\n$password"])
async def test_a_text_that_is_none_says_so(
    config: Config, opened: Opened, inbox: Inbox, tmp_path: Path, text: str
) -> None:
    (tmp_path / "reset.txt").write_text(text)
    config = msgspec.structs.replace(inbox.settings(config), mail_templates=str(tmp_path))
    async with opened(config) as accounts:
        await invite(accounts, 1)
        with pytest.raises(ConfigError, match="GATELOG_MAIL_TEMPLATES"):
            await accounts.mailer.look()
        assert (await accounts.outbox.counts()).waiting == 1


def test_mail_needs_a_sender_and_a_page() -> None:
    ready = {
        "GATELOG_SMTP_URL": "smtps://a:b@mail.example",
        "GATELOG_MAIL_FROM": SENDER,
        "GATELOG_LINK_URL": PAGE,
    }
    assert load_config(ready).mails
    for missing in ("GATELOG_MAIL_FROM", "GATELOG_LINK_URL"):
        with pytest.raises(ConfigError, match="mails need"):
            load_config({name: value for name, value in ready.items() if name != missing})
    for url in ("http://mail.example", "smtp://", "smtps://a:secret@host:x"):
        with pytest.raises(ConfigError) as refused:
            load_config(ready | {"GATELOG_SMTP_URL": url})
        assert "secret" not in str(refused.value)
    for sender in ("nobody", "a@b\nBcc: c@d"):
        with pytest.raises(ConfigError):
            load_config(ready | {"GATELOG_MAIL_FROM": sender})


# --- TLS


def certificate(directory: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    """A server's context with a certificate that has signed itself, for this name or address."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "mail")])
    alternative: x509.GeneralName = x509.DNSName(name)
    if name[0].isdigit():
        alternative = x509.IPAddress(IPv4Address(name))
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([alternative]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = directory / "certificate.pem"
    path.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, directory / "key.pem")
    return context, path


@pytest.mark.parametrize("scheme", ["smtps", "smtp+starttls"])
@pytest.mark.parametrize("trusted", ["trusted", "unknown", "another name"])
async def test_mail_goes_by_tls_to_who_the_url_names(
    config: Config,
    opened: Opened,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    scheme: str,
    trusted: str,
) -> None:
    name = "elsewhere.example" if trusted == "another name" else "127.0.0.1"
    context, path = certificate(tmp_path, name)
    if trusted != "unknown":
        monkeypatch.setenv("SSL_CERT_FILE", str(path))
    async with mail_server(tls=context, implicit=scheme == "smtps") as inbox:
        async with opened(inbox.settings(config, f"{scheme}://127.0.0.1:{inbox.port}")) as accounts:
            await invite(accounts, 1)
            await accounts.mailer.look()
            waiting = (await accounts.outbox.counts()).waiting
        assert (len(inbox.mails), waiting) == ((1, 0) if trusted == "trusted" else (0, 1))


async def test_a_server_without_starttls_gets_nothing(
    config: Config, opened: Opened, inbox: Inbox
) -> None:
    config = inbox.settings(config, f"smtp+starttls://127.0.0.1:{inbox.port}")
    async with opened(config) as accounts:
        await invite(accounts, 1)
        await accounts.mailer.look()
        assert (await accounts.outbox.counts()).delayed == 1
    assert inbox.mails == []


# --- a sender that is killed


async def send_until(step: str, nth: int, inbox: Inbox, database: Dsns, directory: Path) -> int:
    """A process of its own sends, and kills itself at this step, the n-th time; its exit code."""
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.mail.sender",
        *(step, str(nth), str(inbox.port), database.app, str(directory)),
        cwd=Path(__file__).parent.parent.parent,
    )
    try:
        return await asyncio.wait_for(child.wait(), PATIENCE_S)
    finally:
        if child.returncode is None:
            os.kill(child.pid, signal.SIGKILL)


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("nth", [1, 2])
async def test_a_sender_that_is_killed_loses_no_mail_and_tells_nobody_else(
    config: Config,
    opened: Opened,
    database: Dsns,
    inbox: Inbox,
    tmp_path: Path,
    *,
    step: str,
    nth: int,
) -> None:
    async with opened(inbox.settings(config)) as accounts:
        for number in range(3):
            await invite(accounts, number)
        if step == "due" and nth == 2:
            nth = 1
        assert await send_until(step, nth, inbox, database, tmp_path) == -signal.SIGKILL
        await accounts.mailer.look()
        assert (await accounts.outbox.counts()).waiting == 0
        expected = [f"user-{number}@example.com" for number in range(3)]
        got = [mail.to for mail in inbox.mails]
        assert sorted(set(got)) == expected
        assert len(got) == (4 if step == "taken" else 3)  # at least once: the same mail again
        assert len({mail.message["Message-ID"] for mail in inbox.mails}) == 3
        for to in expected:
            token = next(mail.token for mail in reversed(inbox.mails) if mail.to == to)
            await accounts.recovery.set_password(token, "quite another password")


async def test_what_was_not_committed_is_told_nobody(
    config: Config, opened: Opened, inbox: Inbox, connection: Connection
) -> None:
    """The mail and the event come to be in one statement: where it fails, there is neither."""
    async with opened(inbox.settings(config)) as accounts:
        await invite(accounts, 1)
        before = await connection.fetchval("SELECT position FROM log_head")
        outcomes = await asyncio.gather(
            *(accounts.recovery.invite("user-2", (), f"other-{n}@example.com") for n in range(5)),
            return_exceptions=True,
        )
        assert sum(not isinstance(each, BaseException) for each in outcomes) == 1
        assert await connection.fetchval("SELECT position FROM log_head") == before + 2
        await accounts.mailer.look()
    assert len(inbox.mails) == 2
