"""Keeps a car's identity: has each next step done on a thread, and takes in what the server says of it in its answers.

``decisions`` says what comes next; ``joining`` does it; the loop asks ``tick`` and is never held up. All but what the
thread runs is called on the loop's thread.
"""

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from queue import Empty, SimpleQueue

from fleven_agent.config.settings import Settings
from fleven_agent.identity import authority, decisions
from fleven_agent.identity.decisions import Facts, Problem, ReportAccess, Standings, Step
from fleven_agent.identity.files import IdentityFolder
from fleven_agent.identity.model import About, ExchangeError, Identity, Standing, Told, Trouble
from fleven_agent.identity.secure_http import TlsProblem
from fleven_agent.protocol.identity import Refusal
from fleven_agent.system.log import LOGGER, event

OLD_SECRET_SECONDS = 120.0
"""So long reports go on under the old secret after a change of key, until SuperNode works with the new one."""
LOOK_SECONDS = 60.0
SPREAD = 0.2
WARNING, DEBUG = 30, 10  # as in logging
_QUIET = (Trouble.NOT_OFFERED, Trouble.UNREACHABLE, Trouble.BUSY, Trouble.CLOCK)
"""No news of a car that may go on without an identity: its reports say the same."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    step: Step | None
    """None: a changed identity was written."""
    identity: Identity | None
    authorities: tuple[str, ...]
    problem: Problem | None = None
    retry_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class _Change:
    """What the server changed in a report's answer, and what has not been written yet."""

    key_fingerprint: str
    bundle: str | None


