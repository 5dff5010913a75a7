"""Ways back in, on a real database and a real mail server, with a clock that moves when told to."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec
import pytest
from gatelog.accounts.rules.events import (
    LinkMade,
    LinkUsed,
    MailAddressVerified,
    PasswordLocked,
    RecoveryAsked,
)
from gatelog.accounts.service.acting import Actor
from gatelog.config import Config
from gatelog.errors import (
    InvalidCredentials,
    InvalidInput,
    LinkUnusable,
    LoginTaken,
    NotAuthenticated,
    RecoveryClosed,
    TooManyAttempts,
    WeakPassword,
)
from gatelog.privacy.rules import Client
from gatelog.testing.moving import MovedClock

from tests.accounts.house import HERE, NEW, PASSWORD, House, Opened, as_session
from tests.mail.server import Inbox

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection


async def test_who_forgot_a_password_gets_in_again(house: House) -> None:
    user_id = await house.user("ada", "ada@example.com")
    grants = [await house.accounts.logins.log_in("ada", PASSWORD, HERE) for _ in range(2)]
    token = await house.asked("ADA")
    (mail,) = house.inbox.mails
    assert mail.to == "ada@example.com" and "15 minutes" in mail.plain
    html = mail.message.get_body(("html",))
    assert html is not None and token in html.get_content()
    assert await house.rows("mail_outbox") == await house.rows("link_requests") == 0
    ended = await house.accounts.recovery.set_password(token, NEW, HERE)
    assert ended.ended == 3  # the one too in which the address was verified
    assert await house.accounts.sessions.list_sessions(user_id) == []
    with pytest.raises(InvalidCredentials):
        await house.accounts.logins.log_in("ada", PASSWORD)
    await house.accounts.logins.log_in("ada", NEW)
    await house.accounts.mailer.look()
    assert house.inbox.mails[-1].subject == "Your password was set anew"
    assert all(grant.token not in str(house.inbox.mails[-1].message) for grant in grants)


async def test_what_is_recorded_holds_no_token_and_no_address(house: House) -> None:
    await house.user("ada", "ada@example.com")
    token = await house.asked("ada")
    await house.accounts.recovery.set_password(token, NEW, HERE)
    found = await house.events()
    kinds = [type(e) for e in found if isinstance(e, RecoveryAsked | LinkMade | LinkUsed)]
    assert kinds == [LinkMade, RecoveryAsked, LinkMade, LinkUsed]
    entries = await house.connection.fetch("SELECT entry FROM events")
    everything = b"".join(row[0] for row in entries)
    assert token.encode() not in everything and b"ada" not in everything
    for table in ("links", "mail_outbox", "mail_addresses", "link_requests"):
        rows = await house.connection.fetch(f"SELECT t::text FROM {table} AS t")
        assert all(token not in row[0] and "example.com" not in row[0] for row in rows)


async def test_a_link_is_good_once(house: House) -> None:
    await house.user("ada", "ada@example.com")
    token = await house.asked("ada")
    outcomes = await asyncio.gather(
        *(house.accounts.recovery.set_password(token, f"{NEW} {n}") for n in range(8)),
        return_exceptions=True,
    )
    assert sum(not isinstance(each, BaseException) for each in outcomes) == 1
    assert sum(isinstance(each, LinkUnusable) for each in outcomes) == 7
    await house.refused(token)


async def test_a_link_is_late_after_a_quarter_of_an_hour(
    house: House, gatelog_clock: MovedClock
) -> None:
    await house.user("ada", "ada@example.com")
    token = await house.asked("ada")
    gatelog_clock.advance(901)
    await house.refused(token)
    gatelog_clock.advance(2 * 86_400)
    await house.accounts.mailer.look()
    assert await house.rows("links") == 0


async def test_another_password_ends_all_links(house: House) -> None:
    user_id = await house.user("ada", "ada@example.com")
    first, second = await house.asked("ada"), await house.asked("ada")
    third = (await house.accounts.recovery.reset(user_id)).token
    assert third is not None
    grant = await house.accounts.logins.log_in("ada", PASSWORD)
    await house.accounts.logins.change_password(as_session(grant.session), PASSWORD, NEW)
    for token in (first, second, third):
        await house.refused(token)


async def test_a_link_of_something_else_is_none(house: House, gatelog_clock: MovedClock) -> None:
    ada = await house.user("ada", "ada@example.com")
    grant = await house.accounts.logins.log_in("ada", PASSWORD)
    await house.refused(grant.token)
    await house.refused("x")
    await house.refused("A" * 43)
    await house.accounts.recovery.propose_address(as_session(grant.session), "b@example.com")
    await house.accounts.mailer.look()
    await house.refused(house.inbox.mails[-1].token)
    token = await house.asked("ada")
    with pytest.raises(LinkUnusable):
        await house.accounts.recovery.verify_address(token)
    await house.accounts.users.disable(ada)
    await house.refused(token)
    await house.accounts.users.enable(ada)
    await house.accounts.recovery.set_password(token, NEW)


async def test_a_weak_password_leaves_the_link(house: House) -> None:
    await house.user("ada", "ada@example.com")
    token = await house.asked("ada")
    with pytest.raises(WeakPassword):
        await house.accounts.recovery.set_password(token, "short")
    await house.accounts.recovery.set_password(token, NEW)


async def test_a_locked_password_is_unlocked(
    config: Config, opened: Opened, inbox: Inbox, connection: Connection
) -> None:
    config = msgspec.structs.replace(config, password_failures=20)
    async with opened(inbox.settings(config)) as accounts:
        house = House(accounts, inbox, connection)
        await house.user("ada", "ada@example.com")
        for _ in range(10):
            with pytest.raises(InvalidCredentials):
                await accounts.logins.log_in("ada", "wrong", HERE)
        assert any(isinstance(event, PasswordLocked) for event in await house.events())
        with pytest.raises(InvalidCredentials):
            await accounts.logins.log_in("ada", PASSWORD, HERE)
        await accounts.recovery.set_password(await house.asked("ada"), NEW)
        await accounts.logins.log_in("ada", NEW, HERE)


async def test_nobody_and_who_has_no_address_get_nothing(house: House) -> None:
    await house.user("grace")
    ada = await house.user("ada", "ada@example.com")
    await house.accounts.users.disable(ada)
    for login in ("nobody", "grace", "ada"):
        await house.accounts.recovery.ask(login, HERE)
    assert await house.rows("link_requests") == 3
    await house.accounts.mailer.look()
    assert await house.rows("link_requests") == 0
    assert house.inbox.mails == []
    asked = [event for event in await house.events() if isinstance(event, RecoveryAsked)]
    assert [event.subject_id for event in asked] == [None, None, None]


async def test_floods_are_throttled_and_told_within_the_bound(
    house: House, gatelog_clock: MovedClock
) -> None:
    await house.user("ada", "ada@example.com")
    await house.user("grace", "grace@example.com")

    async def flood(login: str, tries: int) -> int:
        """How many of these were admitted: five, and one a second later, two seconds later, ..."""
        admitted = tries
        for number in range(tries):
            place = Client(f"198.51.100.{number % 250}", None)
            try:
                await house.accounts.recovery.ask(login, place)
            except TooManyAttempts as refusal:
                assert refusal.retry_after_s
                admitted -= 1
        return admitted

    nobody, ada = await flood("nobody", 200), await flood("ada", 200)
    assert 5 <= nobody <= 9
    assert 4 <= ada <= 9  # who has given an address, by which she has asked for a link before
    asked = [event for event in await house.events() if isinstance(event, RecoveryAsked)]
    assert len(asked) == nobody + ada
    await house.accounts.recovery.ask("grace", HERE)
    await house.accounts.mailer.look()
    assert [mail.to for mail in house.inbox.mails].count("ada@example.com") == ada
    assert [mail.to for mail in house.inbox.mails].count("grace@example.com") == 1
    await house.accounts.logins.log_in("ada", PASSWORD, HERE)  # none of it counts there


async def test_where_no_mail_is_sent_an_operator_makes_a_link(
    config: Config, opened: Opened
) -> None:
    async with opened(config) as accounts:
        user_id = await accounts.logins.add_user("ada", PASSWORD)
        with pytest.raises(RecoveryClosed):
            await accounts.recovery.ask("ada")
        made = await accounts.recovery.reset(user_id)
        assert made.link is None and made.token is not None
        await accounts.recovery.set_password(made.token, NEW)
        await accounts.logins.log_in("ada", NEW)


async def test_an_administrator_is_handed_no_link_that_can_be_mailed(house: House) -> None:
    admin = Actor(await house.accounts.logins.add_user("root", PASSWORD, ("admin",)), HERE)
    ada, grace = await house.user("ada", "ada@example.com"), await house.user("grace")
    made = await house.accounts.recovery.reset(ada, admin)
    assert made.token is None and made.link is None
    await house.accounts.mailer.look()
    await house.accounts.recovery.set_password(house.inbox.mails[-1].token, NEW)
    made = await house.accounts.recovery.reset(grace, admin)
    assert made.link is not None and made.link.endswith(f"#reset={made.token}")
    links = [event for event in await house.events() if isinstance(event, LinkMade)]
    assert [event.actor_id for event in links if event.what == "reset"] == [admin.user_id] * 2
    with pytest.raises(NotAuthenticated):
        await house.accounts.recovery.reset(ada, Actor(grace, HERE))


async def test_who_is_invited_chooses_a_password_and_has_an_address(house: House) -> None:
    made = await house.accounts.recovery.invite("Eve", ("auditor",), "eve@example.com")
    assert made.token is None
    with pytest.raises(InvalidCredentials):
        await house.accounts.logins.log_in("eve", PASSWORD)
    with pytest.raises(LoginTaken):
        await house.accounts.recovery.invite("eve")
    await house.accounts.mailer.look()
    (mail,) = house.inbox.mails
    assert mail.to == "eve@example.com" and "7 days" in mail.plain
    await house.accounts.recovery.set_password(mail.token, NEW)
    grant = await house.accounts.logins.log_in("eve", NEW)
    assert grant.session.roles == ("auditor",)
    found = await house.accounts.recovery.address_of(made.subject_id)
    assert found is not None and found[0] == "eve@example.com"
    assert any(isinstance(event, MailAddressVerified) for event in await house.events())
    await house.refused(mail.token)


async def test_an_address_changes_by_a_link_and_the_old_one_is_told(house: House) -> None:
    user_id = await house.user("ada", "old@example.com")
    grant = await house.accounts.logins.log_in("ada", PASSWORD)
    session = as_session(grant.session)
    await house.accounts.recovery.propose_address(session, "new@Example.COM")
    await house.accounts.mailer.look()
    found = await house.accounts.recovery.address_of(user_id)
    assert found is not None and found[0] == "old@example.com"
    await house.accounts.recovery.verify_address(house.inbox.mails[-1].token)
    found = await house.accounts.recovery.address_of(user_id)
    assert found is not None and found[0] == "new@example.com"
    await house.accounts.mailer.look()
    assert (house.inbox.mails[-1].to, house.inbox.mails[-1].subject) == (
        "old@example.com",
        "Your address was changed",
    )
    assert await house.accounts.recovery.remove_address(session) is not None
    assert await house.accounts.recovery.remove_address(session) is None
    assert await house.accounts.recovery.address_of(user_id) is None


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ada",
        "a@b@c",
        "a b@example.com",
        "a@example.com\nBcc: x@y",
        "ä@example.com",
        "a@-b.c",
        f"{'a' * 65}@example.com",
        f"a@{'b' * 64}",
        f"a@{'b.' * 130}c",
        '"a"@b',
        "a@[::1]",
    ],
)
async def test_what_is_no_address_is_refused(house: House, address: str) -> None:
    await house.accounts.logins.add_user("ada", PASSWORD)
    grant = await house.accounts.logins.log_in("ada", PASSWORD)
    with pytest.raises(InvalidInput):
        await house.accounts.recovery.propose_address(as_session(grant.session), address)


async def test_nothing_is_left_of_who_is_erased(house: House) -> None:
    user_id = await house.user("ada", "ada@example.com")
    await house.accounts.recovery.reset(user_id)
    await house.accounts.recovery.ask("ada", HERE)
    await house.accounts.recovery.answer()
    assert await house.rows("mail_outbox") == 1
    await house.accounts.users.erase(user_id)
    for table in ("links", "mail_outbox", "mail_addresses"):
        assert await house.rows(table) == 0
    await house.accounts.mailer.look()
    assert house.inbox.mails == []
