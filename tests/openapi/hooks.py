"""What schemathesis needs to know of the service: how one logs in, and what a login looks like.

It is loaded by the command line of schemathesis (``SCHEMATHESIS_HOOKS``), in a process of its own.
"""

from __future__ import annotations

import json
import os
import random
import re
import string
import urllib.request
from typing import Any

import schemathesis
from hypothesis import strategies as st
from schemathesis import AuthContext, Case, HookContext

URL = os.environ["FUZZ_URL"]
LOGIN = os.environ.get("FUZZ_LOGIN", "")  # nobody's, if it is empty
PASSWORD = os.environ.get("FUZZ_PASSWORD", "")
OWN_ID = os.environ.get("FUZZ_USER", "")
OTHERS = os.environ.get("FUZZ_OTHERS", "").split(",")

# After these the session, or any other of the user, may be over.
ENDING = re.compile(
    r"/v1/(logout_user|change_password|sessions.*|active_sessions.*|users/.*)"
).fullmatch

schemathesis.openapi.format("login", st.text(string.ascii_lowercase + string.digits, min_size=1))
schemathesis.openapi.format("password", st.text(string.ascii_letters, min_size=15, max_size=40))


class Token:
    """A token of a session that is active, as far as is known here."""

    def __init__(self) -> None:
        self._token: str | None = None

    def get(self, case: Case[Any], _: AuthContext) -> str:
        token = self._token or _logged_in()
        self._token = None if ENDING(case.operation.path) else token
        return token

    def set(self, case: Case[Any], data: str, _: AuthContext) -> None:
        case.headers["Authorization"] = f"Bearer {data}"


def _logged_in() -> str:
    body = json.dumps({"login": LOGIN, "password": PASSWORD, "token": "bearer"}).encode()
    request = urllib.request.Request(  # noqa: S310 - of the service that is tried
        f"{URL}/v1/login_user", body, {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=30) as answer:  # noqa: S310
        return str(json.load(answer)["token"])


if LOGIN:
    schemathesis.auth(refresh_interval=None)(Token)


@schemathesis.hook
def before_call(_: HookContext, case: Case[Any], __: dict[str, Any]) -> None:
    """Let some of what is about a user be about one that there is, and none about oneself."""
    parameters = case.path_parameters or {}
    user = parameters.get("user_id")
    if isinstance(user, str) and (
        user == OWN_ID or (_is_id(user) and random.Random(user).random() < 0.5)
    ):
        parameters["user_id"] = random.Random(user).choice(OTHERS)


_is_id = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch
