"""Any composition: what is accepted can be built, exported, and applied again to the same; what is
refused is refused with reasons, and changes nothing that is live."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest
from aiohttp import web
from gatelog.composer.rules.checking import check
from gatelog.composer.rules.composition import Composition, decode, encode
from gatelog.composer.rules.files import read, write
from gatelog.composer.rules.paths import Table
from gatelog.composer.service.composer import Composer
from gatelog.composer.web.endpoints import Compiler, Served
from gatelog.composer.web.routing import Serving
from gatelog.config import Config
from gatelog.errors import NotBuildable, NothingToBuild
from gatelog.hosting.openapi import document
from gatelog.hosting.services import open_services
from gatelog.http.guard import Door, is_public
from hypothesis import given, settings
from openapi_spec_validator import validate

from tests.composer.compositions import AROUND, compositions, sound_compositions
from tests.conftest import Dsns

EXAMPLES = 20


async def built(composer: Composer, composition: Composition) -> int:
    """Make it the draft and build it; returns the build that is live then."""
    drafted = await composer.replace(composition)
    assert drafted.draft.composition == composition
    try:
        return (await composer.build(seen=drafted.draft.digest)).build
    except NothingToBuild:
        return drafted.draft.live


async def try_it(composer: Composer, composition: Composition) -> None:
    before = (await composer.draft()).live
    if faults := check(composition, AROUND):
        with pytest.raises(NotBuildable) as refused:
            await built(composer, composition)
        assert refused.value.faults == tuple(map(str, faults))
        assert (await composer.draft()).live == before
        return
    number = await built(composer, composition)
    exported = write(await composer.composition(number))
    assert read(exported) == composition
    assert (await composer.replace(read(exported))).position is None  # the same draft
    with pytest.raises(NothingToBuild):
        await composer.build()
    assert (await composer.compared(number, None)) == []


def test_what_is_accepted_can_be_built_exported_and_applied_again(
    config: Config, database: Dsns
) -> None:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        services = runner.run(stack.enter_async_context(open_services(config, database.app)))
        composer = services.composing.composer
        composer.around = lambda: AROUND

        @settings(max_examples=EXAMPLES)
        @given(sound_compositions() | compositions())
        def each(composition: Composition) -> None:
            runner.run(try_it(composer, composition))

        try:
            each()
        finally:
            runner.run(stack.aclose())


@given(sound_compositions() | compositions())
def test_what_is_accepted_can_be_served_and_described(composition: Composition) -> None:
    """Every endpoint is found by its path and method, behind the check that its access says."""
    if check(composition, AROUND):
        return
    compiler = Compiler(Door())
    served = compiler.compile(composition)
    assert [each.endpoint for each in served] == list(composition.endpoints)
    table: Table[Served] = Table()
    for each in served:
        table.add(each.endpoint.path, each.endpoint.method, each)
    for each in served:
        concrete = each.endpoint.path.replace("{", "x").replace("}", "x")
        found = table.find(concrete)
        assert found is not None and found.by_method[each.endpoint.method] is each
        assert is_public(each.handler) == (each.endpoint.access == "public")
    again = compiler.compile(decode(encode(composition)))
    assert all(a is b for a, b in zip(served, again, strict=True))  # nothing is made anew


@settings(max_examples=EXAMPLES)
@given(sound_compositions())
def test_what_is_accepted_makes_a_valid_document(composition: Composition) -> None:
    served = Compiler(Door()).compile(composition)
    told = document(web.Application(), Serving(1, composition, served))
    validate(told)
    places = {(each.endpoint.path, each.endpoint.method.lower()) for each in served}
    assert places == {(path, method) for path, item in told["paths"].items() for method in item}
