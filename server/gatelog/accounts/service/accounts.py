"""What users and operators do, by subject: passwords, sessions, and the administration of users."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from gatelog.accounts.service.acting import Acting, tell_nobody
from gatelog.accounts.service.asking import Asking
from gatelog.accounts.service.creating import Creating
from gatelog.accounts.service.devices import device_of
from gatelog.accounts.service.factors import UserFactors
from gatelog.accounts.service.failures import Failures
from gatelog.accounts.service.first_run import FirstRun
from gatelog.accounts.service.importing import Importing
from gatelog.accounts.service.logins import Logins
from gatelog.accounts.service.notices import Notices
from gatelog.accounts.service.passkeys import Passkeys
from gatelog.accounts.service.passwords import PasswordPool
from gatelog.accounts.service.recovery import Recovery
from gatelog.accounts.service.second_steps import SecondSteps
from gatelog.accounts.service.sessions import UserSessions
from gatelog.accounts.service.throttling import Throttle
from gatelog.accounts.service.tokens import Tokens
from gatelog.accounts.service.turns import Turns
from gatelog.accounts.service.users import Administration
from gatelog.accounts.store.factors import FactorStore
from gatelog.accounts.store.links import LinkStore
from gatelog.accounts.store.names import SessionNames
from gatelog.accounts.store.throttling import Throttled
from gatelog.accounts.store.users import Users
from gatelog.clock import utc_now
from gatelog.config import Config
from gatelog.log.store.appender import Appender
from gatelog.log.store.database import Database
from gatelog.log.store.reading import read_head
from gatelog.mail.service.mailer import Mailer
from gatelog.mail.store.outbox import OutboxStore
from gatelog.privacy.service.keyring import Keyring
from gatelog.privacy.service.personal import PersonalData
from gatelog.privacy.store.keys import KeyStore
from gatelog.sessions.service.barrier import Barrier
from gatelog.sessions.store.lookup import SessionList


class Accounts:
    """The use cases of users and their sessions, on what they share."""

    def __init__(
        self,
        config: Config,
        *,
        database: Database,
        appender: Appender,
        passwords: PasswordPool,
        barrier: Barrier,
        tell: Callable[[], None] = tell_nobody,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database
        self._personal = PersonalData(config, database, now)
        users, sessions = Users(database), SessionList(database)
        acting = Acting(database=database, appender=appender, barrier=barrier, tell=tell, now=now)
        self.throttle = Throttle(
            config, store=Throttled(database), personal=self._personal, acting=acting
        )
        self._links = LinkStore(database)
        self._notices = Notices(config, store=self._links, personal=self._personal, acting=acting)
        self._passwords = passwords
        self._turns = Turns(passwords.threads, config.hashing_queue)
        self._make_logins(config, users, sessions, acting)
        self.sessions = UserSessions(
            users=users,
            sessions=sessions,
            names=SessionNames(database),
            personal=self._personal,
            acting=acting,
        )
        self.tokens = Tokens(
            config, users=users, sessions=self.sessions, personal=self._personal, acting=acting
        )
        self.users = Administration(config, users=users, personal=self._personal, acting=acting)
        self._make_ways_in(config, users, acting, now)

    def _make_logins(
        self, config: Config, users: Users, sessions: SessionList, acting: Acting
    ) -> None:
        """Passwords, and what it takes beside them."""
        asking = Asking(
            store=FactorStore(self._database),
            personal=self._personal,
            acting=acting,
            passkeys=Passkeys(config),
        )
        failures = Failures(personal=self._personal, acting=acting, throttle=self.throttle)
        self.logins = Logins(
            config,
            users=users,
            sessions=sessions,
            passwords=self._passwords,
            personal=self._personal,
            acting=acting,
            throttle=self.throttle,
            turns=self._turns,
            asking=asking,
            failures=failures,
            notices=self._notices,
        )
        self.first_run = FirstRun(Keyring(config, KeyStore(self._database)), self.logins)
        self.second_steps = SecondSteps(
            logins=self.logins,
            failures=failures,
            asking=asking,
            users=users,
            personal=self._personal,
            acting=acting,
            throttle=self.throttle,
        )
        self.factors = UserFactors(
            users=users,
            asking=asking,
            personal=self._personal,
            acting=acting,
            notices=self._notices,
            cover=self._passwords.fits_nothing,
        )

    def _make_ways_in(
        self, config: Config, users: Users, acting: Acting, now: Callable[[], datetime]
    ) -> None:
        """Links, the mail that brings them, and users from elsewhere."""
        self.recovery = Recovery(
            config,
            users=users,
            store=self._links,
            personal=self._personal,
            acting=acting,
            throttle=self.throttle,
            logins=self.logins,
            notices=self._notices,
        )
        self.outbox = OutboxStore(self._database)
        self.mailer = Mailer(
            config,
            store=self.outbox,
            personal=self._personal,
            start_link=self._links.sent_at,
            prepare=self.recovery.answer,
            device_of=device_of,
            now=now,
        )
        self.importing = Importing(config, personal=self._personal, acting=acting)
        self.creating = Creating(config, personal=self._personal, acting=acting, logins=self.logins)

    @property
    def waiting_to_hash(self) -> int:
        """How many passwords wait to be hashed now."""
        turns = self._turns.waiting(known=True) + self._turns.waiting(known=False)
        return self._passwords.waiting + turns

    async def close(self) -> None:
        """End what goes on beside requests."""
        await self.throttle.close()
        await self.logins.close()

    async def ready(self) -> None:
        """Raises Unavailable, with the reason, while the service cannot do its work."""
        async with self._database.acquire() as connection:
            await read_head(connection)
        await self._personal.ready()
