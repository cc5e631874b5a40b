"""Sockets that outlive a process: which is used again, and what is no longer kept."""

import socket
from collections.abc import Iterator

import pytest

from relay.services.sockets import PortError, Sockets

HOST = "127.0.0.1"


class Keeper:
    """Has a copy of each, as systemd has."""

    def __init__(self) -> None:
        self.copies: dict[str, socket.socket] = {}

    def keep(self, name: str, sock: socket.socket) -> None:
        self.copies[name] = sock.dup()

    def drop(self, name: str) -> None:
        self.copies.pop(name).close()

    def left(self) -> dict[str, socket.socket]:
        return {name: sock.dup() for name, sock in self.copies.items()}


@pytest.fixture
def keeper() -> Iterator[Keeper]:
    of = Keeper()
    yield of
    for sock in of.copies.values():
        sock.close()


def test_the_next_process_gets_the_same_sockets(keeper: Keeper) -> None:
    first = Sockets(keeper, {})
    _, ingest = first.udp((HOST, 0))
    hops = [sock.getsockname() for _, sock in first.shared((HOST, 0), 2, None)]
    name = ingest.getsockname()
    first.release()
    second = Sockets(keeper, keeper.left())
    assert second.udp((HOST, 0))[1].getsockname() == name
    assert [sock.getsockname() for _, sock in second.shared((HOST, 0), 2, None)] == hops
    assert len(keeper.copies) == 3
    second.release()


def test_a_port_is_free_once_it_is_closed(keeper: Keeper) -> None:
    sockets = Sockets(keeper, {})
    name, sock = sockets.udp((HOST, 0))
    address = sock.getsockname()
    sockets.close(name)
    assert keeper.copies == {}
    sockets.udp(address)
    sockets.release()


def test_what_is_in_the_way_goes(keeper: Keeper) -> None:
    """After a change of configuration while the process was away."""
    first = Sockets(keeper, {})
    (_, sock), _ = first.shared((HOST, 0), 2, None)
    _, port = sock.getsockname()
    first.release()
    second = Sockets(keeper, keeper.left())
    ((_, alone),) = second.shared((HOST, port), 1, None)
    assert alone.getsockname() == (HOST, port)
    assert list(keeper.copies) == [f"hop 1 {HOST} {port} - 0"]
    second.release()


def test_two_that_are_asked_for_alike_are_two(keeper: Keeper) -> None:
    sockets = Sockets(keeper, {})
    (one, a), (two, b) = sockets.udp((HOST, 0)), sockets.udp((HOST, 0))
    assert one != two and a.getsockname() != b.getsockname()
    sockets.release()


def test_what_nobody_asks_for_is_closed_at_last(keeper: Keeper) -> None:
    Sockets(keeper, {}).udp((HOST, 0))[1].close()
    Sockets(keeper, keeper.left()).close_left()
    assert keeper.copies == {}


def test_names_are_fit_for_systemd(keeper: Keeper) -> None:
    sockets = Sockets(keeper, {})
    name, _ = sockets.udp(("::1", 0))
    assert ":" not in name and name.isascii() and name.isprintable()
    sockets.release()


def test_a_port_of_somebody_else(keeper: Keeper) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind((HOST, 0))
        with pytest.raises(PortError, match="in use"):
            Sockets(keeper, {}).udp(taken.getsockname())
    assert keeper.copies == {}
