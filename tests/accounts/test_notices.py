"""What users are told by mail of their accounts: logins from new devices, changed credentials."""

from __future__ import annotations

from base64 import b32decode

import pytest
from gatelog.accounts.rules.devices import MAX_DEVICES, KnownDevices
from gatelog.accounts.rules.events import DeviceAdded
from gatelog.accounts.rules.totp import code_of, step_at
from gatelog.accounts.service.grants import Grant
from gatelog.accounts.service.notices import To
from gatelog.config import Config
from gatelog.errors import InvalidCredentials
from gatelog.privacy.rules import Client
from gatelog.testing.moving import MovedClock

from tests.accounts.house import HERE, NEW, PASSWORD, House, Opened, as_session

FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"
THERE = Client("198.51.100.9", FIREFOX)


async def log_in(house: House, *devices: str, client: Client = HERE) -> Grant:
    return await house.accounts.logins.log_in("ada", PASSWORD, client, devices)


async def added(house: House) -> list[DeviceAdded]:
    return [event for event in await house.events() if isinstance(event, DeviceAdded)]


async def test_a_login_from_a_new_device_is_an_event_and_a_mail(
    house: House, gatelog_clock: MovedClock
) -> None:
    user_id = await house.user("ada", "ada@example.com")
    first = await log_in(house)
    assert first.device is not None
    await log_in(house, first.device)
    assert await added(house) == [], "the first device of an account, and the same again"
    new = await log_in(house, client=THERE)
    (event,) = await added(house)
    assert (event.subject_id, event.session_id) == (user_id, new.session.session_id)
    await house.accounts.mailer.look()
    (mail,) = house.inbox.mails
    assert (mail.to, mail.subject) == ("ada@example.com", "A login from a new device")
    flowing = " ".join(mail.plain.split())
    assert "Hello ada," in flowing and "Firefox on Linux" in flowing
    assert f"{gatelog_clock():%Y-%m-%d %H:%M} UTC" in flowing
    assert "http" not in flowing and "198.51.100.9" not in flowing
    assert new.device is not None
    await log_in(house, new.device, client=THERE)
    assert len(await added(house)) == 1


async def test_another_account_s_device_is_new(house: House) -> None:
    await house.user("ada", "ada@example.com")
    await house.user("eve")
    await log_in(house)
    eve = await house.accounts.logins.log_in("eve", PASSWORD, HERE, ())
    assert eve.device is not None
    await log_in(house, eve.device)
    (event,) = await added(house)
    assert event.subject_id != eve.session.subject_id


async def log_in_without_cookies(house: House, client: Client = HERE) -> Grant:
    return await house.accounts.logins.log_in("ada", PASSWORD, client)


async def test_a_client_that_keeps_no_cookie_is_as_new_as_its_place(house: House) -> None:
    """So a stolen password is told of, whatever the thief's client keeps."""
    user_id = await house.user("ada", "ada@example.com")
    await log_in_without_cookies(house)
    await log_in_without_cookies(house)
    assert await added(house) == [], "the first login of all, and the same place again"
    stolen = await log_in_without_cookies(house, THERE)
    (event,) = await added(house)
    assert (event.subject_id, event.session_id) == (user_id, stolen.session.session_id)
    await house.accounts.mailer.look()
    (mail,) = house.inbox.mails
    assert mail.subject == "A login from a new device"
    await log_in_without_cookies(house, THERE)
    assert len(await added(house)) == 1


async def test_who_uses_a_browser_and_something_else_in_one_place_is_told_of_neither(
    house: House,
) -> None:
    await house.user("ada")
    await log_in_without_cookies(house)
    first = await log_in(house)
    assert first.device is not None
    await log_in_without_cookies(house)
    await log_in(house, first.device, client=THERE)
    await log_in_without_cookies(house, THERE)
    assert await added(house) == []
    await log_in(house)
    assert len(await added(house)) == 1, "another browser is new, also where one is known"


