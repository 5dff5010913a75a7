"""Times as arguments of commands."""

from __future__ import annotations

from datetime import UTC, datetime

import click


class Time(click.ParamType[datetime]):
    """A date or a time as in RFC 3339; without a zone it is UTC."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> datetime:
        if isinstance(value, datetime):
            return value
        try:
            time = datetime.fromisoformat(str(value))
            return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
        except (ValueError, OverflowError):
            self.fail(f"{value!r} is no time like 2026-01-31T12:00:00Z or 2026-01-31.", param, ctx)


TIME = Time()
