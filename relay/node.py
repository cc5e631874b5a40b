"""The composition root: the only place that wires a node's objects to sockets, signals and the clock."""

import asyncio
import gc
import logging
import os
import signal
import socket
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from relay import __version__
from relay.config import Config, notes
from relay.config.applied import Applied
from relay.config.files import check_files, load, read_private_key
from relay.config.shown import shown
from relay.core.noise import public_key
from relay.errors import ConfigError, RelayError
from relay.log import Tally, configure, event
from relay.services import carry
from relay.services.board import Board
from relay.services.build import build
from relay.services.ciphers import fastest_first
from relay.services.cost import share_per_bps
from relay.services.engine import EngineService
from relay.services.handover import (
    DECISIONS,
    EVENTS,
    FD,
    GO,
    PACKETS,
    READY,
    READY_SECONDS,
    RUNNING,
    RUNNING_SECONDS,
    TAKEN,
    TAKEN_SECONDS,
    HandoverError,
    Predecessor,
    Successor,
    command,
)
from relay.services.history import History
from relay.services.machine import Machine, Outside
from relay.services.names import addresses, interface_index, resolve, routes
from relay.services.observer import Observer
from relay.services.ports import SocketPorts
from relay.services.restarts import hold_back
from relay.services.shards import Shards
from relay.services.sockets import Sockets
from relay.services.store import FileStore
from relay.services.uplinks import HOP_PORT
from relay.services.watchdog import Watchdog
from relay.systemd import Manager
from relay.web import ops
from relay.web.findings import findings
from relay.web.http import Server
from relay.wire import sdp
from relay.wire.health import Digest
from relay.wire.hop import CIPHER_NAMES
from relay_ext import control

logger = logging.getLogger("relay.node")

DRAIN_CHECK_S = 0.2
TIMER_LEAST_NS = 1_000_000
LEFT_SECONDS = 60.0
"""For streams to come back after a start: until then what the process before had of sockets is kept."""
RESOLVE_AGAIN_S = 10.0
"""Between two attempts at a peer's name that had no address: the name service may come up after us."""


class Node:
    """A running node: `start`, then `stop`. `done` is set when it should end; `failed` says why, if so."""

    def __init__(
        self,
        config: Config,
        config_path: Path | None = None,
        manager: Manager | None = None,
        tally: Tally | None = None,
    ) -> None:
        self.config = config
        self.manager = manager = manager or Manager({}, 0)
        self.done = asyncio.Event()
        self.failed: str | None = None
        self.handed_over = False
        """Another process goes on with everything."""
        self._config_path = config_path
        self._applied = Applied(config_path, config)
        self._tally = tally or Tally()
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.Handle | None = None
        self._timer_ns = 0
        self._polls_soon = False
        self._started_ns = time.monotonic_ns()
        self._drain_task: asyncio.Task[None] | None = None
        self._handover_task: asyncio.Task[None] | None = None
        self._resolve_task: asyncio.Task[None] | None = None
        self._server: Server | None = None
        self._watchdog_timer: asyncio.TimerHandle | None = None
        self._left_timer: asyncio.TimerHandle | None = None
        static = read_private_key(config.hop.key_file) if config.hop else None
        public = public_key(static) if static else bytes(32)
        self.shards = Shards(public, config.engine.threads, now_ns=self._started_ns)
        self.sockets = Sockets(manager, {name: socket.socket(fileno=fd) for name, fd in manager.kept.items()})
        self.service = EngineService(
            self.shards.planes,
            self._on_event,
            self._on_failure,
            coalesce_us=config.engine.coalesce_us,
            sockets=self.sockets,
        )
        self._watchdog = Watchdog(self.shards.planes, lambda: manager.tell("WATCHDOG=1"))
        board = Board(Path(config.node.state_dir))
        self.observer = Observer(board, self.service.cpu_ns, time.monotonic_ns, self._on_facts)
        self.ciphers = fastest_first(time.thread_time_ns)
        self._build = build(self.ciphers)
        self.store = FileStore(config.node.state_dir / "fleet.json")
        self._ports = SocketPorts(self.service, self.shards)
        self._outside = Outside(
            shards=self.shards,
            ports=self._ports,
            random_bytes=os.urandom,
            resolve=resolve,
            index_of=interface_index,
            routes=routes,
            read=Path.read_text,
            store=self.store,
            wall_clock=time.time,
            look=self.observer.ask,
        )
        share = share_per_bps(time.thread_time_ns)
        self.machine = Machine(
            config, self._outside, static=static, ciphers=self.ciphers, share_per_bps=share
        )
        self._history = History(self._outside.look)

    async def start(self) -> None:
        """Open everything and begin. Raises OSError with a sentence when a port cannot be had."""
        if self.config.hop is not None:
            self._ports.open_hop(HOP_PORT, self.config.hop.listen)
        self.machine.start(time.monotonic_ns())
        self.service.start()
        await self._begin()

    async def _begin(self) -> None:
        self.observer.start()
        self.observer.ask()
        self._server = await ops.start(self, self.config.ops.listen, self.sockets)
        self._poll()
        self._resolve_late()
        event(
            logger,
            logging.INFO,
            "node_started",
            name=self.config.node.name,
            region=self.config.node.region,
            version=__version__,
            hop=str(self.config.hop.listen) if self.config.hop else None,
            ciphers=" ".join(CIPHER_NAMES[cipher] for cipher in self.ciphers),
            ops=str(self.config.ops.listen),
        )
        self.manager.tell("READY=1", f"STATUS=running, version {__version__}")
        self._watch()
        self._left_timer = self._loop.call_later(LEFT_SECONDS, self.sockets.close_left)

    async def stop(self) -> None:
        for task in (self._drain_task, self._resolve_task, self._handover_task):
            if task is not None:
                task.cancel()
        if self._server is not None:
            await self._server.close()
            if self.machine.members is not None and not self.handed_over:
                self.machine.members.save(time.monotonic_ns())
        self.observer.stop()
        self.service.stop()
        for timer in (self._timer, self._watchdog_timer, self._left_timer):
            if timer is not None:
                timer.cancel()
        await self.store.close()
        self.shards.close()
        event(logger, logging.INFO, "node_stopped", name=self.config.node.name)

    # ---- events and time ---------------------------------------------------------------------

    def _on_event(self, e: control.Event) -> None:
        self.machine.handle(time.monotonic_ns(), e)
        if not self._polls_soon:  # once for all events that wait
            self._polls_soon = True
            self._set_timer(self._loop.call_soon(self._poll))

    def _on_failure(self, sentence: str) -> None:
        self.failed = sentence
        self.done.set()

    def _on_facts(self, now_ns: int, facts: Digest) -> None:
        self.machine.fleet.observe(now_ns, facts)
        self._history.observed(now_ns)
        self._poll()

    def _on_timer(self) -> None:
        self.observer.late(time.monotonic_ns() - self._timer_ns)
        self._poll()

    def _poll(self) -> None:
        now_ns = time.monotonic_ns()
        self._polls_soon = False
        due_ns = min(self.machine.poll(now_ns), self._history.poll(now_ns, self.machine))
        self._timer_ns = max(due_ns, now_ns + TIMER_LEAST_NS)
        self._set_timer(self._loop.call_later((self._timer_ns - now_ns) * 1e-9, self._on_timer))

    def _set_timer(self, timer: asyncio.Handle) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer

    def _watch(self) -> None:
        """Tell the service manager, if it wants to know, that the node lives."""
        if self.manager.watchdog_seconds is not None:
            self._watchdog.tick()
            self._watchdog_timer = self._loop.call_later(self.manager.watchdog_seconds / 3, self._watch)

    def _resolve_late(self) -> None:
        if self.machine.unresolved and (self._resolve_task is None or self._resolve_task.done()):
            self._resolve_task = asyncio.create_task(self._resolve_again())

    async def _resolve_again(self) -> None:
        """Ask for the addresses of peers that had none, until each has some."""
        while self.machine.unresolved:
            await asyncio.sleep(RESOLVE_AGAIN_S)
            for peer in list(self.machine.unresolved):
                found: list[tuple[str, int]] = []
                for host, port in peer.addresses:
                    with suppress(OSError):
                        found += addresses(await self._loop.getaddrinfo(host, port, type=socket.SOCK_DGRAM))
                if found:
                    event(logger, logging.INFO, "peer_resolved", peer=peer.name)
                    self.machine.resolved(time.monotonic_ns(), peer, found)
                    self._poll()

    def reload(self) -> None:
        """SIGHUP: apply the configuration file as it is now; a wrong one is refused, the old one goes on."""
        if self._config_path is None:
            return
        self.manager.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        refusal = self._load(self._config_path)
        status = f"configuration refused: {refusal}" if refusal else f"running, version {__version__}"
        self.manager.tell("READY=1", "STATUS=" + " ".join(status.split()))

    def _load(self, path: Path) -> Exception | None:
        """Take the configuration of a file; why not, if it is refused."""
        try:
            config = load(path, os.environ)
            problems = check_files(config, sdp.parse)
            if problems:
                raise ConfigError(problems)
        except (RelayError, OSError) as error:
            event(logger, logging.ERROR, "reload_refused", error=error)
            return error
        return self._apply(config)

    def _apply(self, config: Config) -> Exception | None:
        try:
            self.machine.reload(time.monotonic_ns(), config)
        except (RelayError, OSError) as error:
            event(logger, logging.ERROR, "reload_refused", error=error)
            return error
        self.config = config
        self._applied.take(config)
        for name in self._applied.waiting:
            event(logger, logging.WARNING, "reload_needs_restart", section=name)
        self._poll()
        self._resolve_late()
        event(logger, logging.INFO, "reloaded", path=self._config_path)
        return None

    # ---- upgrade -----------------------------------------------------------------------------

    def hand_over(self) -> None:
        """SIGUSR2: start the program that is at our path now, and let it go on with everything."""
        if self._handover_task is None or self._handover_task.done():
            self._handover_task = asyncio.create_task(self._hand_over())

    async def _hand_over(self) -> None:
        try:
            if len(self.shards) > 1:
                raise HandoverError(f"[engine] threads is {len(self.shards)}, not 1: upgrade by a restart")
            if self.machine.streams.draining:
                raise HandoverError("the node drains: start the new version when it has ended")
            with Successor(command(), os.environ | self.manager.environ()) as successor:
                version = await successor.hello()
                self.manager.tell("WATCHDOG=1")
                pause_ns = self._give(successor)
                self.manager.tell(f"MAINPID={successor.pid}", f"STATUS=running, version {version}")
                self.manager.barrier()
        except Exception as error:  # whatever it was, this process goes on
            event(logger, logging.ERROR, "handover_failed", kind=type(error).__name__, error=error)
            return
        fields = {"version": version, "pid": successor.pid, "pause_ms": round(pause_ns / 1e6, 1)}
        event(logger, logging.INFO, "handed_over", **fields)

    def _give(self, successor: Successor) -> int:
        """Returns when the other process goes on, after so many ns without a packet thread; until it has been
        told to, everything goes on here. Raises HandoverError, and ValueError for what cannot be given."""
        decisions = {"machine": self.machine, "ports": self.service.ports, "history": self._history}
        successor.send_sockets(self.sockets.all)
        successor.send(DECISIONS, carry.save(decisions, vars(self._outside)))
        successor.receive(READY, READY_SECONDS)
        paused_ns = time.monotonic_ns()
        events = self.service.pause()
        try:
            successor.send(EVENTS, carry.save(events, {}))
            successor.send(PACKETS, self.shards.save())
            successor.receive(TAKEN, TAKEN_SECONDS)
            successor.send(GO)
        except BaseException:
            self.service.start()
            self._catch_up(events)
            raise
        self.handed_over = True
        self.failed = "the process that was to go on has not begun"
        self.done.set()
        successor.receive(RUNNING, RUNNING_SECONDS)
        self.failed = None
        return time.monotonic_ns() - paused_ns

    def _catch_up(self, events: list[control.Event]) -> None:
        for e in events:
            self.machine.handle(time.monotonic_ns(), e)
        self._poll()

    async def take_over(self, predecessor: Predecessor) -> None:
        """Go on with what another process gives. Raises HandoverError; then that one goes on."""
        with predecessor:
            predecessor.hello()
            self.sockets.inherit(predecessor.receive_sockets(READY_SECONDS))
            decisions = carry.load(predecessor.receive(DECISIONS, READY_SECONDS), vars(self._outside))
            self.machine, self._history = decisions["machine"], decisions["history"]
            self._ports.take(decisions["ports"])
            self.shards.reserve(len(self.machine.hops.hops) if self.machine.hops else 0)
            predecessor.send(READY)
            events = carry.load(predecessor.receive(EVENTS, TAKEN_SECONDS), {})
            self.shards.load(predecessor.receive(PACKETS, TAKEN_SECONDS))
            predecessor.send(TAKEN)
            predecessor.receive(GO, TAKEN_SECONDS)
            self.service.start()
            predecessor.send(RUNNING)
            self._catch_up(events)
            predecessor.wait()
        self._apply(self.config)
        await self._begin()

    # ---- what the operations API sees (relay.web.ops.NodeView) --------------------------------

    async def look(self) -> None:
        await self.observer.fresh()

    def ready(self) -> list[str]:
        return self.machine.not_ready()

    def notes(self) -> list[str]:
        return self.machine.notes(time.monotonic_ns())

    def hand_records(self, records: Sequence[bytes]) -> Counter[str]:
        found = self.machine.hand_records(time.monotonic_ns(), records)
        self._poll()
        return found

    def status(self) -> dict[str, Any]:
        reasons = self.ready()
        node = self.config.node
        status: dict[str, Any] = {
            "node": {
                "name": node.name,
                "region": node.region,
                "version": __version__,
                "pid": os.getpid(),
                "uptime_seconds": round((time.monotonic_ns() - self._started_ns) * 1e-9, 3),
                "draining": self.machine.streams.draining,
                "unapplied": not self._applied.complete,
            },
            "admission": self.machine.streams.admission.status(time.monotonic_ns()),
            "streams": self.streams(),
            "hops": self.hops(),
            "peers": self.peers(),
            "directory": self.machine.directory_status(),
            "fleet": self.machine.fleet_status(time.monotonic_ns()),
            "engine": {
                **self.service.counters(),
                **self.shards.stats(),
                **self.machine.refused_handshakes(),
            },
            "board": {**self.observer.board.totals, "unreadable": self.observer.board.unreadable.total()},
            "build": self._build,
            "config": shown(self.config),
            "log": {"warnings": self._tally.counts, "last": list(self._tally.last)},
            "ready": not reasons,
            "reasons": reasons,
            "notes": self.notes(),
        }
        return {**status, "findings": findings(status)}

    def history(self) -> dict[str, Any]:
        return self._history.status(time.monotonic_ns())

    def streams(self) -> list[dict[str, Any]]:
        return self.machine.stream_statuses(time.monotonic_ns())

    def stream(self, name: str) -> dict[str, Any] | None:
        return next((s for s in self.streams() if s["name"] == name), None)

    def hops(self) -> list[dict[str, Any]]:
        return self.machine.hop_statuses()

    def peers(self) -> list[dict[str, Any]]:
        return self.machine.peer_statuses(time.monotonic_ns())

    def sdp(self, name: str, host: str, port: int) -> str | None:
        stream = self.machine.streams.streams.get(name)
        if stream is None or not stream.tracks:
            return None
        return sdp.write(name, [track.format for track in stream.tracks], host, port)

    async def drain(self, timeout_seconds: float) -> None:
        self.machine.streams.drain(time.monotonic_ns())
        self._poll()
        event(logger, logging.INFO, "draining", timeout_seconds=timeout_seconds)
        if self._drain_task is None:
            self._drain_task = asyncio.create_task(self._end_when_empty(timeout_seconds))

    async def _end_when_empty(self, timeout_seconds: float) -> None:
        started = self._loop.time()
        while self.machine.streams.busy:
            over = self._loop.time() - started >= timeout_seconds
            if over:
                self.machine.streams.give_back(time.monotonic_ns())
                self._poll()
            await asyncio.sleep(DRAIN_CHECK_S)
            if over:
                break
        self.done.set()


