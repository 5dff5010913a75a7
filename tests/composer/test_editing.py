"""Changing one part of a composition: by name, with what was seen, and what refers to it."""

from __future__ import annotations

import asyncio

import pytest
from gatelog.composer.rules.composition import (
    MAX_FIELDS,
    MAX_STEPS,
    Action,
    Composition,
    CurrentUser,
    Endpoint,
    Field,
    Logout,
    Respond,
)
from gatelog.composer.rules.editing import (
    action_named,
    add_action,
    add_endpoint,
    change_action,
    change_endpoint,
    endpoint_named,
    move_step,
    put_field,
    put_step,
    remove_action,
    remove_endpoint,
    remove_field,
    remove_step,
    seen_of,
)
from gatelog.composer.service.composer import Composer
from gatelog.composer.service.editing import edit
from gatelog.config import Config
from gatelog.errors import DraftOutdated, InvalidInput, NotFound
from gatelog.hosting.services import open_services
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.composer.compositions import AROUND, LOG_IN, LOG_OUT, ME, WALK
from tests.conftest import Dsns

TELL = WALK.actions[2]


def test_what_is_added_comes_last() -> None:
    endpoint, action = Endpoint("New", "/v2/new"), Action("New", "New")
    changed = add_action(action)(add_endpoint(endpoint)(WALK))
    assert changed.endpoints == (*WALK.endpoints, endpoint)
    assert changed.actions == (*WALK.actions, action)
    with pytest.raises(InvalidInput, match="another endpoint of this name"):
        add_endpoint(endpoint)(changed)
    with pytest.raises(InvalidInput, match="another action of this name"):
        add_action(action)(changed)


def test_a_new_name_goes_to_what_refers_to_it() -> None:
    change = change_endpoint("Who am I", seen_of(ME), lambda e: replace(e, name="Me"))
    changed = change(WALK)
    assert [each.name for each in changed.endpoints] == ["Log in", "Logout user", "Me"]
    assert action_named(changed, "Tell").trigger == "Me"
    assert len(changed.pairs()) == len(WALK.pairs())
    with pytest.raises(InvalidInput, match="another endpoint"):
        change_endpoint("Who am I", seen_of(ME), lambda e: replace(e, name="Log in"))(WALK)


def test_what_is_removed_leaves_what_refers_to_it() -> None:
    changed = remove_endpoint("Who am I", seen_of(ME))(WALK)
    assert changed.endpoints == (LOG_IN, LOG_OUT)
    assert action_named(changed, "Tell").trigger == ""
    changed = remove_action("Tell", seen_of(TELL))(WALK)
    assert changed.endpoints == WALK.endpoints and len(changed.actions) == 2


def test_nothing_is_changed_that_was_not_seen() -> None:
    other = change_endpoint("Who am I", seen_of(ME), lambda e: replace(e, path="/v2/other"))(WALK)
    for change in (
        change_endpoint("Who am I", seen_of(ME), lambda e: e),
        remove_endpoint("Who am I", seen_of(ME)),
        change_action("Tell", seen_of(replace(TELL, description="x")), lambda a: a),
        remove_action("Tell", ""),
    ):
        with pytest.raises(DraftOutdated, match="look at it again"):
            change(other)
    for gone in (remove_endpoint("nobody", ""), remove_action("nobody", "")):
        with pytest.raises(NotFound):
            gone(WALK)


def test_fields() -> None:
    one = put_field(None, Field("a"))(ME)
    two = put_field(None, Field("b", "integer"))(one)
    assert [field.name for field in two.fields] == ["a", "b"]
    assert put_field(1, Field("c"))(two).fields == (Field("c"), Field("b", "integer"))
    assert put_field(1, Field("a", max_length=3))(two).fields[0].max_length == 3
    assert remove_field(1)(two).fields == (Field("b", "integer"),)
    for number, name in ((None, "a"), (1, "b")):
        with pytest.raises(InvalidInput, match="another field of this name"):
            put_field(number, Field(name))(two)
    for number in (0, 3):
        with pytest.raises(NotFound):
            remove_field(number)(two)
    full = replace(ME, fields=tuple(Field(f"f{number}") for number in range(MAX_FIELDS)))
    with pytest.raises(InvalidInput, match="no more can be"):
        put_field(None, Field("more"))(full)


def test_events() -> None:
    action = put_step(None, Respond())(put_step(None, Logout())(Action("A")))
    assert action.steps == (Logout(), Respond())
    assert put_step(1, CurrentUser())(action).steps == (CurrentUser(), Respond())
    assert remove_step(1)(action).steps == (Respond(),)
    assert remove_step(2)(replace(action, steps=(Logout(), Logout()))).steps == (Logout(),)
    for number in (0, 3):
        for change in (remove_step(number), move_step(number, 1), put_step(number, Logout())):
            with pytest.raises(NotFound):
                change(action)
    full = replace(action, steps=(Logout(),) * MAX_STEPS)
    with pytest.raises(InvalidInput, match="no more can be"):
        put_step(None, Logout())(full)


@given(st.integers(1, 5), st.sampled_from([-1, 1]))
def test_a_move_swaps_two_neighbours_or_does_nothing(number: int, by: int) -> None:
    before = [Respond(status=200 + each) for each in range(5)]
    moved = list(move_step(number, by)(Action("A", steps=tuple(before))).steps)
    expected, at = list(before), number - 1
    if 0 <= at + by < len(before):
        expected[at], expected[at + by] = expected[at + by], expected[at]
    assert moved == expected


# --- while others do


async def test_changes_of_different_parts_at_once_all_count(config: Config, database: Dsns) -> None:
    async with open_services(config, database.app) as services:
        composer = services.composing.composer
        composer.around = lambda: AROUND
        names = [f"E{number}" for number in range(4)]
        await asyncio.gather(
            *(edit(composer, add_endpoint(Endpoint(name, f"/v2/{name}"))) for name in names)
        )
        draft = await composer.draft()
        assert {each.name for each in draft.composition.endpoints} == set(names)
        seen = seen_of(endpoint_named(draft.composition, "E0"))
        results = await asyncio.gather(
            *(
                edit(composer, change_endpoint("E0", seen, lambda e, to=to: replace(e, path=to)))  # type: ignore[misc]
                for to in ("/v2/a", "/v2/b")
            ),
            return_exceptions=True,
        )
        refused = [type(result) for result in results if isinstance(result, BaseException)]
        assert refused == [DraftOutdated]


async def test_what_could_not_be_read_again_is_not_kept(config: Config, database: Dsns) -> None:
    async with open_services(config, database.app) as services:
        composer: Composer = services.composing.composer
        with pytest.raises(InvalidInput, match="no composition"):
            await edit(composer, add_endpoint(Endpoint("x" * 65, "/v2/x")))
        assert (await composer.draft()).composition == Composition()


async def test_what_is_refused_is_not_kept(config: Config, database: Dsns) -> None:
    async with open_services(config, database.app) as services:
        composer: Composer = services.composing.composer
        composer.around = lambda: AROUND
        change = add_endpoint(Endpoint("Out", "/v1/logout_user"))
        (fault,) = await edit(composer, change, refuse=lambda fault: fault.at == "path")
        assert "the product itself answers" in fault.says
        assert (await composer.draft()).composition == Composition()
        assert await edit(composer, change) == []
