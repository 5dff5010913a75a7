"""Points in time, as types that say so to who reads a schema."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from msgspec import Meta

# With its offset; in UTC wherever the service says one (RFC 3339).
Moment = Annotated[datetime, Meta(tz=True)]