async def _main(
    config: Config, config_path: Path | None, manager: Manager, tally: Tally, predecessor: Predecessor | None
) -> int:
    node = Node(config, config_path, manager, tally)
    loop = asyncio.get_running_loop()
    for number, handler in (
        (signal.SIGTERM, node.done.set),
        (signal.SIGINT, node.done.set),
        (signal.SIGHUP, node.reload),
        (signal.SIGUSR2, node.hand_over),
    ):
        loop.add_signal_handler(number, handler)
    try:
        await (node.take_over(predecessor) if predecessor else node.start())
        gc.collect()
        gc.freeze()  # what lives as long as the process need not be looked at again
        await node.done.wait()
    finally:
        if not node.handed_over:
            manager.tell("STOPPING=1")
        await node.stop()
    if node.failed is not None:
        raise RelayError(node.failed)
    return 0


def run(config: Config, *, config_path: Path | None = None) -> int:
    """Run a node in the foreground until SIGTERM, SIGINT or a completed drain; the exit code.

    Raises ConfigError for files that the configuration names and that cannot be used, OSError for ports.
    """
    tally = configure(config.log.format, config.log.level, environ=os.environ)
    manager = Manager(os.environ, os.getpid())
    problems = check_files(config, sdp.parse)
    if problems:
        raise ConfigError(problems)
    for note in notes(config):
        event(logger, logging.WARNING, "note", text=note)
    predecessor = Predecessor(int(os.environ.pop(FD))) if FD in os.environ else None
    if predecessor is None and (crashes := hold_back(manager, time.monotonic_ns, time.sleep)):
        event(logger, logging.WARNING, "crashed_before", times=crashes)
    return run_on_loop(_main(config, config_path, manager, tally, predecessor))


def run_on_loop(main: Any) -> int:
    """Run a coroutine on uvloop, or on asyncio's own loop where uvloop has no wheel (armv7l)."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return int(asyncio.run(main))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return int(runner.run(main))
