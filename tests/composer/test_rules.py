"""What a composition may be: paths, templates, the order of steps; and it as a file."""

from __future__ import annotations

import json
import re
from itertools import product
from typing import Any

import msgspec
import pytest
from aiohttp import web
from gatelog.composer.rules.checking import MAX_FAULTS, Fault, check
from gatelog.composer.rules.comparing import MAX_TOLD, compare, told
from gatelog.composer.rules.composition import (
    EMPTY,
    MAX_COMPOSITION_BYTES,
    PALETTE,
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
    Record,
    Register,
    Respond,
    convert,
    decode,
    encode,
)
from gatelog.composer.rules.files import read, write
from gatelog.composer.rules.paths import Crossings, Table, parse_path
from gatelog.composer.rules.templates import MAX_DEPTH, Template
from gatelog.composer.web.surroundings import taken_by
from gatelog.errors import InvalidInput
from hypothesis import given
from hypothesis import strategies as st

from tests.composer.compositions import (
    AROUND,
    LOG_OUT,
    ME,
    OWN_WALK,
    WALK,
    both,
    compositions,
    one,
    sound_compositions,
)


def said(composition: Composition) -> list[str]:
    """What is wrong with it, in words."""
    return [str(fault) for fault in check(composition, AROUND)]


# --- paths


@pytest.mark.parametrize(
    "path", ["/a", "/a/b", "/a/{id}", "/{id}/{other}", "/A.b-c_d~e", "/" + "/".join("abcdefghij")]
)
def test_a_path_is_literal_segments_and_parameters(path: str) -> None:
    assert parse_path(path).names == tuple(re.findall(r"{(\w+)}", path))


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", "begin with '/'"),
        ("/", "begin with '/'"),
        ("a", "begin with '/'"),
        ("//a", "empty segment"),
        ("/a/", "empty segment"),
        ("/a//b", "empty segment"),
        ("/.", "is no segment"),
        ("/a/..", "is no segment"),
        ("/a%2Fb", "is no segment"),
        ("/a b", "is no segment"),
        ("/é", "is no segment"),
        ("/a?b", "is no segment"),
        ("/a\n", "is no segment"),
        ("/{id}x", "whole segment"),
        ("/{id:.*}", "whole segment"),
        ("/{}", "whole segment"),
        ("/{Id}", "whole segment"),
        ("/{id}/{id}", "twice"),
        ("/" + "/".join("abcdefghijk"), "more than 10"),
    ],
)
def test_anything_else_is_none(path: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=re.escape(why)):
        parse_path(path)


SEGMENTS = ["a", "b", "{p}"]
ALL_PATHS = [
    "/" + "/".join(f"{{p{n}}}" if part == "{p}" else part for n, part in enumerate(parts))
    for length in (1, 2, 3)
    for parts in product(SEGMENTS, repeat=length)
]
ALL_CONCRETE = [
    "/" + "/".join(parts) for length in (1, 2, 3) for parts in product("abc", repeat=length)
]


def as_expression(path: str) -> re.Pattern[str]:
    """The slow, obvious meaning of a path."""
    return re.compile(re.sub(r"{\w+}", "[^/]+", path))


def test_paths_meet_where_a_request_could_be_for_both() -> None:
    crossings: Crossings[str] = Crossings()
    for path in ALL_PATHS:
        crossings.add(parse_path(path), path)
    fitting = {
        path: {c for c in ALL_CONCRETE if as_expression(path).fullmatch(c)} for path in ALL_PATHS
    }
    for path in ALL_PATHS:
        expected = {other for other in ALL_PATHS if fitting[path] & fitting[other]}
        assert set(crossings.meeting(parse_path(path))) == expected
        meeting = {o for o in ALL_PATHS if parse_path(path).meets(parse_path(o))}
        assert meeting == expected


