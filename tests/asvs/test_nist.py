"""NIST SP 800-63B-4: what limits guessing (3.2.2), and section 5, sessions."""

from __future__ import annotations

from http.cookies import SimpleCookie

import msgspec
import pytest
from gatelog.config import Config, load_config
from gatelog.errors import ConfigError
from gatelog.hosting.app import create_app
from gatelog.testing.moving import MovedClock

from tests.asvs.test_v7_sessions import PAGE, documented_default, statuses, true_default
from tests.conftest import Dsns
from tests.serving import PASSWORD, SECURE_HOST, Service, serving

WRONG = "a wrong phrase, though"
LEVELS = (("aal1", 86_400 * 30, 0), ("aal2", 86_400, 3600), ("aal3", 43_200, 900))


async def test_nist_3_2_2(config: Config, database: Dsns) -> None:
    """After GATELOG_PASSWORD_FAILURES (100, never more) failures in a row the password opens
    nothing until it is unlocked or changed, which is the event ``password_locked``; the last ten
    are a known device's, so that a stranger locks strangers out and not the owner."""
    assert Config().password_failures <= 100
    own = msgspec.structs.replace(config, login_tries=100_000, password_failures=20)
    async with serving(create_app(own, database.app), own) as service:
        await service.register()
        login = await service.log_in()
        for _ in range(10):
            assert (await service.log_in(password=WRONG)).status in {401, 429}
        assert (await service.log_in()).status in {401, 429}
        assert (await service.log_in(headers={"Cookie": login.device})).status == 200
        path = "/v1/me/events?type=password_locked"
        events = (await service.get(path, cookie=login.token)).json["events"]
        assert [each["reason"] for each in events] == ["unknown_devices"]


async def test_nist_5(alice: Service) -> None:
    """A session begins with the verification of a password and in no other way; from then on its
    secret stands for it, until a logout, a revocation, a change of the password or its time ends
    it. The password is asked for once, not with each request."""
    assert (await alice.log_in(password="a wrong phrase, though")).status == 401
    login = await alice.log_in()
    for _ in range(3):
        assert await statuses(alice, token=login.token) == {200}
    basic = {"Authorization": "Basic YWxpY2U6YSByYXRoZXIgbG9uZyBwaHJhc2U="}
    assert (await alice.get("/v1/me", headers=basic)).status == 401
    await alice.post("/v1/logout_user", cookie=login.token)
    assert await statuses(alice, token=login.token) == {401}


async def test_nist_5_1(alice: Service, gatelog_clock: MovedClock) -> None:
    """The secret is 256 random bits, made by the service after the password was verified, known to
    the client and, as a digest, to the service. A logout ends it there and has the browser forget
    it; its time ends it, too, by the limits of NIST's levels if so configured. The cookie does not
    travel without TLS and is not taken from there, and what changes something is held against the
    page's origin (V3.5.1)."""
    before = await alice.log_in("alice", "a wrong phrase, though")
    assert "Set-Cookie" not in before.headers
    login = await alice.log_in(headers=SECURE_HOST)
    assert "; Secure;" in login.set_cookie
    assert len(login.token) == 43
    plain = {"Cookie": f"gatelog={login.token}", **SECURE_HOST}
    assert (await alice.get("/v1/me", headers=plain)).status == 401
    over_tls = {"Cookie": f"__Host-gatelog={login.token}", **SECURE_HOST}
    assert (await alice.get("/v1/me", headers=over_tls)).status == 200
    logout = await alice.post("/v1/logout_user", headers=over_tls)
    assert logout.set_cookie.startswith("__Host-gatelog=; Max-Age=0; ")
    assert (await alice.get("/v1/me", headers=over_tls)).status == 401
    late = await alice.token()
    gatelog_clock.advance(Config().session_lifetime_s + 1)
    assert await statuses(alice, token=late) == {401}


async def test_nist_5_1_1(alice: Service) -> None:
    """``__Host-gatelog``: ``Secure``, ``HttpOnly``, ``SameSite=Lax``, ``Path=/``, no ``Domain``, an
    opaque token without a word about the person, and a ``Max-Age`` that ends with the session,
    which the service does not rely on."""
    login = await alice.log_in(headers=SECURE_HOST)
    (cookie,) = SimpleCookie(login.set_cookie).values()
    assert cookie.key == "__Host-gatelog"
    assert (cookie["secure"], cookie["httponly"], cookie["samesite"]) == (True, True, "Lax")
    assert (cookie["path"], cookie["domain"]) == ("/", "")
    assert int(cookie["max-age"]) == Config().session_lifetime_s
    for known in ("alice", PASSWORD, login.json["user_id"], login.json["session_id"]):
        assert known not in login.set_cookie


async def test_nist_5_2(config: Config, database: Dsns, gatelog_clock: MovedClock) -> None:
    """The overall timeout is GATELOG_SESSION_LIFETIME_S, written down in
    [security](security.md#sessions); it ends a session however active it is, and logging in again
    starts it anew. The inactivity timeout is GATELOG_SESSION_IDLE_S, and use begins it anew
    (V7.3.1). GATELOG_ASSURANCE sets both to NIST's limits (2.1.3, 2.2.3, 2.3.3), and refuses a
    setting beyond them."""
    for level, lifetime_s, idle_s in LEVELS:
        preset = load_config({"GATELOG_ASSURANCE": level})
        assert preset.session_lifetime_s == lifetime_s
        assert not idle_s or preset.session_idle_s == idle_s
        with pytest.raises(ConfigError):
            load_config(
                {"GATELOG_ASSURANCE": level, "GATELOG_SESSION_LIFETIME_S": str(lifetime_s + 1)}
            )
    variable = "GATELOG_SESSION_LIFETIME_S"
    assert documented_default(variable) == true_default(variable)
    assert "AAL1" in PAGE
    own = msgspec.structs.replace(config, session_lifetime_s=1000)
    async with serving(create_app(own, database.app), own) as service:
        await service.register()
        first = await service.token()
        gatelog_clock.advance(900)
        second = await service.token()
        gatelog_clock.advance(200)
        assert await statuses(service, token=first) == {401}
        assert await statuses(service, token=second) == {200}