class Keeper:
    """The identity of one car, and the thread that works for it.

    Args:
        folder: of the identity.
        settings: as node.toml has them.
        about: what a request says of this car.
        wake: wakes the loop; called from the thread.
    """

    def __init__(self, folder: IdentityFolder, settings: Settings, about: About, wake: Callable[[], None]) -> None:
        self.folder = folder
        self._settings, self._about, self._wake = settings, about, wake
        self.identity: Identity | None = None
        self._authorities: tuple[str, ...] = ()
        self._problem: Problem | None = None
        self._old: tuple[Identity, float] | None = None
        """The identity before a change of key, and until when reports go on under it."""
        self._rotate = self._demanded = self._doubtful = False
        self._unwritten: _Change | None = None
        self._busy = False
        self._failures = 0
        self._seen: tuple[Identity | None, tuple[str, ...]] = (None, ())
        self._next_at = 0.0
        self._outcomes: SimpleQueue[_Outcome] = SimpleQueue()
        self.read()

    def read(self) -> None:
        """Read the identity from its folder: at the start, and when a command has changed it."""
        try:
            self.identity = self.folder.load()
            self._authorities = _authorities(self.folder)
        except OSError as error:
            self._problem = Problem(Trouble.KEY, f"{error.filename}: {error.strerror}", "check the folder's owner")
        self._next_at = 0.0
        self._seen = (self.identity, self._authorities)

    def reconfigure(self, settings: Settings) -> None:
        """Take over changed settings, and what a command may have changed on disk."""
        self._settings, self._problem, self._failures = settings, None, 0
        self.read()

    # -- what follows from how the car stands

    @property
    def effective(self) -> Settings:
        """The settings that SuperNode runs with."""
        key, ca_file = self.folder.key, self.folder.authority
        return decisions.effective(self._settings, self.identity, key, ca_file)

    @property
    def credentials(self) -> str:
        """Names the content of the files that SuperNode proves itself and knows the server by; changes with it."""
        if self.identity is None:
            return ""
        return " ".join((self.identity.key_fingerprint, *self._authorities))

    def standings(self) -> Standings:
        """Return what there is to say of the identity."""
        return decisions.standings(self._facts(task_active=False))

    def report_access(self, now: float) -> ReportAccess | None:
        """Return how reports are sent; None while none can be."""
        identity = self.identity
        if self._old is not None:
            old, until = self._old
            identity, self._old = (old, self._old) if now < until else (identity, None)
        return decisions.report_access(self._settings, identity, self.folder.authority)

    @property
    def authorities(self) -> tuple[str, ...]:
        """Fingerprints of the certificates in ca.crt."""
        return self._authorities

    def _facts(self, *, task_active: bool) -> Facts:
        return Facts(
            settings=self._settings,
            identity=self.identity,
            problem=self._problem,
            rotate=self._rotate,
            task_active=task_active,
            demanded=self._demanded,
            doubtful=self._doubtful,
        )

    # -- steps

    def tick(self, now: float, *, task_active: bool) -> bool:
        """Take in what the thread has done and begin the next step; return whether the identity changed."""
        while True:
            try:
                self._take(self._outcomes.get_nowait(), now)
            except Empty:
                break
        if not self._busy and self._unwritten is not None and self.identity is not None:
            change, self._unwritten = self._unwritten, None
            self._begin(self._write, change, self.identity)
        if not self._busy and now >= self._next_at:
            step = decisions.next_step(self._facts(task_active=task_active))
            if step is not None:
                self._begin(self._run, step, self._settings, self._about, self.identity)
        seen, self._seen = self._seen, (self.identity, self._authorities)
        return seen != self._seen

    def _begin(self, work: Callable[..., None], *arguments: object) -> None:
        self._busy = True
        threading.Thread(target=work, args=arguments, name="identity", daemon=True).start()

    def _run(self, step: Step, settings: Settings, about: About, before: Identity | None) -> None:
        """Do one step; runs on the thread."""
        from fleven_agent.identity.joining import Joining  # a car that has joined needs it no more

        retry, problem = None, None
        try:
            joining = Joining(self.folder, settings, about, timeout_seconds=settings.reports.timeout_seconds)
            match step:
                case Step.ENROL:
                    retry = joining.enrol().retry_seconds
                case Step.ROTATE:
                    joining.rotate()
                case Step.LOOK:
                    joining.look()
        except ExchangeError as error:
            problem, retry = Problem(error.trouble, error.message, error.hint, error.code), error.retry_seconds
        except Exception as error:
            LOGGER.exception(event("a step of the identity failed", step=step.value))
            problem = Problem(Trouble.KEY, f"{step.value} failed: {error}", "see the journal")
        try:
            found = self.folder.load()
        except OSError as error:
            found, problem = before, Problem(Trouble.KEY, f"{error.filename}: {error.strerror}", "")
        self._outcomes.put(_Outcome(step, found, _authorities(self.folder), problem, retry))
        self._wake()

    def _take(self, done: _Outcome, now: float) -> None:
        self._busy = False
        self._authorities = done.authorities
        if done.step is None:
            return
        was = self.identity
        if done.step is not Step.LOOK:
            self.identity, self._unwritten = done.identity, None
        refused = done.problem is not None and done.problem.code == Refusal.KEY_REFUSED
        if refused and self.identity is not None and self._settings.auth_private_key is None:
            self._become(replace(self.identity, standing=Standing.FORGOTTEN))
        if done.step is Step.ROTATE:
            self._rotate = False
            if done.problem is None and was is not None:
                self._old = (was, now + OLD_SECRET_SECONDS)
        if done.step is Step.LOOK:
            self._doubtful = False
            if done.problem is not None and done.problem.trouble is not Trouble.OTHER_AUTHORITY:
                return
        self._failures = self._failures + 1 if done.problem is not None else 0
        self._note(was, done)
        self._problem = done.problem
        wait = decisions.wait_seconds(self.identity, done.problem, done.retry_seconds, self._failures)
        spread = random.uniform(1 - SPREAD, 1 + SPREAD)  # noqa: S311  # spreads a fleet's questions, protects nothing
        self._next_at = now + (LOOK_SECONDS if done.step is Step.LOOK else wait) * spread

    def _note(self, was: Identity | None, done: _Outcome) -> None:
        """Tell the journal what is new."""
        new = self.identity
        if done.problem is not None:
            wanted = decisions.wants_to_join(self._settings) or self._demanded
            if done.problem != self._problem:
                text = event("not joined", detail=done.problem.message, hint=done.problem.hint or None)
                LOGGER.log(WARNING if wanted or done.problem.trouble not in _QUIET else DEBUG, text)
            return
        told = None if was is None else (was.standing, was.key_fingerprint)
        if new is None or told == (new.standing, new.key_fingerprint):
            return
        LOGGER.info(
            event(
                "identity",
                standing=new.standing.value,
                name=new.name or None,
                partition_id=new.partition_id,
                key=new.key_fingerprint,
                server_authority=new.ca_fingerprint,
            )
        )

    # -- what the server says in reports

    def told(self, told: Told) -> None:
        """Take in how the server says that this car stands."""
        if self.identity is None:
            return
        self._demanded = self._doubtful = False
        if self._old is None:
            self._problem = None
        self._rotate = told.rotate and self._old is None
        self._become(
            replace(
                self.identity,
                standing=Standing(told.status.value),
                name=told.name or self.identity.name,
                partition_id=told.partition_id,
                num_partitions=told.num_partitions,
                # Until SuperNode works with a new key, the server still speaks of the old one.
                node_id=self.identity.node_id if self._old is not None else told.node_id or self.identity.node_id,
                superlink_tls=self.identity.superlink_tls or told.superlink_tls,
            ),
            told.ca_certificates,
        )

    def refused(self, refusal: Refusal, now: float) -> None:
        """Take in that the server refused a report for the sake of the identity."""
        identity = self.identity
        if refusal is Refusal.IDENTITY_REQUIRED:
            self._demanded = True
        elif identity is None:
            return
        elif refusal is Refusal.IDENTITY_UNKNOWN and identity.standing is Standing.ACCEPTED:
            LOGGER.warning("the server does not know this car's identity: the car asks to join again")
            self._become(replace(identity, standing=Standing.FORGOTTEN))
            self._next_at = now
        elif refusal is Refusal.IDENTITY_WRONG:
            self._old = None
            hint = "another board may have taken its place: `fleven-server nodes revoke`, then invite it again"
            self._problem = Problem(Trouble.REFUSED, "the server has another secret for this car", hint, refusal.value)
        elif refusal in _STANDINGS and identity.standing is not _STANDINGS[refusal]:
            LOGGER.warning(event("the server refuses this car", standing=_STANDINGS[refusal].value))
            self._become(replace(identity, standing=_STANDINGS[refusal]))
            self._next_at = now

    def untrusted(self, problem: TlsProblem) -> None:
        """Take in that a report failed for the sake of the server's certificate."""
        if problem in (TlsProblem.OTHER_AUTHORITY, TlsProblem.OTHER_NAME) and self.identity is not None:
            self._doubtful = True

    def works_with(self, node_id: str) -> None:
        """SuperNode has registered: reports need not go on under the old secret."""
        if self._old is not None and node_id != self._old[0].node_id:
            self._old = None

    def _become(self, identity: Identity, bundle: str | None = None) -> None:
        """Hold an identity that the server changed, and have it written."""
        if identity != self.identity or bundle:
            self.identity, self._unwritten = identity, _Change(identity.key_fingerprint, bundle)

    def _write(self, change: _Change, identity: Identity) -> None:
        """Write a changed identity, unless a command changed it meanwhile; runs on the thread."""
        try:
            with self.folder.lock():
                found = self.folder.load()
                if found is not None and found.key_fingerprint == change.key_fingerprint:
                    if change.bundle:
                        self.folder.write_authority("".join(authority.split(change.bundle)))
                    self.folder.save(identity)
        except (OSError, ValueError) as error:
            LOGGER.warning(event("the identity cannot be written", detail=error))
        self._outcomes.put(_Outcome(None, identity, _authorities(self.folder)))
        self._wake()


_STANDINGS = {
    Refusal.IDENTITY_PENDING: Standing.PENDING,
    Refusal.IDENTITY_REJECTED: Standing.REJECTED,
    Refusal.IDENTITY_REVOKED: Standing.REVOKED,
    Refusal.IDENTITY_HELD: Standing.HELD,
}


def _authorities(folder: IdentityFolder) -> tuple[str, ...]:
    try:
        return tuple(authority.fingerprints(folder.read_authority()))
    except ValueError:
        return ()
