"""Logins and passwords as texts."""

from __future__ import annotations

import unicodedata

import pytest
from gatelog.accounts.rules.credentials import (
    MAX_LOGIN_LENGTH,
    MAX_PASSWORD_LENGTH,
    check_new_password,
    normalise_login,
    normalise_password,
)
from gatelog.errors import InvalidInput, WeakPassword
from hypothesis import given
from hypothesis import strategies as st


@pytest.mark.parametrize(
    ("text", "login"),
    [
        ("alice", "alice"),
        ("  Alice\t", "alice"),
        ("ALICE@Example.ORG", "alice@example.org"),
        ("ａｌｉｃｅ", "alice"),  # full-width  # noqa: RUF001
        ("Jose\u0301", "jos\xe9"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        pytest.param("x" * MAX_LOGIN_LENGTH, "x" * MAX_LOGIN_LENGTH, id="longest"),
    ],
)
def test_a_login_has_one_spelling(text: str, login: str) -> None:
    assert normalise_login(text) == login


@pytest.mark.parametrize(
    "text",
    [
        "",
        "   ",
        "al ice",
        "al\u00a0ice",
        "al\x00ice",
        "al\nice",
        "al\u200bice",  # zero width space
        "al\u202eice",  # right-to-left override
        "al\ud800ice",
        "al\ue000ice",  # private
        "al\u0378ice",  # unassigned
        pytest.param("x" * (MAX_LOGIN_LENGTH + 1), id="too-long"),
        "\ufdfa" * 20,  # 18 characters each under NFKC, some of them spaces
        pytest.param("x" * 1_000_000, id="huge"),
    ],
)
def test_a_login_that_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        normalise_login(text)
    assert not text.strip() or text not in str(caught.value)


@given(st.text(max_size=40))
def test_normalising_a_login_again_changes_nothing(text: str) -> None:
    try:
        login = normalise_login(text)
    except InvalidInput:
        return
    assert normalise_login(login) == login
    assert unicodedata.is_normalized("NFKC", login)
    assert 1 <= len(login) <= MAX_LOGIN_LENGTH


def test_every_character_alone_has_a_stable_spelling_or_is_refused() -> None:
    for code in range(0x110000):
        try:
            login = normalise_login(chr(code))
        except InvalidInput:
            continue
        assert normalise_login(login) == login


def test_a_password_is_the_same_from_every_keyboard() -> None:
    assert normalise_password("Jose\u0301") == normalise_password("Jos\xe9") == "Jos\xe9"
    assert normalise_password(" Case and\tspace stay ") == " Case and\tspace stay "


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a\x00b",
        "a\ud800b",
        pytest.param("x" * 1025, id="1025"),
        pytest.param("x" * 1_000_000, id="huge"),
    ],
)
def test_a_password_that_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        normalise_password(text)


def test_long_passwords_are_allowed() -> None:
    password = "x" * MAX_PASSWORD_LENGTH
    assert normalise_password(password) == password


def check(password: str, *, login: str = "alice", min_length: int = 8) -> None:
    blocklist = frozenset({"sunshine", "1q2w3e4r5t6y"})
    check_new_password(password, login=login, min_length=min_length, blocklist=blocklist)


@pytest.mark.parametrize(
    ("password", "reason"),
    [
        ("short", "at least 8"),
        ("sunshine", "common"),
        ("SunShine", "common"),
        ("sunshineSUNSHINE", "common"),
        ("sunshinesuns", "common"),
        ("aaaaaaaaaaaaaaaa", "few characters"),
        ("abcdabcdabcdabcd", "few characters"),
        ("AliceAliceAlice", "login"),
        ("ecilaecila", "login"),
    ],
)
def test_a_weak_password(password: str, reason: str) -> None:
    with pytest.raises(WeakPassword, match=reason) as caught:
        check(password)
    assert password not in str(caught.value)


@pytest.mark.parametrize(
    "password", ["alice in wonderland", "sunshine on a rainy day", "xkcdQ936", "ж" * 7 + "фывап"]
)
def test_a_password_that_will_do(password: str) -> None:
    check(password)


def test_the_length_is_the_configured_one() -> None:
    check("quite a phrase", min_length=14)
    with pytest.raises(WeakPassword, match="at least 15"):
        check("quite a phrase", min_length=15)


@given(st.text(min_size=1, max_size=12), st.integers(min_value=2, max_value=6))
def test_a_repetition_of_a_listed_password_is_found(unit: str, times: int) -> None:
    with pytest.raises(WeakPassword):
        check_new_password(unit * times, login="nobody", min_length=1, blocklist={unit.casefold()})
