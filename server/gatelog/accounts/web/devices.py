"""The cookie by which a device is known: ``__Host-gatelog-device``.

Rules:

- It opens nothing. It gives wrong passwords on this device a budget of their own, at the accounts
  that have been logged in to on it (``accounts.rules.devices``).
- It holds a token for each of the last ``MAX_ACCOUNTS`` of them, the newest first, with dots in
  between: people who share a browser do not take it from each other.
- What is not of that form is no token. A token that no account knows is left out of the next
  cookie only when there is no more room: the server does not say which ones it knows.
- It outlives sessions and logouts. Over plain HTTP on a loopback address it has another name, like
  the session's cookie.
"""

from __future__ import annotations

import re

from aiohttp import hdrs, web

from gatelog.accounts.rules.devices import DEVICE_LIFETIME_S
from gatelog.http.caller import Caller
from gatelog.sessions.rules.tokens import is_well_formed

MAX_ACCOUNTS = 4
SECURE_NAME = "__Host-gatelog-device"
LOCAL_NAME = "gatelog-device"
COOKIES_ARE_SET = {
    hdrs.SET_COOKIE: f"The session cookie, and `{SECURE_NAME}`, by which the device is known."
}

_values_of = {
    name: re.compile(rf"(?:^|;)[ \t]*{name}=([A-Za-z0-9_.-]*)").findall
    for name in (SECURE_NAME, LOCAL_NAME)
}


def device_tokens(request: web.Request, caller: Caller) -> tuple[str, ...]:
    """The tokens that this request has of its device: well-formed, and not many."""
    raw = "; ".join(request.headers.getall(hdrs.COOKIE, ()))
    values = _values_of[_name(caller)](raw)
    if len(values) != 1:
        return ()  # of several, nobody knows whose they are
    found = [token for token in values[0].split(".") if is_well_formed(token)]
    return tuple(dict.fromkeys(found))[:MAX_ACCOUNTS]


def set_device_cookie(
    response: web.StreamResponse, request: web.Request, caller: Caller, token: str
) -> None:
    """Let the browser keep this token, in front of those that it has."""
    others = [other for other in device_tokens(request, caller) if other != token]
    value = ".".join([token, *others][:MAX_ACCOUNTS])
    secure = "" if caller.local else "; Secure"
    response.headers.add(
        hdrs.SET_COOKIE,
        f"{_name(caller)}={value}; Max-Age={DEVICE_LIFETIME_S}; Path=/{secure}; HttpOnly;"
        " SameSite=Lax",
    )


def _name(caller: Caller) -> str:
    return LOCAL_NAME if caller.local else SECURE_NAME
