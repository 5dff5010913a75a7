"""All use cases of the console, on what they share."""

from __future__ import annotations

import msgspec

from gatelog.config import Config
from gatelog.console.service.overview import Looking
from gatelog.console.service.sessions import WhoIsIn
from gatelog.console.service.users import FindUsers
from gatelog.console.store.sessions import SessionsNow
from gatelog.console.store.users import Directory
from gatelog.log.store.database import Database
from gatelog.privacy.service.personal import PersonalData


class Console(msgspec.Struct, frozen=True):
    """Who there is, who is in, and how things stand."""

    users: FindUsers
    sessions: WhoIsIn
    looking: Looking


def make_console(config: Config, database: Database, personal: PersonalData) -> Console:
    """The use cases on this database, whose connections plan for indexes."""
    return Console(
        users=FindUsers(Directory(database)),
        sessions=WhoIsIn(sessions=SessionsNow(database), personal=personal),
        looking=Looking(config, database),
    )
