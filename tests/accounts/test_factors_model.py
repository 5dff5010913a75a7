"""All orders of the steps of a login with factors, against an obvious model, on a real database.

People type passwords, codes and recovery codes, right and wrong, of their own and of others, late
and twice; they answer challenges that are open, used, over, displaced or somebody else's; factors
come and go in between. The model keeps plain sets. A session may exist only where it says so.
"""

from __future__ import annotations

import asyncio
from base64 import b32decode
from collections import Counter
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from datetime import datetime, timedelta
from random import Random
from typing import Any, TypeVar
from uuid import UUID, uuid4

import msgspec
import pytest
from gatelog.accounts.rules.challenges import LIFETIME_S, MOST_OF_A_USER, MOST_WRONG
from gatelog.accounts.rules.totp import code_of, step_at
from gatelog.accounts.service.accounts import Accounts
from gatelog.accounts.service.acting import Acting
from gatelog.accounts.service.factors import Enrolled
from gatelog.accounts.service.grants import Grant
from gatelog.accounts.service.second_steps import FactorAnswer
from gatelog.clock import put_ahead, utc_now
from gatelog.config import Config
from gatelog.errors import FactorRequired, GatelogError
from gatelog.hosting.services import open_services
from gatelog.log.store.rebuild import check
from gatelog.sessions.rules.record import Session, packed
from gatelog.sessions.rules.tokens import token_digest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tests.conftest import Dsns
from tests.passkeys import SoftKey
from tests.serving import NEW_PASSWORD, PASSWORD

ResultT = TypeVar("ResultT")
ORIGIN = "https://gate.example"
OFFSETS = (-2, -1, 0, 0, 1, 2)
# What a step takes is drawn here, and not by Hypothesis: how much there is to draw from depends on
# random ids, which are others when a run is repeated.
DICE = st.integers(0, 2**32 - 1).map(Random)


class Seed:
    """An enrolled seed, and the last step that it was used for."""

    def __init__(self, factor_id: UUID, seed: bytes, step: int) -> None:
        self.factor_id, self.seed, self.step = factor_id, seed, step


class Key:
    """An enrolled passkey, and the last counter that it was used with."""

    def __init__(self, factor_id: UUID, key: SoftKey) -> None:
        self.factor_id, self.key, self.counter = factor_id, key, 0


class Question:
    """A challenge: what a browser is asked with it, the seed that it offers."""

    def __init__(
        self,
        text: str,
        version: int,
        over_at: datetime,
        session: Session | None = None,
        *,
        seed: bytes = b"",
        public_key: Any = None,
    ) -> None:
        self.text, self.version, self.over_at = text, version, over_at
        self.session, self.seed, self.public_key = session, seed, public_key
        self.wrong = 0

    @property
    def order(self) -> tuple[datetime, bytes]:
        return self.over_at, token_digest(self.text)


class Somebody:
    """What the model knows of a user."""

    def __init__(self, login: str, user_id: UUID) -> None:
        self.login, self.user_id = login, user_id
        self.password = PASSWORD
        self.version = 1
        self.disabled = False
        self.seeds: list[Seed] = []
        self.keys: list[Key] = []
        self.codes: set[str] = set()
        self.sessions: dict[UUID, Session] = {}
        self.questions: list[Question] = []

    @property
    def factors(self) -> list[Seed | Key]:
        return [*self.seeds, *self.keys]

    @property
    def means(self) -> tuple[str, ...]:
        """What may be shown after the password."""
        found = (("totp", self.seeds), ("passkey", self.keys), ("recovery_code", self.codes))
        return tuple(name for name, have in found if have)

    def ask(self, question: Question) -> None:
        newest = sorted(self.questions, key=lambda q: q.order)[-(MOST_OF_A_USER - 1) :]
        self.questions = [*newest, question]

    def end_sessions(self, keep: UUID | None = None) -> None:
        self.sessions = {k: s for k, s in self.sessions.items() if k == keep}


