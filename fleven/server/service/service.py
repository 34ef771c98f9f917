"""The wiring of `fleven-server serve`: register, scheduler loop, fleet API, housekeeping, systemd.

The main thread decides; the API answers on a thread of its own, so that a slow client cannot hold up the loop. The
watchdog is fed by the deciding loop alone: when that hangs, systemd restarts the service.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import FrameType

import sdnotify
import uvicorn

from fleven import __version__
from fleven.server.config.loader import load
from fleven.server.config.paths import Paths
from fleven.server.config.settings import ServerConfig, split_address
from fleven.server.database import Store, open_store
from fleven.server.database.change_counter import ChangeCounter
from fleven.server.database.serve_lock import only_one
from fleven.server.enrolment.flower_keys import FlowerKeys
from fleven.server.errors import ConfigurationError, ServerError, address_obstacle, cannot_start
from fleven.server.flower.app_bundle import sweep_staged
from fleven.server.flower.flwr_command import environment, flower_for
from fleven.server.flower.ready_command import ReadyCommand
from fleven.server.http.connection_guard import GuardedProtocol, raise_descriptor_limit
from fleven.server.http.transport import SwitchingServer, TlsContext, TlsOnly
from fleven.server.log import set_up_logging
from fleven.server.models.registry import champion_path
from fleven.server.nodes.attention import AttentionBoard
from fleven.server.nodes.fleet_journal import FleetJournal
from fleven.server.nodes.registry import NodeRegistry
from fleven.server.runs import store as run_store
from fleven.server.runs.cars import RunCars
from fleven.server.runs.runner import Runner
from fleven.server.runs.scheduler import Scheduler
from fleven.server.service.housekeeping import Housekeeping
from fleven.server.service.http_app import create_app
from fleven.server.service.trust_keeper import TrustKeeper
from fleven.server.trust.certificates import SERVER_COMMON_NAME
from fleven.server.trust.files import trust_files
from fleven.server.trust.upkeep import bring_up_to_date

logger = logging.getLogger("fleven.server.service")

POLL_SECONDS = 0.1
"""How soon a change made by a command, or the end of a run, is seen."""
KEEP_ALIVE_SECONDS = 660
"""A car's connection outlasts the pause between two of its reports: a handshake costs more than a report."""
WATCHDOG_EVERY_SECONDS = 1.0
HEARTBEAT_EVERY = timedelta(seconds=10)
SERVICE_FACT = "service"


def utc_now() -> datetime:
    """Return the current time: the service's only wall clock."""
    return datetime.now(UTC)


def bind(address: str) -> socket.socket:
    """Return a listening socket for the API.

    Raises:
        ConfigurationError: this user may not bind the address.
        TemporaryError: the address is not up yet, or held by another program.
    """
    host, port = split_address(address)
    try:
        listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(512)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        obstacle = address_obstacle("web.address", address, error)
        raise cannot_start("the server cannot start", [obstacle], code="address-unusable") from error
    return listener


def tls_context(config: ServerConfig, paths: Paths) -> TlsContext:
    """Return the certificates that API and page show.

    Raises:
        ConfigurationError: they cannot be used.
    """
    files, web = trust_files(paths), config.web
    given = (web.certificate, web.private_key) if web.certificate and web.private_key else None
    try:
        return TlsContext((files.server_certificate, files.server_key), SERVER_COMMON_NAME, given)
    except OSError as error:
        raise ConfigurationError(f"the certificates of the web page cannot be used: {error}") from error


class ApiThread:
    """The fleet API and web page on a thread of their own."""

    def __init__(
        self, store: Store, config: ServerConfig, paths: Paths, listener: socket.socket, attention: AttentionBoard
    ) -> None:
        self.attention = attention
        self.listener = listener
        self.tls = tls_context(config, paths)
        GuardedProtocol.maximum_connections = raise_descriptor_limit()
        app = create_app(store, config, paths, attention=attention)
        self.server = SwitchingServer(
            uvicorn.Config(
                app if config.plain_reports else TlsOnly(app),
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                ws="none",
                proxy_headers=False,
            ),
            self.tls,
        )
        self.thread = threading.Thread(target=self.server.run, args=([listener],), name="fleet-api", daemon=True)

    def start(self) -> None:
        """Start answering."""
        self.thread.start()

    def stop(self) -> None:
        """Finish open answers, for two seconds at most, then end."""
        self.server.should_exit = True
        self.attention.close()
        self.thread.join(2)
        if self.thread.is_alive():
            self.server.force_exit = True
            self.thread.join(2)
        self.listener.close()


