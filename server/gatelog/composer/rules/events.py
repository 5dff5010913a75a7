"""What happens to a composition, and what composed endpoints record."""

from __future__ import annotations

from typing import ClassVar
from uuid import UUID

from gatelog.log.rules.events import Announcement, Event, UserEvent

TOPIC = "composer"


class DraftChanged(Event, frozen=True, kw_only=True, tag="composer_draft_changed"):
    """The draft is another one: its SHA-256, and in words what became of the one before.

    ``subject_id``: who changed it; None: an operator at the command line. The draft itself stands
    beside the log. ``data``: a list of texts in JSON.
    """

    digest: bytes
    data: str = "[]"


class CompositionBuilt(Announcement, frozen=True, kw_only=True, tag="composition_built"):
    """A composition is live, on every worker, from here on: its number and SHA-256.

    ``data``: in words what is different from the build before, a list of texts in JSON;
    ``restored``: of which earlier build it is the composition again. ``subject_id``: as with
    ``DraftChanged``.
    """

    TOPIC: ClassVar[str] = TOPIC

    build: int
    digest: bytes
    restored: int | None = None
    data: str = "[]"

    @property
    def announced(self) -> bytes:
        return announced_build(self.build, self.digest)


class AppRecorded(UserEvent, frozen=True, kw_only=True, tag="app_recorded"):
    """A composed endpoint has recorded an event of its operator's own type (``app.…``).

    ``data``: what it was told that is not personal, an object in JSON; the rest stands in
    ``sealed``.
    """

    name: str
    session_id: UUID
    data: str = "{}"


def announced_build(build: int, digest: bytes) -> bytes:
    """What workers go by: the number of the build in eight bytes, and its SHA-256."""
    return build.to_bytes(8, "big") + digest


def build_announced(value: bytes) -> tuple[int, bytes]:
    """The build's number and its SHA-256; 0 and nothing before there was one."""
    return int.from_bytes(value[:8], "big"), value[8:]
