"""Compositions for tests: one to walk with, and any, for properties."""

from __future__ import annotations

from typing import Any

import msgspec
from gatelog.composer.rules.checking import Surroundings, Taken
from gatelog.composer.rules.composition import (
    Access,
    Action,
    AnyStep,
    Call,
    ChangePassword,
    Composition,
    CurrentUser,
    EndAll,
    EndOthers,
    Endpoint,
    Field,
    Handler,
    ListSessions,
    Login,
    Logout,
    Method,
    Record,
    Register,
    Respond,
)
from gatelog.composer.rules.paths import parse_path
from hypothesis import strategies as st

AROUND = Surroundings(
    taken=(
        Taken(parse_path("/v1/logout_user"), "/v1/logout_user"),
        Taken(parse_path("/v1/users/{user_id}"), "/v1/users/{user_id}"),
    ),
    roles=frozenset({"admin", "auditor", "clerk"}),
    upstreams=frozenset({"orders"}),
    handlers=frozenset({"greet"}),
)

LOG_IN = Endpoint("Log in", "/v2/login", "POST", access="public")
LOG_OUT = Endpoint("Logout user", "/v2/logout_user", "GET", "Ends the session.", "public")
ME = Endpoint("Who am I", "/v2/me")
WALK = Composition(
    (LOG_IN, LOG_OUT, ME),
    (
        Action("Log in", "Log in", steps=(Login(),)),
        Action("Logout user", "Logout user", steps=(Logout(),)),
        Action("Tell", "Who am I", steps=(CurrentUser(),)),
    ),
)
# The same, with the product's own logout composed as what it is.
OWN_LOG_OUT = msgspec.structs.replace(LOG_OUT, path="/v1/logout_user")
OWN_WALK = msgspec.structs.replace(WALK, endpoints=(LOG_IN, OWN_LOG_OUT, ME))


def one(
    *steps: AnyStep,
    path: str = "/v2/one",
    method: Method = "GET",
    access: Access = "logged_in",
    name: str = "One",
    **more: Any,
) -> Composition:
    """A composition of one endpoint, whose action has these steps."""
    endpoint = Endpoint(name, path, method, access=access, **more)
    return Composition((endpoint,), (Action(f"Do {name}", name, steps=steps),))


def both(*compositions: Composition) -> Composition:
    """All of these in one."""
    return Composition(
        tuple(endpoint for each in compositions for endpoint in each.endpoints),
        tuple(action for each in compositions for action in each.actions),
    )


# --- any composition: mostly one that can be built, and often not

_words = st.from_regex(r"[a-z][a-z0-9_]{0,5}", fullmatch=True)
_names = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=12)
_texts = st.text(st.characters(codec="utf-8"), max_size=20)
_fields = st.builds(
    Field,
    name=_words,
    kind=st.sampled_from(["text", "integer", "boolean"]),
    max_length=st.integers(1, 2000),
    required=st.booleans(),
    personal=st.booleans(),
)
_references = st.sampled_from(
    [
        "{{session.user_id}}",
        "{{session.roles}}",
        "{{path.id}}",
        "{{body.note}}",
        "user {{session.user_id}} of {{path.id}}",
        "{{body.nothing}}",
        "{{ 1 + 1 }}",
        "}}{",
        "plain",
        '"quoted" \\ \u2028',
    ]
)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | _references | _texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_words, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def _responds(draw: st.DrawFn) -> Respond:
    import json

    text = json.dumps(draw(_json), ensure_ascii=draw(st.booleans()))
    return Respond(status=draw(st.sampled_from([200, 201, 202, 404, 418, 204, 302])), json=text)


_steps: st.SearchStrategy[AnyStep] = st.one_of(
    st.sampled_from(
        [
            Register(),
            Login(),
            Logout(),
            EndOthers(),
            EndAll(),
            EndAll(tokens=True),
            ChangePassword(),
            CurrentUser(),
            ListSessions(),
            Handler(name="greet"),
            Handler(name="nobody"),
            Call(upstream="orders", path="/of/{id}"),
            Call(upstream="orders"),
            Call(upstream="elsewhere", body=True),
        ]
    ),
    st.builds(
        Record,
        type=_words.map(lambda word: f"app.{word}"),
        fields=st.lists(st.sampled_from(["note", "id", "amount"]), max_size=3).map(tuple),
        per_hour=st.integers(1, 3600),
    ),
    _responds(),
)
_paths = st.lists(
    st.sampled_from(["v2", "orders", "{id}", "{other}", "a.b-c_d~e", "v1", "users", ".."]),
    min_size=1,
    max_size=4,
).map(lambda parts: "/" + "/".join(parts))


@st.composite
def compositions(draw: st.DrawFn) -> Composition:
    """Any composition whose types are right."""
    endpoints = draw(
        st.lists(
            st.builds(
                Endpoint,
                name=_names,
                path=_paths,
                method=st.sampled_from(["GET", "POST", "PUT", "PATCH", "DELETE"]),
                description=_texts,
                access=st.sampled_from(["public", "logged_in", "roles"]),
                roles=st.sampled_from([(), ("clerk",), ("admin", "clerk"), ("pirate",)]),
                fields=st.lists(
                    st.one_of(
                        _fields, st.sampled_from([Field("note"), Field("amount", "integer")])
                    ),
                    max_size=2,
                ).map(tuple),
            ),
            max_size=4,
        )
    )
    actions = [
        Action(
            draw(_names),
            draw(st.sampled_from([endpoint.name, endpoint.name, endpoint.name, "nowhere", ""])),
            draw(_texts),
            tuple(draw(st.lists(_steps, max_size=3))),
        )
        for endpoint in endpoints
    ]
    return Composition(tuple(endpoints), tuple(actions))


@st.composite
def sound_compositions(draw: st.DrawFn) -> Composition:
    """A composition that can be built, by the way in which it is made."""
    parts = []
    for number in range(draw(st.integers(0, 4))):
        fields = (
            Field("note", personal=draw(st.booleans()), required=draw(st.booleans())),
            Field("amount", "integer", required=draw(st.booleans())),
            Field("urgent", "boolean", required=draw(st.booleans())),
        )
        access: Access = draw(st.sampled_from(["logged_in", "roles"]))
        json = draw(
            st.sampled_from(
                [
                    '{"a": [1, null, "x"]}',
                    '{"who": "{{session.user_id}}", "note": "{{body.note}}"}',
                    '["{{path.id}} costs {{body.amount}}", "{{body.urgent}}"]',
                ]
            )
        )
        record = Record(type="app.noted", fields=("note", "amount", "id"))
        steps: tuple[AnyStep, ...] = draw(
            st.sampled_from(
                [
                    (CurrentUser(),),
                    (ListSessions(),),
                    (record,),
                    (record, CurrentUser()),
                    (record, Respond(json=json, status=201)),
                    (Respond(json=json),),
                    (Handler(name="greet"),),
                ]
            )
        )
        parts.append(
            one(
                *steps,
                name=draw(_names.filter(lambda name: name == name.strip())) + str(number),
                path=f"/v2/{{id}}/{number}",
                method=draw(st.sampled_from(["POST", "PUT", "PATCH"])),
                access=access,
                roles=("clerk",) if access == "roles" else (),
                fields=fields,
                description=draw(st.sampled_from(["", "Two\nlines.", "<b>bold</b>", "'\"\\"])),
            )
        )
    return both(*parts)