def test_a_table_finds_what_a_path_is_for() -> None:
    for path in ALL_PATHS:
        table: Table[str] = Table()
        table.add(path, "GET", path)
        for concrete in [*ALL_CONCRETE, "/", "//", "/a/", "/a//b", "/a/b/c/d"]:
            found = table.find(concrete)
            assert (found is not None) == bool(as_expression(path).fullmatch(concrete)), concrete
            if found is not None:
                names = re.findall(r"{(\w+)}", path)
                values = [
                    c for p, c in zip(path.split("/"), concrete.split("/"), strict=True) if "{" in p
                ]
                assert found.values == dict(zip(names, values, strict=True))


def test_values_of_parameters_are_text_that_is_no_step_and_not_long() -> None:
    table: Table[str] = Table()
    table.add("/a/{id}", "GET", "it")
    found = table.find("/a/x%2Fy%2525")
    assert found is not None and found.values == {"id": "x/y%25"}
    for none in ("/a/.", "/a/..", "/a/" + "x" * 201):
        assert table.find(none) is None


@pytest.mark.parametrize(
    ("route", "path", "meets"),
    [
        ("/v1/me", "/v1/me", True),
        ("/v1/me", "/v1/{who}", True),
        ("/v1/me", "/v1/me/more", False),
        ("/v1/s/{id:[0-9A-Fa-f-]{36}}", "/v1/s/list", True),
        ("/v1/s/{id:[0-9A-Fa-f-]{36}}", "/v1/s/a/b", False),
        ("/v1/s/{id}/end", "/v1/s/{other}/end", True),
        ("/v1/s/{id}/end", "/v1/s/{other}/begin", False),
        ("/v1/tile/{path:.+}", "/v1/tile/a/b/c", True),
        ("/v1/tile/{path:.+}", "/v1/other", False),
        (r"/x/{a:\d+/\d+}", "/x/1/2", True),
        (r"/x/{a:(a|b)/c}/d", "/x/a/c/d", True),
        ("/x/{a}.{b}", "/x/a.b", True),
        ("/a.b/{c}", "/a.b/c", True),
        ("/a.b/{c}", "/aXb/c", False),
    ],
)
def test_routes_of_others_take_their_paths_and_never_less(
    route: str, path: str, meets: bool
) -> None:
    (taken,) = taken_by(web.UrlDispatcher().add_resource(route))
    assert parse_path(path).meets(taken.pattern) == taken.pattern.meets(parse_path(path)) == meets


# --- templates


def values(**places: dict[str, Any]) -> Any:
    return {name: place.__getitem__ for name, place in places.items()}


def test_a_template_puts_values_in_their_places() -> None:
    text = '{"id": "{{path.id}}", "n": "{{body.n}}", "t": "{{path.id}} has {{body.n}}, {{body.o}}"}'
    filled = Template(text).fill(values(path={"id": "x"}, body={"n": 7, "o": None}))
    assert json.loads(filled) == {"id": "x", "n": 7, "t": "x has 7, "}
    constant = Template('{"a": [1, 2.5, null, true, "}}"]}').constant
    assert constant is not None and json.loads(constant) == {"a": [1, 2.5, None, True, "}}"]}


@given(st.text())
def test_a_value_stays_within_its_place(text: str) -> None:
    template = Template('{"a": "{{path.x}}", "b": ["<{{path.x}}>"]}')
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    filled = json.loads(template.fill(values(path={"x": text})))
    assert filled == {"a": text, "b": [f"<{text}>"]}


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "no JSON"),
        ("{", "no JSON"),
        ('{"a": NaN}', "no JSON"),
        ('{"a": 1, "a": 2}', "twice"),
        ('{"a": 1e999}', "too large"),
        ('{"a": 18446744073709551617}', "too large"),
        ('"{{session.user_id"', "refers to what is not known"),
        ('"{{ session.user_id }}"', "refers to what is not known"),
        ('"{{config.master_key}}"', "refers to what is not known"),
        ('"{{session.user_id.__class__}}"', "refers to what is not known"),
        ('"{{1+1}}"', "refers to what is not known"),
        ('"{{{session.user_id}}"', None),
        ('{"{{path.id}}": 1}', "cannot be a reference"),
        ("[" * (MAX_DEPTH + 2) + "]" * (MAX_DEPTH + 2), "too deeply"),
        ("[" * 3000 + "]" * 3000, "too deeply"),
        ('"\\ud800"', "lone surrogate"),
    ],
)
def test_a_template_that_is_none_says_why(text: str, why: str | None) -> None:
    if why is None:
        assert Template(text).references
        return
    with pytest.raises(InvalidInput, match=why):
        Template(text)


# --- what can be built, and what is said where it cannot


def test_the_walk_can_be_built() -> None:
    assert said(WALK) == []
    assert said(EMPTY) == []


@pytest.mark.parametrize(
    ("steps", "access", "step", "why"),
    [
        ((Logout(), CurrentUser()), "logged_in", 2, "step 1 (logout) has ended the session"),
        ((EndAll(), ListSessions()), "logged_in", 2, "step 1 (end all sessions) has ended"),
        ((Logout(), Logout()), "public", 2, "has nothing to end: step 1 (logout)"),
        ((CurrentUser(),), "public", 1, "needs somebody who is logged in, and the endpoint is pub"),
        ((Record(type="app.x"),), "public", 1, "needs somebody who is logged in"),
        ((EndOthers(),), "public", 1, "needs somebody who is logged in"),
        ((Register(), CurrentUser()), "public", 2, "needs somebody who is logged in"),
        ((Login(),), "logged_in", 1, "for who is not logged in, and the endpoint lets nobody"),
        ((Login(), Register()), "public", 2, "step 1 (login) has logged them in"),
        ((Login(), Login()), "public", 2, "step 1 (login) has logged them in"),
        ((Respond(), CurrentUser()), "logged_in", 1, "nothing comes after it: current user would"),
        ((Handler(name="greet"), Logout()), "logged_in", 1, "nothing comes after it"),
        ((Call(upstream="orders"), Logout()), "logged_in", 1, "nothing comes after it"),
        ((), "public", None, "It has no event"),
        ((Handler(name="nobody"),), "public", 1, "has registered no handler 'nobody'"),
        ((Call(upstream="evil"),), "public", 1, "no upstream 'evil' in GATELOG_UPSTREAMS"),
        ((Call(upstream="orders", path="/{x}"),), "public", 1, "{x} is no parameter"),
        ((Call(upstream="orders", path="/../x"),), "public", 1, "Its path cannot be used"),
        ((Call(upstream="orders", path="//evil.example"),), "public", 1, "cannot be used"),
        ((Call(upstream="orders", path="/@evil.example/"),), "public", 1, "cannot be used"),
        ((Respond(json='"{{body.x}}"'),), "logged_in", 1, "{{body.x}} refers to what this"),
        ((Respond(json='"{{body.password}}"'),), "logged_in", 1, "{{body.password}} refers"),
        ((Respond(json='"{{session.user_id}}"'),), "public", 1, "needs somebody who is logged in"),
        ((Logout(), Respond(json='"{{session.user_id}}"')), "logged_in", 2, "has ended"),
        ((Respond(status=204),), "public", 1, "cannot have the status 204"),
        ((Respond(status=302),), "public", 1, "cannot have the status 302"),
        ((Respond(json="nonsense"),), "public", 1, "Its JSON cannot be used"),
        ((Record(type="app.x", fields=("y",)),), "logged_in", 1, "There is no field y"),
        ((Record(type="app.x", fields=("note", "note")),), "logged_in", 1, "recorded twice"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(
    steps: tuple[AnyStep, ...], access: Any, step: int | None, why: str
) -> None:
    fields = (Field("note"),)
    faults = check(one(*steps, method="POST", access=access, fields=fields), AROUND)
    assert any(fault.step == step and why in fault.says for fault in faults), faults
    assert {(fault.what, fault.name) for fault in faults} == {("action", "Do One")}


@pytest.mark.parametrize("kind", [Register, Login, ChangePassword])
def test_what_reads_a_body_needs_a_method_that_has_one(kind: Any) -> None:
    access: Any = "logged_in" if kind is ChangePassword else "public"
    for method in ("GET", "DELETE"):
        (fault,) = said(one(kind(), method=method, access=access))
        assert f"{method} has none: use POST" in fault
    assert said(one(kind(), method="PUT", access=access)) == []


@pytest.mark.parametrize(
    ("steps", "access"),
    [
        ((Register(), Login(), CurrentUser()), "public"),
        (
            (Login(), Record(type="app.x", fields=("note",)), Respond(json='"{{body.note}}"')),
            "public",
        ),
        ((Login(), Logout()), "public"),
        ((EndOthers(), ListSessions()), "logged_in"),
        ((ChangePassword(), CurrentUser()), "logged_in"),
        ((Logout(), Respond(json='{"bye": true}')), "public"),
    ],
)
def test_orders_that_make_sense(steps: tuple[AnyStep, ...], access: Any) -> None:
    composition = one(*steps, method="POST", access=access, fields=(Field("note"),))
    assert said(composition) == []


def test_an_endpoint_may_stand_for_what_the_product_does_there() -> None:
    assert said(OWN_WALK) == []
    own = "/v1/logout_user"
    assert said(one(Logout(), path=own, method="POST", access="public")) == []
    (fault,) = said(one(Logout(), Logout(), path=own, access="public"))[:1]
    assert fault.endswith("It may stand for that with logout as the one event of its action.")
    for other in (
        one(Logout(), path=own, method="DELETE", access="public"),
        one(Logout(), path=own),
        one(Logout(), path=own, access="roles", roles=("clerk",)),
        one(Respond(), path=own, access="public"),
        one(Logout(), Respond(), path=own, access="public"),
        one(Logout(), path=own, method="POST", access="public", fields=(Field("note"),)),
        one(Logout(), path="/v1/{logout_user}", access="public"),
        both(OWN_WALK, one(Logout(), path=own, access="public", name="Again")),
    ):
        assert said(other), other


def test_conflicts_are_refused() -> None:
    for path in ("/v1/logout_user", "/v1/{anything}", "/v1/users/me"):
        (fault,) = said(one(CurrentUser(), path=path))
        assert "which the product itself answers" in fault
    twice = both(one(CurrentUser(), name="A"), one(CurrentUser(), name="B"))
    assert said(twice) == ["endpoint 'B': GET /v2/one is the endpoint 'A' already."]
    either = both(one(CurrentUser(), name="A"), one(CurrentUser(), name="B", path="/v2/{one}"))
    assert said(either) == [
        "endpoint 'B': /v2/{one} meets /v2/one of 'A': a request could be for either."
    ]
    methods = both(one(CurrentUser(), name="A"), one(CurrentUser(), name="B", method="POST"))
    assert said(methods) == []


def test_endpoints_and_actions_belong_together() -> None:
    assert said(Composition((ME,))) == [
        "endpoint 'Who am I': It triggers no action: nothing would happen."
    ]
    lost = Composition((), (Action("A", "Gone", steps=(Logout(),)), Action("B")))
    assert said(lost) == [
        "action 'A': Its trigger is 'Gone', and there is no such endpoint.",
        "action 'B': It has no trigger: choose an endpoint.",
    ]
    actions = (
        Action("A", ME.name, steps=(CurrentUser(),)),
        Action("B", ME.name, steps=(Logout(),)),
    )
    assert said(Composition((ME,), actions)) == [
        f"action '{name}': The endpoint 'Who am I' triggers more than one action." for name in "AB"
    ]


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"access": "roles"}, "It is for roles, and none is named."),
        ({"roles": ("clerk",)}, "Roles are named, and it is not for roles."),
        ({"access": "roles", "roles": ("pirate",)}, "There is no role 'pirate'."),
        ({"method": "POST", "fields": (Field("a"), Field("a"))}, "The field a is declared twice."),
        ({"fields": (Field("a"),)}, "GET has none: use POST."),
        ({"method": "POST", "fields": (Field("password"),)}, "one of login's own"),
        ({"name": " padded"}, "without space at its ends"),
        ({"name": "tab\there"}, "printable"),
        ({"name": "right\u202eleft"}, "printable"),
        ({"name": "zero\u200bwidth"}, "printable"),
        ({"description": "bell\x07"}, "no text"),
        ({"description": "\u202e"}, "no text"),
    ],
)
def test_an_endpoint_that_cannot_be(changes: dict[str, Any], why: str) -> None:
    endpoint = msgspec.structs.replace(ME, **changes)
    action = Action("Tell", endpoint.name, steps=(CurrentUser(),))
    faults = said(Composition((endpoint,), (action,)))
    assert len(faults) == 1 and why in faults[0], faults


def test_a_record_has_a_size() -> None:
    fields = tuple(Field(f"f{n}", max_length=2000) for n in range(2))
    record = Record(type="app.x", fields=tuple(field.name for field in fields))
    (fault,) = said(one(record, method="POST", fields=fields))
    assert "which is more than 8192" in fault


def test_faults_have_an_end() -> None:
    many = both(*(one(path="/v1/logout_user", name=f"E{n}") for n in range(500)))
    assert len(check(many, AROUND)) == MAX_FAULTS


def test_checking_a_thousand_endpoints_takes_a_moment() -> None:
    many = both(*(one(CurrentUser(), path=f"/v2/a{n}/{{id}}", name=f"E{n}") for n in range(1000)))
    assert said(many) == []


# --- as bytes, and as a file


@given(compositions())
def test_any_composition_comes_back_from_bytes_and_from_a_file(composition: Composition) -> None:
    assert decode(encode(composition)) == composition
    text = write(composition)
    assert read(text) == composition
    assert write(read(text)) == text
    assert hash(composition) == hash(read(text))


@given(compositions())
def test_a_refusal_says_where_and_why(composition: Composition) -> None:
    for fault in check(composition, AROUND):
        names = {e.name for e in composition.endpoints} | {a.name for a in composition.actions}
        assert fault.name in names
        assert re.search(r"\w.*[.:]?", fault.says)
        if fault.step is not None:
            action = next(a for a in composition.actions if a.name == fault.name)
            assert any(
                1 <= fault.step <= len(a.steps)
                for a in composition.actions
                if a.name == action.name
            )


@given(sound_compositions())
def test_what_is_sound_can_be_built(composition: Composition) -> None:
    assert check(composition, AROUND) == []


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "must begin with 'format = 1'"),
        ("format = 2", "must begin with 'format = 1'"),
        ("format = 1\nformat = 1", "no TOML"),
        ("format = 1\n[[endpoints]]", "There is no 'endpoints'"),
        ("format = 1\n[endpoint]", r"begins with \[\[endpoint\]\]"),
        ("format = 1\nendpoint = 5", r"begins with \[\[endpoint\]\]"),
        ('format = 1\n[[endpoint]]\nname = "A"', "missing required field `path`"),
        ('format = 1\n[[endpoint]]\nname = "A"\npath = "/a"\nshape = 1', "unknown field `shape`"),
        ('format = 1\n[[endpoint]]\nname = "A"\npath = "/a"\nfields = []', "called 'field'"),
        ('format = 1\n[[action]]\nname = "A"\n[[action.step]]\ndo = "fly"', "Invalid value 'fly'"),
        ('format = 1\n[[action]]\nname = "A"\n[[action.step]]\ndo = "record"', "`type`"),
        ("format = 1\n#" + "x" * MAX_COMPOSITION_BYTES, "at most"),
    ],
)
def test_a_file_that_is_none_says_why(text: str, why: str) -> None:
    with pytest.raises(InvalidInput, match=why):
        read(text)


WALK_AS_TOML = """\
format = 1

[[endpoint]]
name = "Log in"
path = "/v2/login"
method = "POST"
access = "public"

[[endpoint]]
name = "Logout user"
path = "/v2/logout_user"
description = "Ends the session."
access = "public"

[[endpoint]]
name = "Who am I"
path = "/v2/me"

[[action]]
name = "Log in"
trigger = "Log in"
step = [
    { do = "login" },
]

[[action]]
name = "Logout user"
trigger = "Logout user"
step = [
    { do = "logout" },
]

[[action]]
name = "Tell"
trigger = "Who am I"
step = [
    { do = "current_user" },
]
"""


def test_the_walk_as_a_file_reads_well() -> None:
    assert write(WALK) == WALK_AS_TOML


def test_what_is_stored_has_a_size() -> None:
    endpoints = tuple(Endpoint(f"E{n}", "/a", description="x" * 1000) for n in range(1000))
    with pytest.raises(InvalidInput, match="at most"):
        encode(Composition(endpoints))


@pytest.mark.parametrize(
    "content",
    [
        {"endpoints": [{}]},
        {"actions": 7},
        {"endpoints": [{"name": "", "path": "/a"}]},
        {"x": 1},
        [],
    ],
)
def test_what_is_no_composition_says_where(content: Any) -> None:
    with pytest.raises(InvalidInput, match="This is no composition"):
        convert(content)


# --- differences


def test_a_difference_in_words() -> None:
    assert compare(WALK, WALK) == []
    assert [str(change) for change in compare(EMPTY, Composition((ME,)))] == [
        "endpoint 'Who am I' added: GET /v2/me"
    ]
    path = msgspec.structs.replace(LOG_OUT, path="/v3/out", description="Else.")
    after = Composition(
        (path, ME),
        (WALK.actions[1], msgspec.structs.replace(WALK.actions[2], steps=(ListSessions(),))),
    )
    assert [str(change) for change in compare(WALK, after)] == [
        "endpoint 'Log in' removed",
        "endpoint 'Logout user' changed: path: '/v2/logout_user' became '/v3/out';"
        " another description",
        "action 'Log in' removed",
        "action 'Tell' changed: steps: current_user became list_sessions",
    ]
    turned = msgspec.structs.replace(WALK, endpoints=WALK.endpoints[::-1])
    assert [str(change) for change in compare(WALK, turned)] == [
        "endpoint 'all' changed: another order"
    ]


@given(compositions(), compositions())
def test_there_is_a_difference_where_there_is_one(a: Composition, b: Composition) -> None:
    names = (
        [e.name for c in (a, b) for e in c.endpoints],
        [x.name for c in (a, b) for x in c.actions],
    )
    if all(len(set(each)) == len(each) for each in names):
        assert bool(compare(a, b)) == (a != b)
    assert len(told(compare(a, b))) < 65_536 // 2


def test_what_is_told_in_the_log_has_an_end() -> None:
    many = both(*(one(CurrentUser(), path="/a" * 90, name=f"E{n}") for n in range(1000)))
    lines = json.loads(told(compare(EMPTY, many)))
    assert len(lines) == MAX_TOLD + 1 and lines[-1] == f"and {2000 - MAX_TOLD} more"
    assert max(map(len, lines)) <= 200


def test_the_palette_has_every_step() -> None:
    assert {kind for kind in AnyStep.__args__} == set(PALETTE)
    for kind in PALETTE:
        assert kind.TITLE and kind.ABOUT


def test_the_token_of_a_login_has_its_name_for_itself() -> None:
    fields = (Field("token"),)
    (fault,) = check(one(Login(), method="POST", access="public", fields=fields), AROUND)
    assert fault.step == 1 and "rename the declared field" in fault.says


@pytest.mark.parametrize(
    ("endpoint", "at"),
    [
        (Endpoint(" One", "/v2/one"), "name"),
        (Endpoint("One", "/v2/one", description="\x00"), "description"),
        (Endpoint("One", "v2"), "path"),
        (Endpoint("One", "/v1/logout_user"), "path"),
        (Endpoint("One", "/v2/one", access="roles"), "roles"),
        (Endpoint("One", "/v2/one", roles=("clerk",)), "roles"),
        (Endpoint("One", "/v2/one", access="roles", roles=("pirate",)), "roles"),
        (Endpoint("One", "/v2/one", fields=(Field("note"),)), "fields"),
        (Endpoint("One", "/v2/one", "POST", fields=(Field("login"),)), "fields"),
    ],
)
def test_a_fault_says_at_what_it_is(endpoint: Endpoint, at: str) -> None:
    action = Action("Do", endpoint.name, steps=(CurrentUser(),))
    assert {fault.at for fault in check(Composition((endpoint,), (action,)), AROUND)} == {at}


def test_a_fault_reads_as_a_sentence() -> None:
    assert str(Fault("action", "A", "It is so.", 2)) == "action 'A', step 2: It is so."
