"""The packet planes in an asyncio program: their sockets, and their events on the event loop.

An engine's thread needs nothing of the event loop: when that stands still, packets go on, and events wait in
the planes' bounded queues.
"""

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial

from relay.services.shards import total
from relay.services.sockets import Address, Sockets
from relay_ext.control import Event, Plane
from relay_ext.engine import Engine
from relay_ext.shards import join

Ports = dict[int, tuple[str, bool]]
"""By number: the name of the socket, and whether it is for traffic with peers (`probe_mtu`)."""


class EngineService:
    """Runs an Engine a plane and calls `on_event` on the event loop for each event of a plane, in order.

    It joins the planes. `on_failure` is called, with a sentence, when the thread of an engine has ended by
    itself. An exception in `on_event` goes to the loop's exception handler and does not keep the next event
    from being handled.
    `coalesce_us` is Engine's.
    """

    def __init__(
        self,
        planes: Sequence[Plane],
        on_event: Callable[[Event], None],
        on_failure: Callable[[str], None],
        *,
        coalesce_us: int,
        sockets: Sockets,
    ) -> None:
        self.engines = tuple(Engine(plane, coalesce_us=coalesce_us) for plane in planes)
        join(planes)  # each has an engine that the others can wake
        self._planes = tuple(planes)
        self._on_event = on_event
        self._on_failure = on_failure
        self._sockets = sockets
        self._kept: dict[tuple[Engine, int], tuple[str, bool]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Starts the threads; the events go to the running event loop. Raises RuntimeError without one."""
        self._loop = asyncio.get_running_loop()
        for engine, plane in zip(self.engines, self._planes, strict=True):
            self._loop.add_reader(engine.event_fd, partial(self._drain, engine, plane))
            engine.start()

    def pause(self) -> list[Event]:
        """Ends the threads until the next `start`; the events that have not been handled."""
        for engine in self.engines:
            self._unwatch(engine)
            engine.pause()
        return [event for plane in self._planes for event in plane.drain_events()]

    @property
    def ports(self) -> Ports:
        """Of one engine, for `take`."""
        return {number: kept for (_, number), kept in self._kept.items()}

    def take(self, ports: Ports) -> None:
        """Gives the one engine the ports that another process's had, whose sockets are left."""
        (engine,) = self.engines
        for number, (name, probe_mtu) in ports.items():
            engine.add_port(number, self._sockets.take(name), probe_mtu=probe_mtu)
            self._kept[engine, number] = name, probe_mtu

    def stop(self) -> None:
        """Ends the threads, closes the ports and handles the events that were left. May be called again."""
        for engine, plane in zip(self.engines, self._planes, strict=True):
            self._unwatch(engine)
            engine.stop()
            self._handle_events(plane)
        self._sockets.release()

    def open_port(self, number: int, address: Address, *, shard: int = 0) -> Address:
        """Gives a shard's plane, as its port `number`, a socket bound to `address`; what it is bound to.

        Raises PortError (see `open_udp`), and ValueError when the number is taken.
        """
        return self._add(number, [self._sockets.udp(address, shard)], [self.engines[shard]], probe_mtu=False)

    def open_hop_port(self, number: int, address: Address, interface: str | None = None) -> Address:
        """Gives every plane, as its port `number`, a socket bound to the same address, which is returned, and
        to the interface, if one is given (see `Sockets.shared`). Raises as `open_port`."""
        sockets = self._sockets.shared(address, len(self.engines), interface)
        return self._add(number, sockets, self.engines, probe_mtu=True)

    def _add(
        self,
        number: int,
        sockets: list[tuple[str, socket.socket]],
        engines: Sequence[Engine],
        *,
        probe_mtu: bool,
    ) -> Address:
        with ExitStack() as stack:
            for name, _ in sockets:
                stack.callback(self._sockets.close, name)
            for (name, sock), engine in zip(sockets, engines, strict=True):
                engine.add_port(number, sock, probe_mtu=probe_mtu)
                self._kept[engine, number] = name, probe_mtu
            stack.pop_all()
        bound: Address = sockets[0][1].getsockname()[:2]
        return bound

    def close_hop_port(self, number: int) -> None:
        """Raises ValueError when there is no such port."""
        for engine in self.engines:
            self._remove(engine, number)

    def close_port(self, number: int, *, shard: int = 0) -> None:
        """Raises ValueError when there is no such port."""
        self._remove(self.engines[shard], number)

    def _remove(self, engine: Engine, number: int) -> None:
        engine.remove_port(number)
        self._sockets.close(self._kept.pop((engine, number))[0])

    def cpu_ns(self) -> list[int | None]:
        """CPU time that each engine's thread has used."""
        return [engine.cpu_ns for engine in self.engines]

    def counters(self) -> dict[str, int]:
        """Counters of all engines, added up."""
        return total(engine.counters() for engine in self.engines)

    def _drain(self, engine: Engine, plane: Plane) -> None:
        with suppress(BlockingIOError):
            os.eventfd_read(engine.event_fd)
        self._handle_events(plane)
        if not engine.alive:
            self._unwatch(engine)
            self._on_failure(f"the packet plane has stopped: {engine.error}. Restart the node.")

    def _unwatch(self, engine: Engine) -> None:
        if self._loop is not None and engine.event_fd >= 0:
            self._loop.remove_reader(engine.event_fd)

    def _handle_events(self, plane: Plane) -> None:
        for event in plane.drain_events():
            try:
                self._on_event(event)
            except Exception as error:
                if self._loop is None:
                    raise
                message = f"an event of the packet plane was not handled: {event[:1]}"
                self._loop.call_exception_handler({"message": message, "exception": error})
