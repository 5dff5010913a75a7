"""The checker: what it lets pass and what it finds."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tests.faults.history import Check, End, History, Incident, Login, Record, Scope

LOGIN = Login("s", "u", 10, 20)


def end(
    began: int,
    answered: int,
    status: int | None = 200,
    *,
    session: str = "s",
    scope: Scope = "one",
    user: str = "u",
    started: str | None = None,
) -> End:
    return End(session, user, scope, "w", began, answered, status, started)


def check(began: int, answered: int, status: int | None) -> Check:
    return Check("s", "w", began, answered, status)


def found(*records: Record) -> list[str]:
    return [violation.rule for violation in History([LOGIN, *records]).violations()]


@pytest.mark.parametrize(
    "records",
    [
        [check(21, 25, 200)],
        [end(30, 40), check(39, 60, 200)],  # began before the answer
        [end(30, 40), check(41, 42, 401)],
        [end(30, 40), check(25, 31, 401)],  # ended after the request
        [check(15, 18, 401)],  # before the login was answered
        [end(30, 40, 503), check(41, 42, 200), check(43, 44, 401), check(45, 46, 200)],
        [end(30, 40, None), check(41, 42, 200)],
        [end(30, 40, 401, scope="all"), check(41, 42, 200)],  # it was refused
        [end(30, 40, 404), check(41, 42, 200)],
        [end(30, 40, scope="others"), check(41, 42, 200)],  # the session itself is spared
        [end(30, 40, scope="all", user="v"), check(41, 42, 200)],
        [end(15, 40, session="t", scope="all"), check(41, 42, 200)],  # at the time of the login
        [end(5, 9, None, session="t", scope="all"), check(41, 42, 401)],  # it may come late
        [end(5, 9, 503, session="t", scope="others"), check(41, 42, 401)],
        [end(30, 40, 404), check(41, 42, 401)],  # it was sent twice
        [check(30, 31, 503), check(30, 31, None)],
        # a change of the password started it, and ended others
        [end(10, 20, session="t", scope="all", started="s"), check(21, 25, 200)],
    ],
)
def test_what_is_allowed(records: list[Record]) -> None:
    assert found(*records) == []


@pytest.mark.parametrize(
    "records",
    [
        [end(30, 40), check(41, 42, 200)],
        [end(30, 40), end(30, 90), check(41, 42, 200)],  # the first answer counts
        [end(30, 40, session="t", scope="all"), check(41, 42, 200)],
        [end(30, 40, session="t", scope="others"), check(41, 42, 200)],
        [end(30, 40, session="t", scope="all", started="x"), check(41, 42, 200)],
        [end(30, 40, 503), end(50, 60), check(61, 62, 200)],
    ],
)
def test_a_session_that_outlives_its_end_is_found(records: list[Record]) -> None:
    assert found(*records) == ["accepted after its end"]


@pytest.mark.parametrize(
    "records",
    [
        [check(21, 25, 401)],
        [end(30, 40), check(25, 29, 401)],
        [end(30, 40, 401, scope="all"), check(41, 42, 401)],  # nothing has ended it
        [end(30, 40, scope="others"), check(41, 42, 401)],
        [end(5, 9, session="t", scope="all"), check(41, 42, 401)],  # before the login
        [end(10, 20, session="t", scope="all", started="s"), check(41, 42, 401)],  # it began so
    ],
)
def test_a_refusal_of_an_active_session_is_found(records: list[Record]) -> None:
    assert found(*records) == ["refused while active"]


def test_an_end_of_many_spares_tokens_unless_it_says_that_it_does_not() -> None:
    token = Login("s", "u", 10, 20, token=True)
    spares, ends = end(30, 40, session="t", scope="all"), end(30, 40, session="t", scope="all")
    ends = msgspec.structs.replace(ends, tokens=True)

    def found_of_it(*records: Record) -> list[str]:
        return [violation.rule for violation in History([token, *records]).violations()]

    assert found_of_it(spares, check(41, 42, 200)) == []
    assert found_of_it(spares, check(41, 42, 401)) == ["refused while active"]
    assert found_of_it(ends, check(41, 42, 200)) == ["accepted after its end"]
    assert found_of_it(ends, check(41, 42, 401)) == []
    assert found_of_it(end(30, 40), check(41, 42, 200)) == ["accepted after its end"]
    seen = History([token, check(21, 22, 200), end(30, 40), ends, check(41, 42, 401)])
    assert seen.tokens_ended() == {"one": 1, "all": 1}
    assert History([token, check(21, 22, 200), spares]).tokens_ended() == {"one": 0, "all": 0}


@pytest.mark.parametrize("record", [check(21, 25, 500), check(21, 25, 403), end(21, 25, 500)])
def test_an_answer_that_means_nothing_is_found(record: Record) -> None:
    assert found(record) == ["an answer that means nothing"]


def test_what_happened_meanwhile_is_counted() -> None:
    away = [Incident("away", 20), Incident("back", 30), Incident("away", 40), Incident("back", 50)]
    checks = [check(19, 25, 200), check(21, 29, 503), check(31, 39, 200), check(41, 49, 200)]
    history = History([*away, *checks, check(42, 43, None), end(60, 70), end(80, 90, 503)])

    assert history.checks_between("away", "back") == 2
    assert history.joined_while_ending([59, 65, 71, 85]) == 1


def test_a_history_can_be_written_and_read(tmp_path: Path) -> None:
    history = History([LOGIN, end(30, 40, None), check(41, 42, 200), Incident("stop", 43)])
    history.write(tmp_path / "history.jsonl")

    assert History.read(tmp_path / "history.jsonl") == history
    assert history.counts() == {"check 200": 1, "end None": 1, "incident": 1, "login": 1}


S = 1_000_000_000
IDLE = Login("s", "u", 10, 20, 5.0)


def found_of_idle(*records: Record) -> list[str]:
    return [violation.rule for violation in History([IDLE, *records]).violations()]


def at(second: float, status: int) -> Check:
    return check(int(second * S), int(second * S) + 1, status)


def test_what_is_allowed_of_sessions_that_may_idle() -> None:
    assert found_of_idle(at(4, 200), at(8, 200), at(24, 401), at(25, 401)) == []
    assert found_of_idle(at(4, 200), at(6, 401)) == [], "use may not have been recorded"
    assert found_of_idle(at(14, 200)) == [], "use before may have been recorded late"
    late = end(int(6 * S), int(7 * S), None)
    assert found_of_idle(late, at(8, 401), at(8.5, 200)) == [], "an end is under way"
    assert History([IDLE, at(4, 200), at(8, 200), at(24, 401)]).lingered() == 1
    assert History([IDLE, at(4, 200), at(8, 200), at(24, 401)]).idled() == 1


def test_what_is_found_of_sessions_that_may_idle() -> None:
    assert found_of_idle(at(4.9, 401)) == ["refused while active"]
    assert found_of_idle(at(4, 200), at(19.2, 200)) == ["accepted after it idled too long"]
    assert found_of_idle(at(8, 401), at(9, 200)) == ["revived"]