class Service:
    """The loop around the scheduler: signals, changes, heartbeat, watchdog, housekeeping."""

    def __init__(
        self,
        scheduler: Scheduler,
        housekeeping: Housekeeping,
        trust: TrustKeeper,
        changes: ChangeCounter,
        api: ApiThread,
        flower_keys: FlowerKeys,
        ready: ReadyCommand,
    ) -> None:
        self.scheduler = scheduler
        self.trust = trust
        self.flower_keys = flower_keys
        self.ready = ready
        self.housekeeping = housekeeping
        self.changes = changes
        self.journal = FleetJournal()
        self.api = api
        self.stopping = False
        self.notifier = sdnotify.SystemdNotifier()
        self.beat_at: datetime | None = None
        self.fed = 0.0

    def ask_to_stop(self, _signal: int, _frame: FrameType | None) -> None:
        """Signal handler: only wakes the loop."""
        self.stopping = True
        self.scheduler.workers.wake.set()

    def run(self) -> None:
        """Run until asked to stop."""
        tick_seconds = self.scheduler.config.scheduler.tick_seconds
        self.scheduler.tick()
        self.notifier.notify("READY=1")
        if self.notifier.socket is not None:
            # A message that nobody reads must not hold up the loop; the next one comes within a second.
            self.notifier.socket.setblocking(False)
        last = self.fed = time.monotonic()
        while not self.stopping:
            woken = self.scheduler.workers.wake.wait(POLL_SECONDS)
            self.scheduler.workers.wake.clear()
            self._feed()
            # Evaluated always: a look at the counter also sets it.
            changed = self.changes.changed() or self.scheduler.tracker.stirred()
            if woken or changed or time.monotonic() - last >= tick_seconds:
                last = time.monotonic()
                self._feed()  # a locked register holds up the look at the counter and then the turn
                self._turn()

    def _feed(self) -> None:
        """Feed systemd's watchdog, not more often than is of use."""
        if time.monotonic() - self.fed >= WATCHDOG_EVERY_SECONDS:
            self.fed = time.monotonic()
            self.notifier.notify("WATCHDOG=1")

    def _turn(self) -> None:
        if not self.api.thread.is_alive():
            raise ServerError("the fleet API ended by itself", code="api-ended")
        try:
            self.scheduler.tick()
            self.flower_keys.attend(utc_now(), reachable=self.scheduler.reachable)
            if self.scheduler.reachable:
                self.ready.tend()
            self._beat(utc_now())
        except ServerError as error:
            # The register may be locked or the disk full for a while: say so, and try again at the next turn.
            logger.warning("event=tick-failed code=%s error=%r", error.code, str(error))

    def _beat(self, now: datetime) -> None:
        if self.beat_at is None or not timedelta(0) <= now - self.beat_at < HEARTBEAT_EVERY:
            self.beat_at = now
            self.scheduler.store.set_fact(SERVICE_FACT, {"pid": os.getpid(), "version": __version__}, now)
            word = "answers" if self.scheduler.reachable else "does not answer"
            self.notifier.notify(f"STATUS=SuperLink {word}, {len(self.scheduler.tracker.poll_states)} runs under way")
            for level, line in self.journal.changes(self.scheduler.register.fleet(now)):
                logger.log(level, line)
            self.housekeeping.run_due(now)
            self.trust.run_due(now, self.scheduler.tracker.need_superlink())


def serve(config_file: Path | None) -> int:
    """Run the server until SIGTERM or SIGINT and return its exit code.

    Args:
        config_file: the value of `--config`.

    Raises:
        ConfigurationError: it cannot start as configured.
        TemporaryError: it cannot start yet: the address or the register is held by another program.
        StoreError: the register cannot be used.
    """
    loaded = load(config_file)
    config = loaded.config
    set_up_logging(config.log_level)
    paths = Paths.from_environment()
    store = open_store(paths.register, check=True)
    executor = ThreadPoolExecutor(max_workers=3, thread_name_prefix="worker")
    try:
        with only_one(paths.state):
            listener = bind(config.web.address)
            with store.read() as connection:
                sweep_staged(paths.apps, {run.id for run in run_store.open_runs(connection)})
            register = NodeRegistry.from_config(store, config)
            cars = RunCars(register, config, utc_now)
            champion = partial(champion_path, store, paths)
            ready = ReadyCommand(environment(paths), paths.state)
            flower = replace(flower_for(config, paths), ready=ready)
            runner = Runner(flower, paths, config.app(), cars, champion)
            bring_up_to_date(config, paths, utc_now())
            attention = AttentionBoard()
            scheduler = Scheduler(store, runner, config, register, utc_now, executor, attention)
            api = ApiThread(store, config, paths, listener, attention)
            housekeeping = Housekeeping(store, loaded, paths, executor)
            trust = TrustKeeper(store, config, paths, api.tls, executor, runner.flower.runs)
            scheduler.holds = trust.holds
            scheduler.tracker.on_success = housekeeping.models_soon
            flower_keys = FlowerKeys(store, runner.flower, executor, scheduler.workers.wake.set)
            service = Service(scheduler, housekeeping, trust, ChangeCounter(paths.register), api, flower_keys, ready)
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, service.ask_to_stop)
            api.start()
            logger.info("event=started version=%s state=%s address=%s", __version__, paths.state, config.web.address)
            try:
                service.run()
            finally:
                service.notifier.notify("STOPPING=1")
                api.stop()
                ready.close()
                service.changes.close()
        logger.info("event=stopped")
        return 0
    finally:
        # Python waits at its exit for what a worker has under way. All of it ends: a `flwr` call at its time limit, a
        # backup when all is copied. If systemd stops waiting before that, the register knows what was under way.
        executor.shutdown(wait=False, cancel_futures=True)
        store.close()
