"""A build as a project of its own: it can be read, it passes its own tests, and it answers to any
request what the composed endpoints answer."""

from __future__ import annotations

import ast
import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import AsyncExitStack, suppress
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import msgspec
import pytest
from gatelog import Steps
from gatelog.accounts.service.accounts import Accounts
from gatelog.accounts.web import ACCOUNTS
from gatelog.composer.rules.checking import check
from gatelog.composer.rules.code.names import Names, attribute, docstring, literal
from gatelog.composer.rules.code.project import files
from gatelog.composer.rules.composition import (
    Call,
    ChangePassword,
    Composition,
    CurrentUser,
    EndAll,
    EndOthers,
    Field,
    Handler,
    ListSessions,
    Login,
    Logout,
    Record,
    Register,
    Respond,
)
from gatelog.composer.rules.files import read
from gatelog.composer.rules.paths import parse_path
from gatelog.composer.rules.templates import Template
from gatelog.composer.service.composer import Composer
from gatelog.composer.service.projects import put, zipped
from gatelog.composer.web import COMPOSER
from gatelog.config import Config
from gatelog.errors import NothingToBuild, OperatorError
from gatelog.hosting.app import create_app
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.composer.compositions import (
    AROUND,
    OWN_WALK,
    WALK,
    both,
    compositions,
    one,
    sound_compositions,
)
from tests.composer.projects import loaded, served
from tests.conftest import Dsns
from tests.serving import NEW_PASSWORD, PASSWORD, Answer, Service

EXAMPLES = 10
REQUESTS = 12
ROOT = Path(__file__).parents[2]
ROLES = '{"clerk": {}}'

# Every step there is, in orders that make sense.
EVERYTHING = both(
    WALK,
    one(Register(), Login(), CurrentUser(), name="Join", path="/v3/join", method="POST",
        access="public"),
    one(EndOthers(), name="Alone", path="/v3/alone", method="POST"),
    one(EndAll(tokens=True), Respond(json='{"bye": "{{path.name}}"}'), name="Bye",
        path="/v3/bye/{name}"),
    one(ChangePassword(), ListSessions(), name="Renew", path="/v3/renew", method="PUT"),
    one(Logout(), Login(), name="Again", path="/v3/again", method="POST"),
    one(
        Record(type="app.noted", fields=("id", "note", "count"), per_hour=3000),
        Respond(
            json='{"who": "{{session.user_id}}", "what": "{{path.id}}: {{body.count}}, {{body.yes}}'
            ', {{session.roles}}", "note": "{{body.note}}", "class": ["{{body.class}}", -1.5e3]}',
            status=201,
        ),
        name="Note \"it\" <b>down</b> '\\",
        path="/v3/notes/{id}",
        method="POST",
        access="roles",
        roles=("clerk", "admin"),
        description='Two\nlines, and """quotes"""\\',
        fields=(
            Field("note", max_length=20, personal=True),
            Field("count", "integer", required=False),
            Field("yes", "boolean", required=False),
            Field("class", required=False),
        ),
    ),
    one(Respond(json='"constant"', status=404), name="404", path="/v3/constant", access="public"),
    one(Respond(json='{"a": "{{path.a}}", "b": "{{path.b}}"}'), name="日本", path="/v3/{a}/of/{b}",
        access="public"),
    one(Call(upstream="orders", path="/of/{id}", body=True), name="Call", path="/v3/call/{id}",
        method="PATCH", fields=(Field("what"),)),
    one(Handler(name="nobody_has_registered"), name="Handler", path="/v3/handler"),
)  # fmt: skip
EVERYWHERE = msgspec.structs.replace(AROUND, handlers=AROUND.handlers | {"nobody_has_registered"})


# --- texts


def test_it_is_the_same_for_the_same() -> None:
    assert check(EVERYTHING, EVERYWHERE) == []
    made = files(EVERYTHING)
    assert made == files(read(made["composition.toml"]))
    assert zipped(made, "x") == zipped(made, "x")
    with ZipFile(BytesIO(zipped(made, "x"))) as archive:
        assert {f"x/{name}" for name in made} == set(archive.namelist())
        assert archive.read("x/README.md").decode() == made["README.md"]


