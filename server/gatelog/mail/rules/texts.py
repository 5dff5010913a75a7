"""What a mail says: a template filled in, as plain text and as HTML.

A template is two files, ``NAME.txt`` and ``NAME.html``; the first line of the plain one is
``Subject: …``, an empty one follows. ``$login``, ``$link``, ``$lifetime``, ``$device`` and
``$time`` stand for what they are called, ``$$`` for a dollar sign. In HTML they are escaped. There
is nothing else: no conditions, and nothing that runs.
"""

from __future__ import annotations

import html
from collections.abc import Mapping
from email.message import EmailMessage
from string import Template

import msgspec

MINUTE_S, HOUR_S, DAY_S = 60, 3600, 86_400
TEMPLATES = (
    "reset",
    "invitation",
    "address",
    "password_set",
    "password_changed",
    "address_changed",
    "new_device",
    "factor_added",
    "factor_removed",
    "codes_made",
)
PLACES = {"login", "link", "lifetime", "device", "time"}


class Text(msgspec.Struct, frozen=True):
    """A template, as its files say it."""

    subject: Template
    plain: Template
    html: Template


def parse_text(plain: str, in_html: str) -> Text:
    """The template in these two files. Raises ValueError, which says what is wrong."""
    head, _, body = plain.replace("\r\n", "\n").partition("\n")
    name, colon, subject = head.partition(":")
    if not colon or name.strip().lower() != "subject" or not body.startswith("\n"):
        raise ValueError("it must begin with a line 'Subject: …' and an empty one")
    parts = [Template(each) for each in (subject.strip(), body.lstrip("\n"), in_html)]
    for part in parts:
        if not part.is_valid() or not set(part.get_identifiers()) <= PLACES:
            raise ValueError(f"it may name {', '.join(sorted(f'${p}' for p in PLACES))} only")
    return Text(*parts)


def filled(text: Text, values: Mapping[str, str]) -> EmailMessage:
    """The mail, with its texts and nothing of who sends it."""
    message = EmailMessage()
    message["Subject"] = text.subject.substitute(values)
    message.set_content(text.plain.substitute(values))
    escaped = {name: html.escape(value) for name, value in values.items()}
    message.add_alternative(text.html.substitute(escaped), subtype="html")
    return message


def told_lifetime(seconds: int) -> str:
    """The time for people: in days, hours or minutes, whichever is whole."""
    for unit_s, name in ((DAY_S, "day"), (HOUR_S, "hour"), (MINUTE_S, "minute")):
        if seconds >= unit_s and seconds % unit_s == 0:
            count = seconds // unit_s
            return f"{count} {name}{'s' if count != 1 else ''}"
    return f"{seconds} seconds"
