"""The configuration: what is accepted, what is refused, and what is shown."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from gatelog.config import (
    MASK,
    SECRETS,
    Config,
    load_config,
    settings_of,
    variable,
)
from gatelog.errors import ConfigError
from gatelog.settings import Lifetimes

URL = "postgresql://gatelog:secret@db.example/gatelog"


def test_without_variables_every_default_holds() -> None:
    config = load_config({"PATH": "/bin", "HOME": "/"})
    assert config == Config()
    assert config.embedded
    assert config.data_path.is_absolute()


def test_values_are_read_with_their_types() -> None:
    config = load_config(
        {
            "GATELOG_PORT": "0",
            "GATELOG_WORKERS": "3",
            "GATELOG_SESSION_LIFETIME_S": "1.5",
            "GATELOG_ACCESS_LOG": "true",
            "GATELOG_REGISTRATION": "closed",
            "GATELOG_DATABASE_URL": URL,
        }
    )
    assert (config.port, config.worker_count, config.session_lifetime_s) == (0, 3, 1.5)
    assert config.access_log is True
    assert config.registration == "closed"
    assert not config.embedded


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATELOG_PROT", "1"),
        ("GATELOG_PORT", "http"),
        ("GATELOG_PORT", "65536"),
        ("GATELOG_PORT", ""),
        ("GATELOG_HOST", ""),
        ("GATELOG_DATA_DIR", ""),
        ("GATELOG_WORKERS", "-1"),
        ("GATELOG_REGISTRATION", "yes"),
        ("GATELOG_ACCESS_LOG", "maybe"),
        ("GATELOG_SESSION_LIFETIME_S", "0"),
        ("GATELOG_SESSION_LIFETIME_S", "nan"),
        ("GATELOG_PASSWORD_MIN_LENGTH", "7"),
        ("GATELOG_PORT_FILE", "/dev/null"),
        ("GATELOG_DATABASE_URL", "db.example/gatelog"),
        ("GATELOG_DATABASE_URL", "postgresql://db.example:port/gatelog"),
        ("GATELOG_DATABASE_URL_FILE", "/no/such/file"),
        ("GATELOG_MASTER_KEY", "too short"),
        ("GATELOG_MASTER_KEY", "x" * 44),
        ("GATELOG_MASTER_KEY_FILE", "/dev/null"),
        ("GATELOG_TRUSTED_PROXIES", "10.0.0.1/8"),
        ("GATELOG_TRUSTED_PROXIES", "proxy.example"),
        ("GATELOG_PASSWORD_WORDS", "brezel,abc"),
    ],
)
def test_what_is_wrong_is_named(name: str, value: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({name: value})
    assert caught.value.setting == name.removesuffix("_FILE") or caught.value.setting == name
    assert "\n" not in str(caught.value)


def test_an_error_does_not_tell_a_secret() -> None:
    with pytest.raises(ConfigError) as caught:
        load_config({"GATELOG_DATABASE_URL": "mysql://gatelog:secret@db.example/"})
    assert "secret" not in str(caught.value)


def test_a_secret_may_come_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text(URL + "\n")
    assert load_config({"GATELOG_DATABASE_URL_FILE": str(path)}).database_url == URL


def test_a_secret_comes_from_one_place(tmp_path: Path) -> None:
    path = tmp_path / "url"
    path.write_text(URL)
    both = {"GATELOG_DATABASE_URL": URL, "GATELOG_DATABASE_URL_FILE": str(path)}
    with pytest.raises(ConfigError, match="one of them"):
        load_config(both)


def test_every_setting_is_shown_and_explained() -> None:
    config = Config(database_url=URL, owner_database_url=URL, port=1)
    shown = {setting.variable: setting for setting in settings_of(config)}
    assert set(shown) == {variable(name) for name in Config.__struct_fields__}
    assert all(setting.meaning.endswith(".") for setting in shown.values())
    assert (shown["GATELOG_PORT"].value, shown["GATELOG_PORT"].default) == (1, 8080)


def test_secrets_are_masked() -> None:
    shown = settings_of(Config(**dict.fromkeys(SECRETS, URL)))  # type: ignore[arg-type]
    masked = [s.value for s in shown if s.variable in map(variable, SECRETS)]
    assert masked == [MASK] * len(SECRETS)
    assert b"secret@" not in msgspec.json.encode(shown)


def test_an_unset_secret_is_shown_as_unset() -> None:
    shown = {setting.variable: setting.value for setting in settings_of(Config())}
    assert shown["GATELOG_DATABASE_URL"] == ""


def test_trusted_proxies_are_networks() -> None:
    config = load_config({"GATELOG_TRUSTED_PROXIES": "10.0.0.0/8, fd00::/8,192.0.2.1"})
    assert list(map(str, config.trusted_networks)) == ["10.0.0.0/8", "fd00::/8", "192.0.2.1/32"]
    assert Config().trusted_networks == ()


def test_nothing_can_be_changed() -> None:
    with pytest.raises(AttributeError):
        Config().port = 1  # type: ignore[misc]


# --- lifetimes


def lifetimes(**variables: str) -> Config:
    return load_config({variable(name): value for name, value in variables.items()})


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Lifetimes(30 * 86_400, 7 * 86_400)),
        ({"assurance": "aal1"}, Lifetimes(30 * 86_400, 7 * 86_400)),
        ({"assurance": "aal2"}, Lifetimes(86_400, 3600)),
        ({"assurance": "aal3"}, Lifetimes(43_200, 900)),
        ({"assurance": "aal3", "session_idle_s": "60"}, Lifetimes(43_200, 60)),
        ({"assurance": "aal1", "session_idle_s": "0"}, Lifetimes(30 * 86_400, 0)),
    ],
)
def test_a_level_of_assurance_has_its_lifetimes(
    variables: dict[str, str], expected: Lifetimes
) -> None:
    assert lifetimes(**variables).lifetimes_of([]) == expected


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"assurance": "aal1", "session_lifetime_s": "2592001"}, "GATELOG_SESSION_LIFETIME_S"),
        ({"assurance": "aal2", "session_lifetime_s": "86401"}, "GATELOG_SESSION_LIFETIME_S"),
        ({"assurance": "aal2", "session_idle_s": "3601"}, "GATELOG_SESSION_IDLE_S"),
        ({"assurance": "aal3", "session_idle_s": "0"}, "GATELOG_SESSION_IDLE_S"),
        ({"assurance": "aal2", "roles": '{"admin": {"idle_s": 3601}}'}, "GATELOG_ROLES"),
        ({"assurance": "aal2", "roles": '{"admin": {"idle_s": 0}}'}, "GATELOG_ROLES"),
        ({"roles": "{"}, "GATELOG_ROLES"),
        ({"roles": '{"admin": {"idle": 5}}'}, "GATELOG_ROLES"),
        ({"roles": '{"Admin": {}}'}, "GATELOG_ROLES"),
        ({"roles": '{"editor\\n": {}}'}, "GATELOG_ROLES"),
        ({"roles": '{"admin": {"lifetime_s": 0}}'}, "GATELOG_ROLES"),
        ({"roles": '["admin"]'}, "GATELOG_ROLES"),
        ({"session_idle_s": "1.5"}, "GATELOG_SESSION_IDLE_S"),
        ({"assurance": "aal4"}, "GATELOG_ASSURANCE"),
        ({"too_many_sessions": "perhaps"}, "GATELOG_TOO_MANY_SESSIONS"),
    ],
)
def test_lifetimes_that_cannot_be_are_named(variables: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        lifetimes(**variables)
    assert caught.value.setting == named


def test_of_several_roles_the_shortest_lifetime_counts() -> None:
    config = lifetimes(
        session_idle_s="600",
        roles='{"admin": {"lifetime_s": 3600}, "auditor": {"lifetime_s": 60, "idle_s": 0}}',
    )
    assert config.lifetimes_of(["admin"]) == Lifetimes(3600, 600)
    assert config.lifetimes_of(["auditor"]) == Lifetimes(60, 0)
    assert config.lifetimes_of(["admin", "auditor", "clerk"]) == Lifetimes(60, 0)
    assert config.lifetimes_of(["clerk"]) == Lifetimes(30 * 86_400, 600)
    assert config.shortest_idle_s == 600
    assert lifetimes(session_idle_s="0").shortest_idle_s is None
