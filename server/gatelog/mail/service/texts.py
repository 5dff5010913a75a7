"""Where the texts of mails are: in a folder of the operator's, or in the package."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from gatelog.config import Config, variable
from gatelog.errors import ConfigError
from gatelog.mail.rules.texts import TEMPLATES, Text, parse_text

SETTING = variable("mail_templates")


def load_texts(config: Config) -> dict[str, Text]:
    """All templates by their names; a file in the operator's folder is in place of the package's.

    Raises ConfigError, which names the file.
    """
    return {name: _load(config, name) for name in TEMPLATES}


def _load(config: Config, name: str) -> Text:
    try:
        return parse_text(_read(config, f"{name}.txt"), _read(config, f"{name}.html"))
    except ValueError as error:
        raise ConfigError(SETTING, f"{name}: {error}") from error


def _read(config: Config, file: str) -> str:
    if config.mail_templates:
        path = Path(config.mail_templates) / file
        try:
            if path.exists():
                return path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(SETTING, f"cannot read {path}: {error.strerror}") from error
    return (files("gatelog.mail") / "templates" / file).read_text(encoding="utf-8")