class Logins(RuleBasedStateMachine):
    """Takes every step in the service and in the model."""

    def __init__(
        self,
        runner: asyncio.Runner,
        accounts: Accounts,
        acting: Acting,
        reached: Counter[str],
    ) -> None:
        super().__init__()
        self.runner, self.accounts = runner, accounts
        self.reached = reached  # how many sessions there were by each way
        self.ahead_s = 0
        put_ahead(0)
        self.began = utc_now()
        acting.now = self.now
        self.people = []
        for _ in range(2):
            login = f"user-{uuid4().hex}"
            user_id = self.run(accounts.logins.add_user(login, PASSWORD))
            self.people.append(Somebody(login, user_id))
        self.texts: list[str] = []  # all challenges that there ever were
        self.spent: list[str] = []  # recovery codes that are none any more
        self.keys = [SoftKey(ORIGIN) for _ in range(3)]  # in some pockets
        self.open: list[Question] = []  # what was asked of nobody by name
        self.answered: set[str] = set()
        self.begin(self.people[0])

    def begin(self, who: Somebody) -> None:
        """One of them has a seed and a passkey from the start: what follows is about these."""
        logins, factors = self.accounts.logins, self.accounts.factors
        self.granted(who, self.run(logins.log_in(who.login, who.password)))
        (session,) = who.sessions.values()
        offer = self.run(factors.offer_seed(session))
        seed, step = b32decode(offer.secret), step_at(self.now()) - 1
        code = code_of(seed, step)
        added = self.run(factors.enrol_seed(session, offer.challenge, code, name="phone"))
        who.seeds.append(Seed(added.factor_id, seed, step))
        *codes, used = added.recovery_codes
        who.codes, self.spent = set(codes), [used]
        with pytest.raises(FactorRequired) as asked:
            self.run(logins.log_in(who.login, who.password))
        answer = FactorAnswer(recovery_code=used)
        grant = self.run(self.accounts.second_steps.log_in(asked.value.challenge, answer))
        self.granted(who, grant)
        session = who.sessions[grant.session.session_id]
        made = self.run(factors.offer_passkey(session))
        passkey = self.keys[0].create(made.public_key)
        added = self.run(factors.enrol_passkey(session, made.challenge, passkey, name="key"))
        who.keys.append(Key(added.factor_id, self.keys[0]))
        who.version = 3

    def run(self, work: Coroutine[Any, Any, ResultT]) -> ResultT:
        return self.runner.run(work)

    def now(self) -> datetime:
        return self.began + timedelta(seconds=self.ahead_s)

    def late(self) -> datetime:
        """When what is asked now is over."""
        return self.now() + timedelta(seconds=LIFETIME_S)

    def tried(self, work: Coroutine[Any, Any, ResultT]) -> ResultT | str:
        """What comes of it, or the code of the error."""
        try:
            return self.run(work)
        except FactorRequired:
            raise
        except GatelogError as error:
            return error.code

    def granted(self, who: Somebody, grant: Grant) -> None:
        session = Session(packed(grant.session))
        assert session.subject_id == who.user_id
        who.sessions[session.session_id] = session

    def a_question(self, dice: Random) -> str:
        """Any challenge, of whomever, open or not; or none at all."""
        return str(dice.choice([*self.texts[-3:], "x", "A" * 43]))

    def waiting(self) -> list[Question]:
        """What is asked of whoever has shown a password, and waits."""
        asked = [q for who in self.people for q in who.questions if q.session is None]
        return [question for question in asked if self.find(question.text)]

    def find(self, text: str) -> tuple[Somebody, Question] | None:
        """Whose it is that still waits, if it does."""
        for who in self.people:
            for question in who.questions:
                waits = question.over_at > self.now() and question.version == who.version
                if question.text == text and waits:
                    return who, question
        return None

    def step_of(self, dice: Random) -> tuple[bytes, int]:
        """Any seed, of whomever, enrolled or only offered; and a step near now."""
        seeds = [seed.seed for who in self.people for seed in who.seeds]
        seeds += [q.seed for who in self.people for q in who.questions if q.seed]
        seed = dice.choice(seeds) if seeds else b"s" * 20
        return seed, step_at(self.now()) + dice.choice(OFFSETS)

    # --- the steps

    @rule(which=st.integers(0, 1), right=st.sampled_from([True, True, True, False]))
    def type_password(self, which: int, right: bool) -> None:
        who = self.people[which]
        password = who.password if right else "not the right phrase"
        try:
            found = self.tried(self.accounts.logins.log_in(who.login, password))
        except FactorRequired as required:
            assert right
            assert not who.disabled
            assert who.factors
            assert required.means == who.means
            asked = Question(
                required.challenge, who.version, self.late(), public_key=required.passkey
            )
            who.ask(asked)
            self.texts.append(required.challenge)
            return
        if isinstance(found, str):
            assert found == "invalid_credentials"
            assert not right or who.disabled
            return
        assert right
        assert not who.disabled
        assert not who.factors
        self.granted(who, found)

    @precondition(lambda self: self.texts)
    @rule(dice=DICE, by_code=st.booleans(), own=st.booleans(), next_step=st.booleans())
    def answer(self, dice: Random, by_code: bool, own: bool, next_step: bool) -> None:
        waiting = self.waiting() if own else []
        text = dice.choice(waiting).text if waiting else self.a_question(dice)
        asked = self.find(text)
        if asked is not None and asked[1].session is not None:
            asked = None  # it is for who enrols, and no way in
        seed, step = self.step_of(dice)
        if own and asked is not None and asked[0].seeds:
            mine = dice.choice(asked[0].seeds)
            seed = mine.seed
            if next_step:
                step = max(mine.step + 1, step_at(self.now()))
        known = [code for who in self.people for code in sorted(who.codes)[:3]]
        code = dice.choice([*known, *self.spent[-5:], "abcdef-" * 4])
        self.show(text, asked, seed=seed, step=step, code=code, by_code=by_code)

    def show(
        self,
        text: str,
        asked: tuple[Somebody, Question] | None,
        *,
        seed: bytes = b"s" * 20,
        step: int = 0,
        code: str = "",
        by_code: bool,
    ) -> None:
        """A code of this seed, or a recovery code, for this challenge."""
        given = (
            FactorAnswer(code=code_of(seed, step)) if by_code else FactorAnswer(recovery_code=code)
        )
        found = self.tried(self.accounts.second_steps.log_in(text, given))
        if asked is None:
            assert found == "challenge_over"
            return
        who, question = asked
        fitting = [each for each in who.seeds if each.seed == seed]
        near = abs(step - step_at(self.now())) <= 1
        right = bool(fitting) and near and step > fitting[0].step if by_code else code in who.codes
        if not right or who.disabled:
            assert found == "wrong_factor"
            question.wrong += 1
            if question.wrong == MOST_WRONG:
                who.questions.remove(question)
            return
        assert isinstance(found, Grant)
        assert found.session.amr == (("pwd", "otp", "mfa") if by_code else ("pwd", "mfa"))
        self.reached["totp" if by_code else "recovery_code"] += 1
        who.questions.remove(question)
        if by_code:
            fitting[0].step = step
        else:
            who.codes.remove(code)
            self.spent.append(code)
        self.granted(who, found)

    @rule(which=st.integers(0, 1), means=st.sampled_from(["totp", "recovery_code", "passkey"]))
    def log_in(self, which: int, means: str) -> None:
        """Both steps, one after the other, as people do it nearly always."""
        who = self.people[which]
        if who.disabled or means not in who.means:
            return
        self.type_password(which, right=True)
        question = who.questions[-1]
        asked = (who, question)
        if means == "passkey":
            self.show_passkey(question.text, question, who.keys[0].key, copy=False)
        elif means == "totp":
            step = max(who.seeds[0].step + 1, step_at(self.now()))
            self.show(question.text, asked, seed=who.seeds[0].seed, step=step, by_code=True)
        else:
            self.show(question.text, asked, code=min(who.codes), by_code=False)

    @rule(minutes=st.sampled_from([1, 2, 5]))
    def wait(self, minutes: int) -> None:
        self.ahead_s += 60 * minutes
        put_ahead(self.ahead_s)

    def may_change(self, who: Somebody, session: Session) -> bool:
        """Whether factors may be changed in it: by who has any, in one that began with one."""
        return not who.factors or "mfa" in session.amr

    def a_session(self, dice: Random) -> tuple[Somebody, Session] | None:
        found = [(who, session) for who in self.people for session in who.sessions.values()]
        return dice.choice(found) if found else None

    @rule(dice=DICE)
    def ask_for_seed(self, dice: Random) -> None:
        found = self.a_session(dice)
        if found is None:
            return
        who, session = found
        offer = self.tried(self.accounts.factors.offer_seed(session))
        if not self.may_change(who, session):
            assert offer == "factor_login_required"
            return
        assert not isinstance(offer, str), offer
        seed = b32decode(offer.secret)
        who.ask(Question(offer.challenge, who.version, self.late(), session, seed=seed))
        self.texts.append(offer.challenge)

    @precondition(lambda self: self.texts)
    @rule(dice=DICE, end_others=st.booleans())
    def confirm_seed(self, dice: Random, end_others: bool) -> None:
        text = self.a_question(dice)
        asked = self.find(text)
        found = self.a_session(dice)
        if asked is not None and asked[1].session is not None and dice.random() < 0.5:
            found = asked[0], asked[1].session
        if found is None:
            return
        who, session = found
        seed, step = self.step_of(dice)
        if asked is not None and asked[1].seed and dice.random() < 0.5:
            seed = asked[1].seed
        added = self.tried(
            self.accounts.factors.enrol_seed(
                session, text, code_of(seed, step), name="phone", end_others=end_others
            )
        )
        if asked is None or asked[1].session != session or not asked[1].seed:
            assert added == "challenge_over"
            return
        _, question = asked
        if seed != question.seed or abs(step - step_at(self.now())) > 1:
            assert added == "wrong_code"
            question.wrong += 1
            if question.wrong == MOST_WRONG:
                who.questions.remove(question)
            return
        if session.session_id not in who.sessions:
            assert added == "not_authenticated"
            return
        assert self.may_change(who, session)  # or the challenge would be void
        assert not isinstance(added, str), added
        self.enrolled(who, question, added, session, end_others)
        who.seeds.append(Seed(added.factor_id, seed, step))

    def enrolled(
        self, who: Somebody, question: Question, added: Enrolled, session: Session, end_others: bool
    ) -> None:
        who.questions.remove(question)
        assert len(added.recovery_codes) == (0 if who.factors else 10)
        if not who.factors:
            who.codes = set(added.recovery_codes)
        who.version += 1
        if end_others:
            who.end_sessions(keep=session.session_id)

    # --- passkeys

    @rule(dice=DICE)
    def ask_for_passkey(self, dice: Random) -> None:
        found = self.a_session(dice)
        if found is None:
            return
        who, session = found
        offer = self.tried(self.accounts.factors.offer_passkey(session))
        if not self.may_change(who, session):
            assert offer == "factor_login_required"
            return
        assert not isinstance(offer, str), offer
        who.ask(
            Question(
                offer.challenge, who.version, self.late(), session, public_key=offer.public_key
            )
        )
        self.texts.append(offer.challenge)

    @precondition(lambda self: self.texts)
    @rule(dice=DICE, which=st.integers(0, 2), end_others=st.booleans())
    def confirm_passkey(self, dice: Random, which: int, end_others: bool) -> None:
        key = self.keys[which]
        known = {k.key.id for who in self.people for k in who.keys}
        offers = [
            (who, q, q.session)
            for who in self.people
            for q in who.questions
            if q.public_key and q.session
        ]
        if not offers:
            return
        who, question, asker = dice.choice(offers)
        found = self.a_session(dice) if dice.random() < 0.5 else (who, asker)
        if found is None:
            return
        session = found[1]
        text = self.a_question(dice) if dice.random() < 0.5 else question.text
        if key.id in known:
            key = SoftKey(ORIGIN)  # an authenticator makes no second one for the same user
        made = key.create(question.public_key)
        added = self.tried(
            self.accounts.factors.enrol_passkey(
                session, text, made, name="key", end_others=end_others
            )
        )
        asked = self.find(text)
        if asked is None or asked[1].session != session or asked[1].seed:
            assert added == "challenge_over"
            return
        if text != question.text:
            assert added == "wrong_code"
            asked[1].wrong += 1
            if asked[1].wrong == MOST_WRONG:
                asked[0].questions.remove(asked[1])
            return
        if session.session_id not in who.sessions:
            assert added == "not_authenticated"
            return
        assert not isinstance(added, str), added
        self.enrolled(who, question, added, session, end_others)
        self.keys[which] = key
        who.keys.append(Key(added.factor_id, key))

    def a_key(self, dice: Random) -> SoftKey:
        enrolled = [k.key for who in self.people for k in who.keys]
        return dice.choice([*enrolled, *self.keys])

    def holder(self, key: SoftKey) -> tuple[Somebody, Key] | None:
        for who in self.people:
            for known in who.keys:
                if known.key is key:
                    return who, known
        return None

    @precondition(lambda self: self.texts)
    @rule(dice=DICE, copy=st.sampled_from([False, False, True]))
    def answer_by_passkey(self, dice: Random, copy: bool) -> None:
        """After the password: with any key, for any challenge that asked for one."""
        asked_for_keys = [question for question in self.waiting() if question.public_key]
        if not asked_for_keys:
            return
        question = dice.choice(asked_for_keys)
        text = self.a_question(dice) if dice.random() < 0.5 else question.text
        self.show_passkey(text, question, self.a_key(dice), copy=copy)

    def show_passkey(self, text: str, question: Question, key: SoftKey, *, copy: bool) -> None:
        """What this key says to the question, for this challenge."""
        counter = key.counter if copy else None
        answer = FactorAnswer(passkey=key.get(question.public_key, counter))
        used = key.counter
        found = self.tried(self.accounts.second_steps.log_in(text, answer))
        asked = self.find(text)
        if asked is None or asked[1].session is not None:
            assert found == "challenge_over"
            return
        held = self.holder(key)
        right = (
            text == question.text
            and held is not None
            and held[0] is asked[0]
            and (used > held[1].counter or used == 0 == held[1].counter)
        )
        if not right or asked[0].disabled:
            assert found == "wrong_factor"
            asked[1].wrong += 1
            if asked[1].wrong == MOST_WRONG:
                asked[0].questions.remove(asked[1])
            return
        assert isinstance(found, Grant)
        assert found.session.amr == ("pwd", "hwk", "user", "mfa")
        self.reached["passkey"] += 1
        assert held is not None
        held[1].counter = used
        asked[0].questions.remove(asked[1])
        self.granted(asked[0], found)

    @rule(dice=DICE, fresh=st.booleans(), copy=st.sampled_from([False, False, True]))
    def passkey_alone(self, dice: Random, fresh: bool, copy: bool) -> None:
        """In the place of the password: with any key, for what is asked now or was before."""
        if fresh or not self.open:
            asked = self.run(self.accounts.second_steps.ask_for_passkey())
            self.open.append(
                Question(asked.challenge, 0, asked.expires_at, public_key=asked.public_key)
            )
        question = self.open[-1] if fresh else dice.choice(self.open[-5:])
        key = self.a_key(dice)
        counter = key.counter if copy else None
        passkey = key.get(question.public_key, counter)
        used = key.counter
        signed = question
        if dice.randrange(5) == 0:
            question = dice.choice(self.open[-5:])
        found = self.tried(self.accounts.second_steps.log_in_by_passkey(question.text, passkey))
        held = self.holder(key)
        if question.over_at <= self.now():
            assert found == "challenge_over"
            return
        if held is None or question is not signed or held[0].disabled:
            assert found == "wrong_factor"
            return
        if question.text in self.answered:
            assert found == "challenge_over"
            return
        if not (used > held[1].counter or used == 0 == held[1].counter):
            assert found == "wrong_factor"
            return
        assert isinstance(found, Grant)
        assert found.session.amr == ("hwk", "user", "mfa")
        self.reached["passkey_alone"] += 1
        held[1].counter = used
        self.answered.add(question.text)
        self.granted(held[0], found)

    @rule(dice=DICE, end_others=st.booleans())
    def remove_factor(self, dice: Random, end_others: bool) -> None:
        found = self.a_session(dice)
        factors = [factor for who in self.people for factor in who.factors]
        if found is None or not factors:
            return
        who, session = found
        factor = dice.choice(factors)
        gone = self.tried(
            self.accounts.factors.remove(session, factor.factor_id, end_others=end_others)
        )
        if factor not in who.factors:
            assert gone == "not_found"
            return
        if not self.may_change(who, session):
            assert gone == "factor_login_required"
            return
        if isinstance(factor, Seed):
            who.seeds.remove(factor)
        else:
            who.keys.remove(factor)
        who.version += 1
        if not who.factors:
            self.spent += sorted(who.codes)
            who.codes = set()
        if end_others:
            who.end_sessions(keep=session.session_id)

    @rule(dice=DICE)
    def make_codes(self, dice: Random) -> None:
        found = self.a_session(dice)
        if found is None:
            return
        who, session = found
        made = self.tried(self.accounts.factors.make_codes(session))
        if not self.may_change(who, session):
            assert made == "factor_login_required"
            return
        if not who.factors:
            assert made == "conflict"
            return
        self.spent += sorted(who.codes)
        who.codes = set(made[0])

    @rule(dice=DICE, right=st.sampled_from([True, True, False]))
    def change_password(self, dice: Random, right: bool) -> None:
        found = self.a_session(dice)
        if found is None:
            return
        who, session = found
        new = NEW_PASSWORD if who.password == PASSWORD else PASSWORD
        current = who.password if right else "not the right phrase"
        changed = self.tried(self.accounts.logins.change_password(session, current, new))
        if not right:
            assert changed == "invalid_credentials"
            return
        assert isinstance(changed, Grant)
        assert ("mfa" in changed.session.amr) == ("mfa" in session.amr)
        who.password = new
        who.version += 1
        who.end_sessions()
        self.granted(who, changed)

    @rule(which=st.integers(0, 1), disable=st.booleans())
    def disable_or_enable(self, which: int, disable: bool) -> None:
        who = self.people[which]
        users = self.accounts.users
        self.run(users.disable(who.user_id) if disable else users.enable(who.user_id))
        if disable and not who.disabled:
            who.end_sessions()
        who.disabled = disable

    @rule(which=st.integers(0, 1))
    def reset(self, which: int) -> None:
        who = self.people[which]
        self.run(self.accounts.factors.reset(who.user_id))
        if who.factors:
            who.version += len(who.factors)
            self.spent += sorted(who.codes)
            who.seeds, who.keys, who.codes = [], [], set()
            who.end_sessions()

    def teardown(self) -> None:
        """In the end, whoever has a factor still gets in by it."""
        for which in range(len(self.people)):
            for means in ("totp", "recovery_code", "passkey"):
                self.log_in(which, means)
        self.there_is_no_other_session()

    # --- what must hold after each

    @invariant()
    def there_is_no_other_session(self) -> None:
        for who in self.people:
            listed = self.run(self.accounts.sessions.list_sessions(who.user_id))
            assert {session.session_id for session in listed} == set(who.sessions)

    @invariant()
    def no_other_factor(self) -> None:
        for who in self.people:
            described, codes = self.run(self.accounts.factors.described(who.user_id))
            assert {each.factor_id for each in described} == {f.factor_id for f in who.factors}
            assert codes == len(who.codes)


@pytest.mark.timeout(600)
def test_no_order_of_steps_gives_a_session_that_it_should_not(
    config: Config, database: Dsns
) -> None:
    config = msgspec.structs.replace(config, max_sessions_per_user=1000, public_url=ORIGIN)
    reached = Counter[str]()
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        services = runner.run(stack.enter_async_context(open_services(config, database.app)))
        accounts = services.accounts
        try:
            run_state_machine_as_test(
                lambda: Logins(runner, accounts, accounts.logins._acting, reached),  # type: ignore[arg-type]
                settings=settings(
                    max_examples=25,
                    stateful_step_count=40,
                    deadline=None,
                    suppress_health_check=[HealthCheck.too_slow],
                ),
            )
            report = runner.run(check(database.app))
            assert report.differences == []
            assert {"totp", "recovery_code", "passkey", "passkey_alone"} <= reached.keys()
        finally:
            put_ahead(0)
            runner.run(stack.aclose())
