"""The configuration: what is accepted, what is refused, and what is shown."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from gatelog.config import MASK, SECRETS, Config, load_config, settings_of, variable
from gatelog.errors import ConfigError

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
