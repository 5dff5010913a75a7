"""The fair queue: as rules, driven at random; and at work, with tasks that wait and go away."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import pytest
from gatelog.accounts.rules.turns import IN_A_ROW, FairQueue, Lane
from gatelog.accounts.service.turns import LINES, Turns
from gatelog.errors import HashingFull
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

OF_A_LINE, IN_ALL = 3, 7
KEYS = [b"a", b"b", b"c", b"d", b"e"]


class FairQueueModel(RuleBasedStateMachine):
    """Against plain lists of who waits, and how often others were served before them."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[int] = FairQueue(of_a_line=OF_A_LINE, in_all=IN_ALL)
        self.lanes: dict[int, Lane] = {}
        self.lines: dict[Lane, deque[int]] = {}
        self.passed: Counter[tuple[Lane, Lane]] = Counter()  # turns of one while another waited
        self.known_in_a_row = 0
        self.next = 0

    def waiting(self, *, known: bool) -> list[deque[int]]:
        return [line for lane, line in self.lines.items() if lane.known == known and line]

    @rule(key=st.sampled_from(KEYS), known=st.booleans())
    def offer(self, key: bytes, known: bool) -> None:
        lane, item = Lane(key, known), self.next
        self.next += 1
        lines = self.waiting(known=known)
        full = sum(map(len, lines)) >= IN_ALL
        own = self.lines.setdefault(lane, deque())
        longest = max(map(len, lines), default=0)
        room, displaced = self.queue.offer(item, lane)
        assert room == (len(own) < OF_A_LINE and (not full or (not own and longest > 1)))
        assert (displaced is not None) == (room and full)
        if displaced is not None:
            loser = self.lines[self.lanes[displaced]]
            assert len(loser) == longest
            assert loser.pop() == displaced
        if room:
            if not own:
                for other in self.lines:
                    self.passed[lane, other] = 0
            own.append(item)
            self.lanes[item] = lane

    @rule(strangers=st.booleans())
    def take(self, strangers: bool) -> None:
        item = self.queue.take(strangers=strangers)
        if item is None:
            assert not self.waiting(known=True)
            assert not strangers or not self.waiting(known=False)
            return
        assert strangers or self.lanes[item].known
        lane, before = self.lanes[item], self.known_in_a_row
        assert self.lines[lane].popleft() == item  # in the order of their coming
        self.known_in_a_row = self.known_in_a_row + 1 if lane.known else 0
        if strangers and self.waiting(known=False) and lane.known:
            assert before < IN_A_ROW
        if not lane.known and self.waiting(known=True):
            assert before >= IN_A_ROW
        for other, line in self.lines.items():
            if line and other != lane and other.known == lane.known:
                self.passed[other, lane] += 1
                assert self.passed[other, lane] <= 1  # nobody twice while another waits
        for other in self.lines:
            self.passed[lane, other] = 0

    @precondition(lambda self: self.lanes)
    @rule(data=st.data())
    def withdraw(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(sorted(self.lanes)))
        lane = self.lanes[item]
        self.queue.withdraw(item, lane)
        if item in self.lines[lane]:
            self.lines[lane].remove(item)

    @invariant()
    def counts(self) -> None:
        for known in (True, False):
            waiting = sum(map(len, self.waiting(known=known)))
            assert self.queue.waiting(known=known) == waiting <= IN_ALL


FairQueueModel.TestCase.settings = settings(max_examples=60, stateful_step_count=40)
TestFairQueue = FairQueueModel.TestCase


def test_a_line_must_hold_somebody() -> None:
    with pytest.raises(ValueError, match="at least one"):
        FairQueue[int](of_a_line=0, in_all=1)
    with pytest.raises(ValueError, match="no more than"):
        FairQueue[int](of_a_line=2, in_all=1)


# --- at work


FLOOD, OTHER, OWN = Lane(b"flood"), Lane(b"other"), Lane(b"own", known=True)


class Crowd:
    """Who wants a turn, and in which order they got one."""

    def __init__(self, turns: Turns) -> None:
        self.turns = turns
        self.served: list[str] = []
        self.tasks: list[asyncio.Task[None]] = []

    async def come(self, name: str, lane: Lane) -> asyncio.Task[None]:
        """One more, who has asked for a turn when this returns."""

        async def work() -> None:
            async with self.turns.turn(lane):
                self.served.append(name)

        task = asyncio.create_task(work())
        self.tasks.append(task)
        await asyncio.sleep(0)
        return task


@pytest.fixture
async def crowd() -> AsyncIterator[Crowd]:
    crowd = Crowd(Turns(1, 4 * LINES))
    yield crowd
    await asyncio.gather(*crowd.tasks, return_exceptions=True)


async def test_a_flood_delays_its_own_line(crowd: Crowd) -> None:
    async with AsyncExitStack() as busy:
        await busy.enter_async_context(crowd.turns.turn(FLOOD))
        await busy.enter_async_context(crowd.turns.turn(OWN))  # no more for known devices
        for n in range(4):
            await crowd.come(f"flood {n}", FLOOD)
        refused = await crowd.come("flood 4", FLOOD)
        with pytest.raises(HashingFull):
            await refused
        await crowd.come("other", OTHER)
        await crowd.come("own", OWN)
    await asyncio.gather(*crowd.tasks, return_exceptions=True)
    assert crowd.served == ["own", "flood 0", "other", "flood 1", "flood 2", "flood 3"]


async def test_a_known_device_does_not_wait_for_strangers(crowd: Crowd) -> None:
    async with crowd.turns.turn(FLOOD):
        await crowd.come("flood", FLOOD)
        await asyncio.wait_for(await crowd.come("own", OWN), 5)
        assert crowd.served == ["own"]


async def test_a_newcomer_displaces_the_last_of_the_longest_line(crowd: Crowd) -> None:
    async with crowd.turns.turn(FLOOD):
        for line in range(LINES):
            for n in range(4):
                await crowd.come(f"{line}.{n}", Lane(b"flood %d" % line))
        assert crowd.turns.waiting(known=False) == 4 * LINES
        await crowd.come("other", OTHER)
        with pytest.raises(HashingFull):
            await crowd.tasks[3]  # the last one of the first line
    await asyncio.gather(*crowd.tasks, return_exceptions=True)
    assert "other" in crowd.served[: LINES + 1]
    assert "0.3" not in crowd.served


async def test_who_goes_away_leaves_the_place_to_others(crowd: Crowd) -> None:
    async with crowd.turns.turn(FLOOD):
        for n in range(20):
            (await crowd.come(f"gone {n}", FLOOD)).cancel()
            await asyncio.sleep(0)
        await crowd.come("other", OTHER)
    await asyncio.gather(*crowd.tasks, return_exceptions=True)
    assert crowd.served == ["other"]


async def test_a_turn_that_comes_as_its_owner_goes_is_not_lost(crowd: Crowd) -> None:
    async with crowd.turns.turn(FLOOD):
        going = await crowd.come("going", FLOOD)
    going.cancel()  # the turn has come, and the task has not run since
    await asyncio.gather(going, return_exceptions=True)
    await asyncio.wait_for(await crowd.come("other", OTHER), 5)
    assert crowd.served == ["other"]
