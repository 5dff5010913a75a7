"""OWASP ASVS 5.0, V6: passwords and logins."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from gatelog.accounts.service.blocklist import common_passwords, context_words
from gatelog.accounts.service.passwords import PasswordPool
from gatelog.config import Config
from gatelog.hosting.app import create_app
from gatelog.hosting.services import open_services
from gatelog.pages.assets import assets
from gatelog.testing.moving import MovedClock

from tests.accounts.factoring import Person
from tests.asvs.conftest import AddUser
from tests.conftest import Dsns
from tests.http.test_roles import WHOSE
from tests.mail.server import Inbox, mail_server
from tests.serving import NEW_PASSWORD, PASSWORD, Answer, Service, serving
from tests.waiting import until

if TYPE_CHECKING:
    from gatelog.log.store.database import Connection

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "security.md").read_text()
WRONG = "a wrong phrase, though"
TEN_YEARS_S = 86_400 * 3650
ENOUGH = 3000
SHORTEST = 15


async def change(service: Service, token: str, new: str, current: str = PASSWORD) -> Answer:
    body = {"current_password": current, "new_password": new}
    return await service.post("/v1/change_password", json=body, cookie=token)


async def refused_twice(alice: Service, password: str) -> str:
    """Why this password is refused, at a registration and at a change."""
    registered = await alice.register("bob", password)
    changed = await change(alice, await alice.token(), password)
    for refused in (registered, changed):
        assert (refused.status, refused.code) == (422, "weak_password")
    assert registered.json["detail"] == changed.json["detail"]
    assert (await alice.log_in("bob", password)).status == 401
    assert (await alice.log_in()).status == 200
    return str(registered.json["detail"])


async def taken_twice(service: Service, password: str) -> None:
    """This password can be registered, changed to, and logged in with."""
    assert (await service.register("bob", password)).status == 201
    assert (await service.log_in("bob", password)).status == 200
    await service.register()
    assert (await change(service, await service.token(), password)).status == 200
    assert (await service.log_in("alice", password)).status == 200


@pytest.mark.parametrize(
    "variable", ["GATELOG_LOGIN_TRIES", "GATELOG_PASSWORD_FAILURES", "GATELOG_REGISTRATION_TRIES"]
)
def test_v6_1_1(variable: str) -> None:
    """[Throttling](throttling.md) says how guesses are counted and delayed, what a known device has
    for itself, so that nobody is locked out by others, and how it is configured."""
    page = (DOCS / "throttling.md").read_text()
    assert variable in page
    assert "known device" in page


def test_v6_1_2() -> None:
    """[Security](security.md#passwords) lists the words and the settings from which more come; the
    page has every one that a service has by default."""
    words = context_words(Config())
    assert words == {"gatelog", "admin", "auditor"}
    for word in words:
        assert f"`{word}`" in PAGE
    named = Config(
        app="bread", log_origin="rolls", trusted_origins="https://pies", cors_origins="https://buns",
        login_url="https://cakes/", return_hosts="tarts", password_words="muffins",
    )  # fmt: skip
    changed = {f for f in Config.__struct_fields__ if getattr(named, f) != getattr(Config(), f)}
    assert context_words(named) - words == {
        *("bread", "rolls", "pies", "buns", "cakes", "tarts", "muffins")
    }
    for field in changed:
        assert f"GATELOG_{field.upper()}" in PAGE


async def test_v6_1_3(alice: Service) -> None:
    """[Security](security.md#ways-in) lists the ways in and how strong each is; where one takes a
    password, it is by the same check. The routes that give a token are those."""
    table = PAGE.partition("## Ways in")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `(\w+ /\S+)` \|", table, re.MULTILINE))
    by_factors = {
        "POST /v1/login_factor",
        "POST /v1/passkeys/login",
    }
    assert documented == {"POST /v1/login_user", "POST /v1/change_password", *by_factors}
    login = await alice.log_in()
    given = {"POST /v1/login_user"} if login.token else set()
    for route in WHOSE:
        method, _, path = route.partition(" ")
        if "{" in path or path == "/v1/login_user":
            continue
        body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
        sent = body if path == "/v1/change_password" else None
        token = await alice.token()
        answer = await alice.send(method.replace("*", "GET"), path, cookie=token, json=sent)
        cookie = answer.headers.get("Set-Cookie", "; Max-Age=0;")
        shown = re.search(r'"token": ?"[A-Za-z0-9_-]{43}"', answer.body.decode())
        if shown or "; Max-Age=0;" not in cookie:
            given.add(route)
        if sent:
            back = await alice.token(password=NEW_PASSWORD)
            assert (await change(alice, back, PASSWORD, NEW_PASSWORD)).status == 200
    assert given == documented - by_factors


async def test_v6_2_1(alice: Service) -> None:
    """15 characters at least, by default; GATELOG_PASSWORD_MIN_LENGTH may ask for 8 and for no
    less. Characters are counted, not bytes."""
    assert Config().password_min_length == SHORTEST
    fourteen = "".join(map(chr, range(0x4E00, 0x4E0E)))  # of three bytes each
    for short in ("", "x1y2z3a", "x1y2z3a4b5c6d7", fourteen):
        assert (await alice.register("bob", short)).status == 422
    assert (await alice.register("bob", "x1y2z3a4b5c6d7e")).status == 201
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"password_min_length": 7}, Config)


async def test_v6_2_2(alice: Service) -> None:
    """``POST /v1/change_password``: from then on the new password is taken and the old one is
    not."""
    assert (await change(alice, await alice.token(), NEW_PASSWORD)).status == 200
    assert (await alice.log_in(password=NEW_PASSWORD)).status == 200
    assert (await alice.log_in()).code == "invalid_credentials"


@pytest.mark.parametrize("missing", ["current_password", "new_password"])
async def test_v6_2_3(alice: Service, missing: str) -> None:
    """A change takes both: without one it is 422, with a wrong current one 401, and the password
    stays what it was."""
    token = await alice.token()
    body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
    del body[missing]
    assert (await alice.post("/v1/change_password", json=body, cookie=token)).status == 422
    wrong = await change(alice, token, NEW_PASSWORD, "a wrong phrase, though")
    assert (wrong.status, wrong.code) == (401, "invalid_credentials")
    assert (await alice.log_in()).status == 200


def some_common(least: int) -> list[str]:
    """Some of the listed passwords that have so many characters."""
    listed = [word for word in common_passwords() if len(word) >= least]
    assert len(listed) >= ENOUGH
    return listed[:: len(listed) // 5]


@pytest.mark.parametrize("password", some_common(SHORTEST))
async def test_v6_2_4(alice: Service, password: str) -> None:
    """Of the list that comes with the package 9,748 entries have the 15 characters that are asked
    for by default; these, in any case, and what repeats one are refused at a registration and at a
    change, which says why (422 ``weak_password``)."""
    for spelling in (password, password.upper()):
        assert "common" in await refused_twice(alice, spelling)


@pytest.mark.parametrize(
    "password",
    [
        "onlylowercaseletters",
        "MITGROSSBUCHSTABENALLEIN",
        "83619450276138",
        "!§$%&/()=?`+*~#'-_.:,;<>|",
        "words with  spaces\tand a tab ",
        "пароль из русских слов",
        "密码是一个很长的中文句子没有空格",
        "🦀🐧🦊🐢🦉🐝🦋🐌🐞🦎🐍🦖🦕🐙🦑",
        "\x07 bell and \x1b escape",
    ],
)
async def test_v6_2_5(config: Config, database: Dsns, password: str) -> None:
    """Any characters of Unicode will do, of one kind or many, control characters and outer spaces
    too; only NUL and lone surrogates, which are no text, are refused."""
    own = msgspec.structs.replace(config, password_min_length=14)
    async with serving(create_app(own, database.app), own) as service:
        await taken_twice(service, password)


PASSWORD_PAGES = ("/login", "/register", "/first", "/welcome", "/account/password")


async def password_fields(site: Service) -> list[str]:
    """Each field for a password, of each page that has one."""
    found = []
    for path in PASSWORD_PAGES:
        token = await site.token() if path.startswith("/account") else None
        page = await site.get(path, headers={"Accept": "text/html"}, cookie=token)
        fields = re.findall(r"<input[^>]*name=\"\w*password\"[^>]*>", page.body.decode())
        assert fields or path == "/first", path
        found += fields
    return found


async def test_v6_2_6(service: Service) -> None:
    """Every field for a password on a page is one (``type="password"``), and comes back empty from
    a form that was refused."""
    first = await service.get("/first", headers={"Accept": "text/html"})
    assert b'type="password"' in first.body
    await service.register()
    for field in await password_fields(service):
        assert 'type="password"' in field
        assert "value" not in field


async def test_v6_2_7(alice: Service) -> None:
    """No script of a page looks at what is pasted or typed into a password, and each field tells a
    manager what it is for (``autocomplete``). The service takes what a manager makes (V6.2.5,
    V6.2.9)."""
    for field in await password_fields(alice):
        assert re.search(r'autocomplete="(current|new)-password"', field), field
        assert "maxlength" not in field
    scripts = b"".join(text for name, text in assets().files.items() if name.endswith(".js"))
    assert scripts and b"paste" not in scripts and b"onkey" not in scripts


async def test_v6_2_8(alice: Service) -> None:
    """Case counts, outer spaces count, and so does the last of 1,024 characters. One thing is done
    to a password before it is hashed: Unicode's NFKC, as NIST SP 800-63B-4 (3.1.1.2) asks, so that
    every keyboard writes the same one."""
    password = " Case counts, and so does every one of 1,024: " + "xyz0" * 244 + "!)"
    assert len(password) == 1024
    assert (await alice.register("bob", password)).status == 201
    changed = [
        password.lower(),
        password.strip(),
        password[:-1],
        password[:72],
        password[:-1] + "]",
    ]
    for other in (*changed, password.swapcase(), password + " "):
        assert (await alice.log_in("bob", other)).status in {401, 422}
    assert (await alice.log_in("bob", password)).status == 200


@pytest.mark.parametrize("length", [64, 65, 256, 1024])
async def test_v6_2_9(service: Service, length: int) -> None:
    """Passwords have up to 1,024 characters; a longer one is refused, never cut."""
    password = ("correct horse battery staple, number 1, 2, 3 and so on; " * 20)[:length]
    await taken_twice(service, password)
    assert (await service.register("carol", "ab c" * 257)).status == 422


async def test_v6_2_10(alice: Service, gatelog_clock: MovedClock) -> None:
    """Ten years later the password is what it was, and nothing asks for another one."""
    gatelog_clock.advance(TEN_YEARS_S)
    login = await alice.log_in()
    assert (login.status, login.json["status"]) == (200, "logged_in")
    assert (await alice.get("/v1/me", cookie=login.token)).status == 200


@pytest.mark.parametrize(
    "password",
    ["Gatelog-Gatelog-1", "gatelog admin auditor", "Bakery2026!gatelog", "admin.alice@bob.1"],
)
async def test_v6_2_11(config: Config, database: Dsns, password: str) -> None:
    """A new password is refused when it is the login, names of the service, roles or words of
    GATELOG_PASSWORD_WORDS and fewer than 8 characters beside them, at a registration and at a
    change."""
    own = msgspec.structs.replace(config, password_words="bakery, alice")
    async with serving(create_app(own, database.app), own) as service:
        await service.register()
        assert "little else" in await refused_twice(service, password)
        assert (await service.register("bob", "my gatelog of shadows")).status == 201


@pytest.mark.parametrize("password", ["q1w2e3r4t5y6u7i8", "30secondstomars", "zxcvbnm123456789"])
async def test_v6_2_12(alice: Service, password: str) -> None:
    """The list is one of breached passwords: the most common of "Pwned Passwords" and of ten
    million collected from breaches. It is in the package, so no password is sent anywhere to be
    looked up."""
    assert password in common_passwords()
    assert "common" in await refused_twice(alice, password)


@pytest.mark.parametrize("login", ["alice", "nobody"])
async def test_v6_3_1(config: Config, database: Dsns, login: str) -> None:
    """After GATELOG_LOGIN_TRIES failures further tries wait, twice as long after each: 429
    ``too_many_attempts`` with ``Retry-After``, the same for a name that nobody has, the right
    password included, and on all hosts together, however many guess at once. A known device keeps
    its own budget."""
    own = msgspec.structs.replace(config, login_tries=5)
    async with (
        serving(create_app(own, database.app), own) as one,
        serving(create_app(own, database.app), own) as other,
    ):
        await one.register()
        known = (await one.log_in()).device
        tried = await asyncio.gather(
            *(service.log_in(login, WRONG) for service in (one, other) for _ in range(15))
        )
        told = [answer.status for answer in tried]
        assert set(told) == {401, 429}
        assert told.count(401) <= 6  # 5, and one whose second has passed
        refused = next(answer for answer in tried if answer.status == 429)
        assert refused.code == "too_many_attempts"
        assert int(refused.headers["Retry-After"]) >= 1
        assert (await one.log_in(login)).status == 429
        if login == "alice":
            assert (await other.log_in(headers={"Cookie": known})).status == 200


@pytest.mark.parametrize("login", ["root", "admin", "administrator", "sa", "gatelog", "auditor"])
async def test_v6_3_2(service: Service, connection: Connection, login: str) -> None:
    """A migrated database has no user at all; the first one is registered or added by command, with
    a password that is theirs."""
    assert await connection.fetchval("SELECT count(*) FROM users") == 0
    assert await connection.fetchval("SELECT count(*) FROM credentials") == 0
    for password in (login, "password", "admin", "changeme"):
        assert (await service.log_in(login, password)).status == 401


async def test_v6_3_4(service: Service) -> None:
    """What is open to everybody is listed route by route, in a test that takes the routes from the
    application itself; logins and nothing else of it give a token. Every other route is refused
    without one (401), with any method."""
    opened = {route for route, whose in WHOSE.items() if whose == "everybody"}
    assert {route for route in opened if " /v1/" in route} == {
        "POST /v1/register_user",
        "POST /v1/login_user",
        "GET /v1/logout_user",
        "POST /v1/logout_user",
        "POST /v1/login_factor",
        "POST /v1/passkeys/login_options",
        "POST /v1/passkeys/login",
        "POST /v1/recover",
        "POST /v1/recover/confirm",
        "POST /v1/address/confirm",
    }
    await service.register()
    for route, whose in WHOSE.items():
        method, _, path = route.partition(" ")
        for header in ({}, {"Authorization": "Basic YWxpY2U6eA=="}, {"X-Gatelog-User": "alice"}):
            if whose != "everybody" and "{" not in path:
                answer = await service.send(method.replace("*", "GET"), path, headers=header)
                assert answer.status == 401


async def test_v6_3_8(
    config: Config, database: Dsns, root_of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name that nobody has, a wrong password and a disabled user get the same 401, byte for byte,
    after the same work: one look-up, one hash of the configured cost, one event; a benchmark
    (``tests.bench.guessing``) compares the times of 1,000 tries of either. Where registration is
    closed, it is answered 403 before any look at the name."""
    hashed: list[bool] = []
    verify = PasswordPool.verify

    async def counted(
        pool: PasswordPool, password_hash: str | None, *others: Any, **more: Any
    ) -> bool:
        hashed.append(password_hash is None)
        return await verify(pool, password_hash, *others, **more)

    monkeypatch.setattr(PasswordPool, "verify", counted)
    closed = msgspec.structs.replace(config, registration="closed")
    async with serving(create_app(closed, database.app), closed) as service:
        disabled = (await service.log_in("dora")).json["user_id"]
        token = await service.token("root")
        assert (await service.post(f"/v1/users/{disabled}/disable", cookie=token)).status == 200
        hashed.clear()
        tried = [("nobody", PASSWORD), ("alice", "a wrong phrase, though"), ("dora", PASSWORD)]
        answers = [await service.log_in(*each) for each in tried]
        assert hashed == [True, False, False]
        told = {(a.status, a.body, tuple(n for n in a.headers if n != "Date")) for a in answers}
        assert len(told) == 1
        assert answers[0].code == "invalid_credentials"
        names = [await service.register(name) for name in ("alice", "somebody")]
        assert [(a.status, a.code) for a in names] == [(403, "registration_closed")] * 2
        assert names[0].body == names[1].body


@pytest.fixture
async def root_of(alice: Service, root: str) -> str:
    """An administrator, beside alice and dora."""
    assert (await alice.register("dora")).status == 201
    return root


# --- V6.3.5, V6.3.7 and V6.4: mails, and ways back in


@asynccontextmanager
async def mailing(config: Config, database: Dsns) -> AsyncIterator[tuple[Service, Inbox]]:
    """The service with a mail server, and in it an administrator, and ada with an address."""
    async with mail_server() as inbox:
        config = inbox.settings(config)
        async with open_services(config, database.app) as services:
            await services.accounts.logins.add_user("root", PASSWORD, ("admin",))
            await services.accounts.recovery.invite("ada", (), "ada@example.com")
            await services.accounts.mailer.look()
            await services.accounts.recovery.set_password(inbox.mails.pop().token, PASSWORD)
        async with serving(create_app(config, database.app), config) as service:
            yield service, inbox


async def told(inbox: Inbox) -> str:
    """What the next mail to ada is about."""
    await until(lambda: bool(inbox.mails))
    mail = inbox.mails.pop(0)
    assert mail.to == "ada@example.com"
    return mail.subject


async def test_v6_3_5(config: Config, database: Dsns) -> None:
    """A login on a device that the account has not been used on is an event (``device_added``) and
    told by mail, with its time and device. Users find failed logins in ``GET /v1/me/events``."""
    async with mailing(config, database) as (service, inbox):
        await service.log_in("ada")
        session = await service.token("ada")
        assert await told(inbox) == "A login from a new device"
        wrong = {"login": "ada", "password": "not the right one"}
        assert (await service.post("/v1/login_user", json=wrong)).status == 401
        events = (await service.get("/v1/me/events", cookie=session)).json["events"]
        assert {"device_added", "login_failed"} <= {event["type"] for event in events}


async def test_v6_3_7(config: Config, database: Dsns) -> None:
    """A changed or reset password, another address, a factor that was added or removed, and new
    recovery codes are told by mail to the verified address; of another address, the old one."""
    async with mailing(config, database) as (service, inbox):
        person = Person(service, "ada")
        bearer = await person.enrolled()
        assert await told(inbox) == "A second factor was added"
        bearer = (await person.both(code=person.code())).token
        assert (await service.post("/v1/factors/recovery_codes", bearer=bearer)).status == 200
        assert await told(inbox) == "Your recovery codes were made anew"
        path = f"/v1/factors/{person.factor_id}"
        assert (await service.send("DELETE", path, bearer=bearer)).status == 200
        assert await told(inbox) == "A second factor was removed"
        body = {"current_password": PASSWORD, "new_password": NEW_PASSWORD}
        changed = await service.post("/v1/change_password", json=body, bearer=bearer)
        assert changed.status == 200
        assert await told(inbox) == "Your password was changed"
        removed = await service.send("DELETE", "/v1/me/address", bearer=changed.token)
        assert removed.status == 200
        assert await told(inbox) == "Your address was changed"


async def test_v6_4_1(service: Service, add_user: AddUser, gatelog_clock: MovedClock) -> None:
    """Who is invited has no first password but a link with a token of 256 random bits, which is
    good once and for 7 days; until it is used, no password fits. It becomes nobody's password."""
    await add_user("root", "admin")
    root, tokens = await service.token("root"), []
    for login in ("eve", "mia"):
        made = await service.post("/v1/users/invite", json={"login": login}, cookie=root)
        tokens.append(made.json["token"])
        assert (made.status, made.json["lifetime_s"]) == (201, 7 * 86_400)
        assert len(tokens[-1]) == 43  # 256 bits in base64url
        assert (await service.log_in(login, tokens[-1])).status == 401
    body = {"token": tokens[0], "new_password": NEW_PASSWORD}
    assert (await service.post("/v1/recover/confirm", json=body)).status == 200
    assert (await service.post("/v1/recover/confirm", json=body)).code == "link_unusable"
    gatelog_clock.advance(7 * 86_400 + 1)
    late = body | {"token": tokens[1]}
    assert (await service.post("/v1/recover/confirm", json=late)).code == "link_unusable"


async def test_v6_4_2(service: Service) -> None:
    """No request takes a hint or an answer to a question: what describes each body says all that it
    may hold, and what is not in it is refused."""
    document = (await service.get("/openapi.json")).body.decode()
    assert "/v1/recover/confirm" in document
    assert not re.search(r"\bhint|secret.?question|security.?question|mother", document, re.I)


async def test_v6_4_3(config: Config, database: Dsns) -> None:
    """A forgotten password is set anew by a link that goes to the verified address only, for 15
    minutes and once; it ends all sessions, is told by mail, and starts no session: what else a
    login asks for, it asks for after that as before."""
    async with mailing(config, database) as (service, inbox):
        session = await service.token("ada")
        assert (await service.post("/v1/recover", json={"login": "ada"})).status == 202
        await until(lambda: bool(inbox.mails))
        mail = inbox.mails.pop()
        assert mail.to == "ada@example.com" and "15 minutes" in mail.plain
        body = {"token": mail.token, "new_password": NEW_PASSWORD}
        done = await service.post("/v1/recover/confirm", json=body)
        assert done.status == 200
        assert "Set-Cookie" not in done.headers and "token" not in done.json
        assert (await service.get("/v1/me", cookie=session)).status == 401
        assert (await service.post("/v1/recover/confirm", json=body)).code == "link_unusable"
        await until(lambda: bool(inbox.mails))
        assert inbox.mails[-1].subject == "Your password was set anew"


async def test_v6_4_6(config: Config, database: Dsns) -> None:
    """An administrator starts a reset, and neither chooses nor sees anything: the link goes to the
    user's address. Only for who has none it is handed out, and the log says who made it."""
    async with mailing(config, database) as (service, inbox):
        root, ada = await service.token("root"), (await service.log_in("ada")).json["user_id"]
        made = await service.post(f"/v1/users/{ada}/reset", cookie=root)
        assert made.json["token"] is made.json["link"] is None
        await until(lambda: bool(inbox.mails))
        assert inbox.mails[-1].to == "ada@example.com"
        page = await service.get("/v1/audit/events?type=link_made", cookie=root)
        assert [event["what"] for event in page.json["events"]][:1] == ["reset"]
