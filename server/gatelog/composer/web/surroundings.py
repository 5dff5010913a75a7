"""What a composition stands in, on this host: the routes of everything else, and names."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from aiohttp import web

from gatelog.composer.rules.checking import Surroundings, Taken
from gatelog.composer.rules.paths import Pattern
from gatelog.composer.service.handlers import handler_names
from gatelog.config import Config

# What the product keeps for itself, with all below, also where a setting has taken it away.
RESERVED = ("/console", "/docs", "/health", "/metrics", "/static", "/v1/compose", "/.well-known")
_group = re.compile(r"\(\?P<[A-Za-z_][A-Za-z0-9_]*>((?:[^()\[\]]|\[[^\]]*\])*)\)")
_one_segment = re.compile(r"\[\^\{\}/\]\+|\[[A-Za-z0-9-]+\](?:\{\d+(?:,\d+)?\}|[+*])?")


def surroundings(config: Config, resources: Iterable[web.AbstractResource]) -> Surroundings:
    """What there is beside what is composed; ``resources``: all others of the application."""
    hosted = f"the application at {config.mount}"
    taken = [
        *(each for resource in resources for each in taken_by(resource)),
        *(Taken(_prefix(path), path) for path in RESERVED),
        Taken(_prefix(config.mount), config.mount, hosted),
    ]
    return Surroundings(
        taken=tuple(taken),
        roles=frozenset(config.role_names),
        upstreams=frozenset(config.upstreams_listed),
        handlers=handler_names(),
    )


def taken_by(resource: web.AbstractResource) -> Iterator[Taken]:
    """The paths that a resource answers, or more than these: never fewer."""
    info = resource.get_info()
    if "path" in info:
        path = info["path"]
        yield Taken(Pattern(tuple(path.strip("/").split("/")) if path != "/" else ()), path)
    elif "pattern" in info:
        yield Taken(_dynamic(info["pattern"].pattern), resource.canonical)
    elif resource.canonical != "/":
        yield Taken(_prefix(resource.canonical), resource.canonical)


def _prefix(path: str) -> Pattern:
    return Pattern(tuple(part for part in path.split("/") if part), tail=True)


def _dynamic(regex: str) -> Pattern:
    """The pattern of a path with variables, as aiohttp writes it; what is not surely within one
    segment counts as anything from there on."""
    segments: list[str | None] = []
    for part in _split(regex):
        groups = _group.findall(part)
        if "(" not in part:
            segments.append(re.sub(r"\\(.)", r"\1", part))
        elif groups and all(_one_segment.fullmatch(each) for each in groups):
            segments.append(None)
        else:
            return Pattern(tuple(segments), tail=True)
    return Pattern(tuple(segments))


def _split(regex: str) -> Iterator[str]:
    """The segments of a regular expression: at slashes outside of its groups."""
    depth, begin, in_set = 0, 0, False
    text = regex.strip("/")
    for at, character in enumerate(text):
        if text[at - 1 : at] == "\\":
            continue
        in_set = (in_set or character == "[") and character != "]"
        if not in_set:
            depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "/" and depth == 0 and not in_set:
            yield text[begin:at]
            begin = at + 1
    yield text[begin:]
