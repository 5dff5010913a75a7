"""What may come in a body."""

from __future__ import annotations

import json

import msgspec
import pytest
from gatelog.accounts.web.logins import Login
from gatelog.errors import GatelogError, InvalidInput, MalformedJson
from gatelog.http.bodies import parse_body
from hypothesis import example, given
from hypothesis import strategies as st

SECRET = "do-not-quote-me"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"login": "a", "password": "do-not-quote-me"',
        b'{"login": "a", "password": "do-not-quote-me"} x',
        b'{"login": "a", "login": "do-not-quote-me", "password": "b"}',
        b'{"login": NaN, "password": "do-not-quote-me"}',
        b'{"login": -Infinity, "password": "b"}',
        pytest.param(b'{"login": ' + b"9" * 5000 + b', "password": "b"}', id="huge-integer"),
        pytest.param(b"[" * 16_000, id="deep-array"),
        pytest.param(b'{"a":' * 3_000, id="deep-object"),
        b'{"login": "\xff", "password": "b"}',
        b'\xef\xbb\xbf{"login": "a", "password": "b"}',
        '{"login": "a", "password": "b"}'.encode("utf-16"),
        b'{"login": "a\x01", "password": "b"}',
        b"{'login': 'do-not-quote-me'}",
    ],
)
def test_what_is_no_json(body: bytes) -> None:
    with pytest.raises(MalformedJson) as caught:
        parse_body(body, Login)
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"null",
        b'"do-not-quote-me"',
        b"[]",
        b"{}",
        b'{"login": "a"}',
        b'{"login": "a", "password": null}',
        b'{"login": "a", "password": 1}',
        b'{"login": "a", "password": 1e999}',
        b'{"login": "a", "password": ["do-not-quote-me"]}',
        b'{"login": {"do-not-quote-me": 1}, "password": "b"}',
        b'{"login": "a", "password": "b", "do-not-quote-me": 1}',
        b'{"login": "a", "password": "b", "token": "do-not-quote-me"}',
        b'{"login": "a", "password": "b", "carrier": "bearer"}',
        b'{"login": "a\\u0000", "password": "do-not-quote-me"}',
        b'{"login": "a", "password": "\\ud800"}',
        b'{"login": "a", "password": "b", "\\ud800": 1}',
    ],
)
def test_what_does_not_fit(body: bytes) -> None:
    with pytest.raises(InvalidInput) as caught:
        parse_body(body, Login)
    assert SECRET not in str(caught.value)


def test_what_fits() -> None:
    body = parse_body(b' {"password": "p\\ud83d\\ude00", "login": "a"}\n', Login)
    assert (body.login, body.password, body.carrier) == ("a", "p\U0001f600", "cookie")
    assert parse_body(b'{"login":"a","password":"b","token":"bearer"}', Login).carrier == "bearer"


class Whatever(msgspec.Struct, forbid_unknown_fields=True):
    number: int = 0


def test_integers_are_bounded() -> None:
    assert parse_body(b'{"number": -12}', Whatever).number == -12
    with pytest.raises(InvalidInput):
        parse_body(b'{"number": 1.0}', Whatever)
    with pytest.raises(MalformedJson):
        parse_body(b'{"number": 12345678901234567890}', Whatever)


values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("login"), inner),
    max_leaves=8,
)
fields = st.dictionaries(st.sampled_from(["login", "password", "token", "x"]), values)


@given(st.binary() | (fields | values).map(lambda value: json.dumps(value).encode()))
@example(b'{"login":"\\udc00","password":"\\u0000"}')
def test_anything_is_a_body_or_one_of_our_errors(body: bytes) -> None:
    try:
        parsed = parse_body(body, Login)
    except GatelogError as error:
        assert error.status in (400, 422)
        return
    (parsed.login + parsed.password).encode()