def test_one_handler_is_an_action() -> None:
    module = ast.parse(files(EVERYTHING)["composed/actions.py"])
    handlers = [node.name for node in module.body if isinstance(node, ast.AsyncFunctionDef)]
    assert len(handlers) == len(set(handlers)) == len(EVERYTHING.actions)
    imported = [
        alias.name
        for node in module.body
        if isinstance(node, ast.ImportFrom) and node.module == "gatelog"
        for alias in node.names
    ]
    import gatelog

    assert set(imported) <= set(gatelog.__all__)


@given(st.text() | st.text(alphabet="\"'\\{}\n#<"))
def test_a_text_is_a_literal(text: str) -> None:
    assert ast.literal_eval(literal(text)) == text


@given(st.text(alphabet="ab\"'\\{}\n# <", min_size=1))
def test_a_docstring_is_a_docstring(text: str) -> None:
    source = f"def f():\n{docstring(f'x{text}', '    ')}    return 1\n"
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef) and len(function.body) == 2
    said = (ast.get_docstring(function) or "").split()
    assert said == f"x{text}".split()


@given(st.lists(st.text(max_size=12) | st.sampled_from(["class", "web", "1", "", "A b", "a B"])))
def test_names_are_names_and_no_two_are_the_same(texts: list[str]) -> None:
    names = Names()
    given_names = [give(text) for text in texts for give in (names.function, names.type)]
    assert all(name.isidentifier() and name.isascii() for name in given_names)
    assert len(set(given_names)) == len(given_names)
    ast.parse("".join(f"def {name}(): ...\n" for name in given_names))


@given(sound_compositions() | compositions())
def test_whatever_can_be_built_is_code(composition: Composition) -> None:
    if check(composition, AROUND):
        return
    for name, text in files(composition).items():
        assert text.endswith("\n"), name
        if name.endswith(".py"):
            compile(text, name, "exec")