async def test_a_changed_password_forgets_places(house: House) -> None:
    await house.user("ada")
    for client in (HERE, THERE):
        grant = await log_in_without_cookies(house, client)
    session = as_session(grant.session)
    await house.accounts.logins.change_password(session, PASSWORD, NEW, THERE)
    before = len(await added(house))
    await house.accounts.logins.log_in("ada", NEW, THERE)
    assert len(await added(house)) == before
    await house.accounts.logins.log_in("ada", NEW, HERE)
    assert len(await added(house)) == before + 1


async def test_places_give_way_to_places_alone(house: House) -> None:
    await house.user("ada")
    first = await log_in(house)
    assert first.device is not None
    for number in range(MAX_DEVICES + 2):
        await log_in_without_cookies(house, Client(f"203.0.{number}.7"))
    assert await house.rows("known_devices") == MAX_DEVICES + 1
    before = len(await added(house))
    await log_in(house, first.device)
    assert len(await added(house)) == before


@pytest.mark.parametrize("any_known", [True, False])
@pytest.mark.parametrize("by_token", [True, False])
@pytest.mark.parametrize("this_place", [True, False])
@pytest.mark.parametrize("keeps_tokens", [True, False])
def test_what_is_new(
    *, any_known: bool, by_token: bool, this_place: bool, keeps_tokens: bool
) -> None:
    if (by_token or this_place) and not any_known:
        return
    known = KnownDevices(any_known, by_token, this_place)
    as_known = this_place and not (keeps_tokens and by_token)
    assert known.is_new(keeps_tokens=keeps_tokens) == (any_known and not as_known)


async def test_a_wrong_password_on_a_new_device_is_no_login(house: House) -> None:
    await house.user("ada", "ada@example.com")
    await log_in(house)
    with pytest.raises(InvalidCredentials):
        await house.accounts.logins.log_in("ada", NEW, THERE, ())
    assert await added(house) == [] and await house.rows("mail_outbox") == 0


async def test_without_an_address_or_mail_there_is_the_event_alone(
    house: House, config: Config, opened: Opened
) -> None:
    await house.user("ada")
    await log_in(house)
    await log_in(house)
    async with opened(config) as silent:  # the same database, and no mail server
        await silent.logins.log_in("ada", PASSWORD, HERE, ())
    assert len(await added(house)) == 2 and await house.rows("mail_outbox") == 0


async def test_who_changes_a_password_is_told(house: House) -> None:
    await house.user("ada", "ada@example.com")
    grant = await log_in(house)
    session, devices = as_session(grant.session), (grant.device or "",)
    await house.accounts.logins.change_password(session, PASSWORD, NEW, THERE, devices)
    await house.accounts.mailer.look()
    (mail,) = house.inbox.mails
    assert mail.subject == "Your password was changed" and "Firefox on Linux" in mail.plain


async def test_who_changes_factors_is_told_of_each(house: House, gatelog_clock: MovedClock) -> None:
    user_id = await house.user("ada", "ada@example.com")
    factors = house.accounts.factors
    session = as_session((await log_in(house)).session)
    offer = await factors.offer_seed(session)
    code = code_of(b32decode(offer.secret), step_at(gatelog_clock()))
    await factors.enrol_seed(session, offer.challenge, code, name="phone", client=THERE)
    await factors.reset(user_id)
    await factors.reset(user_id)  # there is none any more
    await house.accounts.mailer.look()
    assert [mail.subject for mail in house.inbox.mails] == [
        "A second factor was added",
        "A second factor was removed",
    ]


async def test_a_mail_of_a_newer_program_waits_for_it(house: House) -> None:
    user_id = await house.user("ada", "ada@example.com")
    key = await house.accounts._personal.key_of(user_id)
    assert key is not None
    to = To(user_id, "ada", "ada@example.com", key)
    mail = house.accounts._notices.mail("of_next_year", to)
    await house.connection.execute(
        "INSERT INTO mail_outbox (mail_id, subject_id, sealed, written_at, due_at, tries)"
        " VALUES ($1, $2, $3, $4, $4, 0)",
        mail.mail_id,
        user_id,
        mail.sealed,
        mail.written_at,
    )
    await house.accounts.mailer.look()
    counts = await house.accounts.outbox.counts()
    assert house.inbox.mails == [] and (counts.waiting, counts.dead) == (1, 0)
