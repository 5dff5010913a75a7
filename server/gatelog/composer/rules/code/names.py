"""Names for code, of names that may have anything in them; and texts as literals."""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Iterable

MAX_LENGTH = 48
INDENT = "    "
WIDTH = 100
# Names that stand in generated modules already.
_OF_MODULES = frozenset(
    {
        *("web", "public", "requires", "describes", "changes_state", "no_tokens", "read_body"),
        *("request", "body", "steps", "bodies", "as_text", "msgspec", "annotations"),
        *("Annotated", "Any", "Integer", "Literal", "Meta", "Steps"),
        *("bool", "dict", "int", "isinstance", "object", "sorted", "str"),
    }
)


class Names:
    """Gives names, each once."""

    def __init__(self) -> None:
        self._taken = set(_OF_MODULES)

    def function(self, text: str) -> str:
        """A name in lower case, of the words in this text."""
        return self._free("_".join(_words(text)).lower()[:MAX_LENGTH].rstrip("_"), "action", "_")

    def type(self, text: str) -> str:
        """A name of a class, of the words in this text."""
        name = "".join(word[:1].upper() + word[1:] for word in _words(text))[:MAX_LENGTH]
        return self._free(name, "Body", "")

    def _free(self, name: str, prefix: str, between: str) -> str:
        if not name or name[0].isdigit():
            name = f"{prefix}{between}{name}".rstrip("_")
        if keyword.iskeyword(name) or name in _OF_MODULES:
            name = f"{name}_"
        free, number = name, 2
        while free in self._taken:
            free, number = f"{name.rstrip('_')}_{number}", number + 1
        self._taken.add(free)
        return free


def _words(text: str) -> list[str]:
    """The words in ASCII; accents go, other scripts do as well."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.findall(r"[A-Za-z0-9]+", plain)


def attribute(name: str) -> str:
    """The attribute for a field of this name: the name, unless the language has it for itself."""
    return f"{name}_" if keyword.iskeyword(name) or name in _OF_MODULES else name


def literal(text: str) -> str:
    """The text as a literal of Python, in the quotes that need the fewest backslashes."""
    quoted = repr(text)
    if quoted[0] == '"' or ('"' in text and "'" not in text):
        return quoted
    inner = quoted[1:-1].replace("\\'", "'").replace('"', '\\"')
    return f'"{inner}"'


def docstring(text: str, indent: str = "") -> str:
    """A docstring that says this, with its line's end."""
    # a quote that two others follow would end it, and so would one at the end
    safe = re.sub(r'"(?=""|\Z)', r'\\"', text.strip().replace("\\", "\\\\"))
    lines = [line.rstrip() for line in safe.split("\n")]
    if len(lines) > 1:
        lines.append("")
    joined = "\n".join([lines[0], *(f"{indent}{line}".rstrip() for line in lines[1:])])
    end = indent if len(lines) > 1 else ""
    return f'{indent}"""{joined}{end}"""\n'


def called(function: str, arguments: Iterable[str], indent: str) -> str:
    """A call, on one line where there is room, else with an argument a line."""
    given = list(arguments)
    line = f"{indent}{function}({', '.join(given)})"
    if len(line) <= WIDTH and "\n" not in line:
        return line
    inner = indent + INDENT
    parts = "".join(f"{inner}{_indented(each, INDENT)},\n" for each in given)
    return f"{indent}{function}(\n{parts}{indent})"


def _indented(text: str, by: str) -> str:
    """The lines after the first one further in; literals have no line ends of their own."""
    return text.replace("\n", f"\n{by}")