def test_what_is_in_a_directory_stays(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("x")
    with pytest.raises(OperatorError, match="something"):
        put(files(WALK), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    with pytest.raises(OperatorError, match="cannot write"):
        put(files(WALK), tmp_path / "mine" / "below")


# --- its own tests


@pytest.mark.parametrize("name", ["walk", "own", "everything", "empty"])
def test_it_passes_its_own_tests(tmp_path: Path, name: str) -> None:
    composition = {
        "walk": WALK,
        "own": OWN_WALK,
        "everything": EVERYTHING,
        "empty": Composition(),
    }[name]
    put(files(composition), tmp_path / "project")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:randomly"],
        cwd=tmp_path / "project",
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    if not composition.endpoints:
        assert done.returncode == 5, done.stdout  # there is nothing to try
        return
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(composition.endpoints)} passed" in done.stdout


def test_a_test_of_its_own_can_fail(tmp_path: Path) -> None:
    made = dict(files(WALK))
    handlers = made["composed/actions.py"]
    made["composed/actions.py"] = handlers.replace("await steps.current_user()", "pass")
    made["composed/actions.py"] = made["composed/actions.py"].replace(
        "async def tell", "@public\nasync def tell"
    )
    assert made["composed/actions.py"] != handlers
    put(made, tmp_path / "project")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"],
        cwd=tmp_path / "project",
        env=os.environ | {"PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 1 and "1 failed, 2 passed" in done.stdout, done.stdout


@pytest.mark.parametrize(
    "tool", ["ruff check", "ruff format --check", "mypy --strict --follow-imports=silent"]
)
def test_it_is_written_as_it_should_be(tmp_path: Path, tool: str) -> None:
    """By the tools that the product itself is held to, with their own defaults."""
    put(files(EVERYTHING), tmp_path / "project")
    config = tmp_path / "project" / "ruff.toml"
    config.write_text('line-length = 100\nlint.select = ["E", "F", "I", "UP", "B", "ASYNC"]\n')
    program, *arguments = tool.split()
    where = ["composed", "tests"] if program == "ruff" else ["composed"]
    done = subprocess.run(
        [sys.executable, "-m", program, *arguments, *where],
        cwd=tmp_path / "project",
        env=os.environ | {"MYPYPATH": str(ROOT / "server")},
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


# --- the same answers


class Request(msgspec.Struct, frozen=True):
    """A request as whoever; ``{new}`` in it is a login that nobody has."""

    method: str
    path: str
    who: str
    body: str | None


_values = st.one_of(
    st.text(max_size=25), st.integers(-(2**65), 2**65), st.booleans(), st.none(), st.floats()
)
_segments = st.sampled_from(
    ["x", "a%2Fb", "%25", "a{b}", "%C3%A9", "..", "%2E%2E", "x" * 200, "x" * 201, "a+b", ""]
)


@st.composite
def requests(draw: st.DrawFn, composition: Composition) -> Request:
    """Some request to one of the endpoints: mostly one that makes sense."""
    endpoint, action = draw(st.sampled_from(composition.pairs()))
    parts = [draw(_segments) if p is None else p for p in parse_path(endpoint.path).segments]
    other = draw(st.sampled_from([None] * 8 + ["GET", "HEAD", "DELETE", "OPTIONS", "POST"]))
    method = other or endpoint.method
    body: dict[str, Any] = {}
    for name in (name for step in action.steps for name in step.TAKES):
        known = {"login": "{login}", "new_password": NEW_PASSWORD}
        body[name] = known.get(name, PASSWORD)
    if any(isinstance(step, Register) for step in action.steps):
        body["login"] = "{new}"
    if any(isinstance(step, Login) for step in action.steps) and draw(st.booleans()):
        body["token"] = draw(st.sampled_from(["cookie", "bearer", "pigeon"]))
    samples: dict[str, Any] = {"text": "x", "integer": 7, "boolean": False}
    for field in endpoint.fields:
        if field.required or draw(st.booleans()):
            body[field.name] = samples[field.kind]
    for name in list(body):
        if draw(st.integers(0, 9)) == 0:
            body[name] = draw(_values)
    if draw(st.integers(0, 9)) == 0:
        body["more"] = 1
    if body and draw(st.integers(0, 9)) == 0:
        body.pop(next(iter(body)))
    text = json.dumps(body) if body else None
    text = draw(st.sampled_from([text] * 9 + [None, "[]", "{", '{"a": 1, "a": 2}', "é"]))
    who = draw(st.sampled_from(["nobody", "user", "clerk", "clerk", "clerk"]))
    return Request(method, "/" + "/".join(parts), who, text)


_VOLATILE = (
    (re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"), "ID"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z"), "TIME"),
    (re.compile(r'"position":\d+'), '"position":N'),
    (re.compile(r'"trace_id":"[0-9a-f]+"'), '"trace_id":"T"'),
    (re.compile(r"[A-Za-z0-9_-]{43,}(?![A-Za-z0-9_-])"), "TOKEN"),
)
_COMPARED = ("Content-Type", "Cache-Control", "Allow", "WWW-Authenticate", "Vary", "Pragma")


def lasting(answer: Answer) -> tuple[Any, ...]:
    """What of an answer does not change from one time to the next."""
    body = answer.body.decode()
    cookies = answer.headers.getall("Set-Cookie", [])
    # in their order: the last one of a name is the one that counts
    said = [body, *(re.sub(r"(Max-Age=)\d+", r"\1N", cookie) for cookie in cookies)]
    for pattern, name in _VOLATILE:
        said = [pattern.sub(name, text) if len(text) < 5000 else text for text in said]
    headers = {name: answer.headers.get(name) for name in _COMPARED}
    return answer.status, headers, said


class Pair:
    """The composed endpoints and the project, on one database, with people of their own."""

    def __init__(self, config: Config, dsn: str, composed: Service) -> None:
        self._config = config
        self._dsn = dsn
        self._composed = composed
        self._number = 0
        app = composed.runner.app
        self.composer: Composer = app[COMPOSER]
        self._accounts: Accounts = app[ACCOUNTS]

    async def compare(self, composition: Composition, wanted: list[Request]) -> None:
        self.composer.around = lambda: EVERYWHERE
        await self.composer.replace(composition)
        with suppress(NothingToBuild):
            await self.composer.build()
        off = msgspec.structs.replace(self._config, composer="off")
        with loaded(composition) as routes:
            app = create_app(off, self._dsn, routes)
            async with served(app, off) as written:
                for request in wanted:
                    one_says = await self._ask(self._composed, request)
                    other_says = await self._ask(written, request)
                    assert lasting(one_says) == lasting(other_says), request

    async def _ask(self, service: Service, request: Request) -> Answer:
        self._number += 1
        login = f"person{self._number}"
        roles = ("clerk",) if request.who == "clerk" else ()
        await self._accounts.logins.add_user(login, PASSWORD, roles)
        headers, data = {}, None
        if request.body is not None:
            text = request.body.replace("{login}", login).replace("{new}", f"new{self._number}")
            data, headers["Content-Type"] = text.encode(), "application/json"
        cookie = None
        if request.who != "nobody":
            cookie = (await self._accounts.logins.log_in(login, PASSWORD)).token
        return await service.send(
            request.method, request.path, data=data, headers=headers, cookie=cookie
        )


def test_it_answers_what_the_composed_endpoints_answer(config: Config, database: Dsns) -> None:
    config = msgspec.structs.replace(config, roles=ROLES)
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        app = create_app(config, database.app)
        composed = runner.run(stack.enter_async_context(served(app, config)))
        pair = Pair(config, database.app, composed)
        met: set[int] = set()

        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(st.data())
        def each(data: st.DataObject) -> None:
            composition = both(EVERYTHING, data.draw(sound_compositions()))
            wanted = data.draw(st.lists(requests(composition), min_size=4, max_size=REQUESTS))
            runner.run(pair.compare(composition, wanted))
            met.add(len(wanted))

        try:
            each()
            runner.run(pair.compare(EVERYTHING, [*sensible(EVERYTHING)]))
        finally:
            runner.run(stack.aclose())
        assert met


def sensible(composition: Composition) -> Iterator[Request]:
    """A good request to each endpoint, as a clerk and as nobody."""
    samples: dict[str, Any] = {"text": "x", "integer": 7, "boolean": True}
    for endpoint, action in composition.pairs():
        names = {name for step in action.steps for name in step.TAKES}
        body: dict[str, Any] = {
            name: {"login": "{login}", "new_password": NEW_PASSWORD}.get(name, PASSWORD)
            for name in names
        }
        if any(isinstance(step, Register) for step in action.steps):
            body["login"] = "{new}"
        body |= {field.name: samples[field.kind] for field in endpoint.fields}
        path = re.sub(r"\{[a-z]+\}", "x", endpoint.path)
        text = json.dumps(body) if body else None
        yield Request(endpoint.method, path, "clerk", text)
        yield Request(endpoint.method, path, "nobody", text)


@given(st.data())
def test_a_template_and_its_expression_say_the_same(data: st.DataObject) -> None:
    """What ``respond`` is given is what the template makes, for any values."""
    from gatelog.composer.rules.code.values import Values
    from gatelog.composer.rules.composition import Endpoint

    fields = (Field("note"), Field("amount", "integer", required=False))
    endpoint = Endpoint("E", "/v2/{id}", "POST", fields=fields)
    references = st.sampled_from(["{{path.id}}", "{{body.note}}", "{{body.amount}}", "}}", "{", ""])
    texts = st.lists(references | st.text(alphabet="ab\"'\\\n{} é\u2028", max_size=4), max_size=4)
    content = data.draw(
        st.recursive(
            texts.map("".join) | st.integers(-9, 9) | st.booleans() | st.none(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("kl"), inner),
            max_leaves=5,
        )
    )
    try:
        template = Template(json.dumps(content))
    except Exception:  # a pair of braces that is no reference
        return
    known = {"note": data.draw(st.text()), "amount": data.draw(st.none() | st.integers(0, 9))}
    path = {"id": data.draw(st.text())}
    nobody: dict[str, Any] = {}
    made = json.loads(
        template.fill({"session": nobody.__getitem__, "path": path.__getitem__, "body": known.get})
    )
    expression = Values(endpoint).json(json.dumps(content), "")

    class Body:
        note, amount = known["note"], known["amount"]

    class Asked:
        match_info = path

    def as_text(value: object) -> str:
        return "" if value is None else msgspec.json.encode(value).decode()

    found = eval(expression, {"body": Body, "request": Asked, "as_text": as_text})  # noqa: S307
    assert json.loads(msgspec.json.encode(found)) == made


# --- by hand


async def test_steps_are_for_routes_of_the_application_itself() -> None:
    from aiohttp.test_utils import make_mocked_request

    with pytest.raises(TypeError, match="application itself"):
        Steps(make_mocked_request("GET", "/"))


def test_attributes_are_no_words_of_the_language() -> None:
    assert [attribute(name) for name in ("note", "class", "str", "web")] == [
        "note",
        "class_",
        "str_",
        "web_",
    ]
