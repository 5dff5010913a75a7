"""A composition as a file of TOML, for version control and for machines (TOML 1.0).

What is written is read as the same composition, and is the same text for the same one: names, and
the order of endpoints, actions and steps, are kept. What a part leaves to its default stands in no
file.

```toml
format = 1

[[endpoint]]
name = "Who am I"
path = "/v2/me"

[[action]]
name = "Tell"
trigger = "Who am I"
step = [
    { do = "current_user" },
]
```
"""

from __future__ import annotations

import tomllib
from typing import Any

import msgspec
import tomli_w

from gatelog.composer.rules.composition import (
    MAX_COMPOSITION_BYTES,
    Composition,
    convert,
)
from gatelog.errors import InvalidInput

FORMAT = 1
_NAMES = {"endpoint": "endpoints", "action": "actions"}
_INNER = {"endpoint": ("field", "fields"), "action": ("step", "steps")}


def write(composition: Composition) -> str:
    """The composition as TOML."""
    plain: dict[str, Any] = msgspec.to_builtins(composition)
    document: dict[str, Any] = {"format": FORMAT}
    for single, plural in _NAMES.items():
        parts = plain.get(plural, ())
        if parts:
            document[single] = [_renamed(part, *reversed(_INNER[single])) for part in parts]
    return tomli_w.dumps(document)


def read(text: str) -> Composition:
    """The composition in this text. Raises InvalidInput, which says what is wrong and where."""
    if len(text.encode(errors="replace")) > MAX_COMPOSITION_BYTES:
        raise InvalidInput(f"A composition has at most {MAX_COMPOSITION_BYTES} bytes.")
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidInput(f"This is no TOML: {error}.") from None
    except RecursionError:
        raise InvalidInput("This is nested too deeply.") from None
    if document.pop("format", None) != FORMAT:
        raise InvalidInput(f"The file must begin with 'format = {FORMAT}'.")
    if more := document.keys() - _NAMES.keys():
        raise InvalidInput(f"There is no {sorted(more)[0]!r} in a composition.")
    plain: dict[str, Any] = {}
    for single, plural in _NAMES.items():
        parts = document.get(single, [])
        if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
            raise InvalidInput(f"Each {single} begins with [[{single}]].")
        plain[plural] = [_renamed(part, *_INNER[single]) for part in parts]
    return convert(plain)


def _renamed(part: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """The same with another name for what is inside. Raises InvalidInput for that name itself."""
    if new in part:
        raise InvalidInput(f"It is called {old!r}, and not {new!r}.")
    return {new if name == old else name: value for name, value in part.items()}
