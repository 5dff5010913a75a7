"""What a new password must not be."""

from __future__ import annotations

from importlib.resources import files

import msgspec
import pytest
from gatelog.accounts.rules.credentials import check_new_password
from gatelog.accounts.service.blocklist import CommonPasswords, common_passwords, context_words
from gatelog.config import Config
from gatelog.errors import WeakPassword

from tests.serving import Service

# ASVS 6.2.4: so many that the rest of the policy would let pass
ENOUGH = 3000


def test_the_list_of_common_passwords() -> None:
    text = (files("gatelog.accounts") / "common_passwords.txt").read_text(encoding="ascii")
    words = text.splitlines()
    assert words == sorted(set(words))
    assert all(word == word.casefold() and len(word) >= 8 for word in words)
    listed = common_passwords()
    assert list(listed) == words
    assert len(listed) == len(words)
    assert all(word in listed for word in words[:: len(words) // 500])
    assert {"password", "12345678", "1qaz2wsx3edc4rfv", "qwertyuiopasdfg"} <= set(words)


@pytest.mark.parametrize("min_length", range(8, 18))
def test_it_is_long_enough_for_every_policy(min_length: int) -> None:
    assert sum(len(word) >= min_length for word in common_passwords()) >= ENOUGH


@pytest.mark.parametrize(
    "text", ["", "\n", "passwor", "assword", "password\n", "one\ntwo", 7, None]
)
def test_nothing_else_is_in_it(text: object) -> None:
    assert text not in CommonPasswords("one\npassword\ntwo\n")
    assert text not in common_passwords()


def test_the_words_of_a_service() -> None:
    config = Config(
        app="bakery.web:make_app",
        log_origin="log.example/bread",
        trusted_origins="https://crumbs.example",
        login_url="https://doors.example/in",
        password_words="Brezel, Alte Straße",
    )
    assert context_words(config) == {
        *("gatelog", "admin", "auditor", "bakery", "make", "example", "bread", "crumbs", "doors"),
        *("brezel", "alte strasse"),
    }


def check(password: str, login: str = "ada.lovelace@example.org") -> None:
    words = context_words(Config(password_words="brezel"))
    check_new_password(
        password, login=login, min_length=8, blocklist=common_passwords(), words=words
    )


@pytest.mark.parametrize(
    "password",
    [
        "Gatelog!",
        "gatelog-Admin-2026",
        "Brezel111111111111111",
        "brezel12345678",  # what is left is a common one
        "gategateloglog",  # does not help to hide it
        "lovelace_brezel_1",
        "ada.lovelace@example.org1234567",
    ],
)
def test_a_password_made_of_them(password: str) -> None:
    with pytest.raises(WeakPassword, match="little else"):
        check(password)


@pytest.mark.parametrize(
    "password",
    [
        "nine gatelogs on a roof",
        "a brezel for the road",
        "my lovelace is quiet",
        "adalovel",  # neither the login nor a part of it
    ],
)
def test_a_word_in_a_password_is_no_harm(password: str) -> None:
    check(password)


def test_a_short_login_is_no_word() -> None:
    check("bananaqz", login="a")
    check("grade adam", login="ada")


@pytest.fixture
def config(config: Config) -> Config:
    return msgspec.structs.replace(config, password_words="brezel")


@pytest.mark.parametrize("password", ["qwertyuiopasdfg", "Brezel-Brezel-2026"])
async def test_it_is_refused_with_its_reason(alice: Service, password: str) -> None:
    refused = await alice.register("bob", password)
    assert (refused.status, refused.code) == (422, "weak_password")
    assert refused.json["detail"]
    assert password.encode() not in refused.body
    token = await alice.token()
    change = {"current_password": "a rather long phrase", "new_password": password}
    refused = await alice.post("/v1/change_password", json=change, bearer=token)
    assert (refused.status, refused.code) == (422, "weak_password")
