"""Upgrade by hand-over: real processes, a stream at full rate, and nothing lost; or nothing changed."""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from relay.client import call
from relay.lab.receiver import free_port
from tests.integration.nodes import Sender, engine_toml, sender, wait_for
from tests.integration.service import RELAY, Service, service
from tests.integration.test_service import Pair, Player, more, playing, playing_through, sending

RATE = 5200
"""Packets/s of 1200 bytes: 50 Mb/s."""


@contextmanager
def numbered(source: Sender, size: int = 1188) -> Iterator[None]:
    """Media whose packets say which they are."""
    with sending(source, lambda: source.seq.to_bytes(8, "big") + bytes(size - 8)):
        yield


def complete(player: Player, source: Sender) -> bool:
    """From the first packet that came to the last that was sent, each once and in order. A wait for the last
    one, then the verdict."""

    def numbers() -> list[int]:
        return [int.from_bytes(packet[12:20], "big") for packet in player.packets]

    wait_for("the last packet", lambda: numbers()[-1] == source.seq - 1)
    found = numbers()
    return found == list(range(found[0], source.seq))


def upgraded(of: Service) -> None:
    before, done = of.pid, of.logged(" handed_over ")
    of.signal(signal.SIGUSR2)
    wait_for("hand-over", lambda: of.logged(" handed_over ") == done + 1)
    wait_for("another main process", lambda: of.pid != before)


def pauses_ms(of: Service) -> list[float]:
    lines = [line for line in of.log.read_text().splitlines() if " handed_over " in line]
    return [float(line.split("pause_ms=")[1].split()[0]) for line in lines]


def test_nothing_is_lost_at_50_mbps(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    with service(pair.region) as region, service(pair.edge) as edge, playing(pair.player) as player:
        with sender(pair.ingest, rate=RATE) as source:
            with numbered(source):
                more(player, RATE // 2)
                for _ in range(2):
                    upgraded(edge)
                    more(player, RATE // 2)
                    upgraded(region)
                    more(player, RATE // 2)
            assert complete(player, source)
        print(f"pauses, ms: edge {pauses_ms(edge)}, region {pauses_ms(region)}, {player.pause() * 1e3:.0f}")
        assert edge.logged("new_process=true") == region.logged("new_process=true") == 1
        assert edge.said["STOPPING=1"] == region.said["STOPPING=1"] == 0
        for of in (region, edge):  # which goes on as any other does
            fed = of.said["WATCHDOG=1"]
            wait_for("food for the watchdog", lambda of=of, fed=fed: of.said["WATCHDOG=1"] > fed + 2)
            of.signal(signal.SIGTERM)
            wait_for("the end", lambda of=of: of.said["STOPPING=1"] == 1)


def test_the_next_process_has_the_configuration_as_it_is_then(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    with playing_through(pair) as (region, _, player):
        text = pair.region.read_text()
        pair.region.write_text(text.replace(f":{pair.player}", f":{pair.player + 50}"))
        upgraded(region)
        wait_for("reload", lambda: region.logged("reloaded"))
        wait_for("silence", lambda: time.monotonic() - player.times[-1] > 0.1)
        pair.region.write_text(text)
        region.signal(signal.SIGHUP)
        more(player)


def test_what_the_next_process_opens_is_kept_as_well(tmp_path: Path) -> None:
    """Systemd hears it only when it is the main process."""
    pair = Pair(tmp_path)
    with service(pair.edge) as edge:
        other = free_port(2)
        pair.edge.write_text(pair.edge.read_text().replace(f":{pair.ingest}", f":{other}"))
        upgraded(edge)
        wait_for("another socket", lambda: f"udp 0 127.0.0.1 {other} - 0" in edge.store)
        wait_for("the end of the old one", lambda: f"udp 0 127.0.0.1 {pair.ingest} - 0" not in edge.store)


def test_after_a_crash_of_the_next_process_the_sockets_are_still_kept(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    with playing_through(pair) as (region, _, player):
        kept = region.inodes()
        upgraded(region)
        region.signal(signal.SIGKILL)
        region.start()
        more(player)
        assert region.inodes() == kept


# ---- what fails ---------------------------------------------------------------------------------

BEGIN = f"""#!{sys.executable}
import json, os, sys, time
from relay.services.handover import *
sys.stdin.close()
of = Predecessor(int(os.environ[FD]))
"""
READY_THEN = """
of.hello()
of.receive_sockets(3)
of.receive(DECISIONS, 3)
of.send(READY)
of.receive(EVENTS, 3)
of.receive(PACKETS, 3)
"""
FAILURES = {
    "cannot be started": ("", "cannot be started"),
    "ends at once": (BEGIN, "ended before it was ready"),
    "has another format": (BEGIN + "of.send(HELLO, b'{}')", "upgrade by a restart"),
    "ends early": (BEGIN + "of.hello()\nof.receive(SOCKETS, 3)", "ended|takes n"),
    "is never ready": (BEGIN + "of.hello()\ntime.sleep(60)", "does not answer"),
    "ends late": (BEGIN + READY_THEN, "has ended"),
    "never goes on": (BEGIN + READY_THEN + "time.sleep(60)", "does not answer"),
}


def replaceable(directory: Path) -> Path:
    """The program in a file of its own, where the next version can be put."""
    program = directory / "relay"
    program.write_text(RELAY.read_text())
    program.chmod(0o755)
    return program


@pytest.mark.parametrize("failure", FAILURES)
def test_a_successor_that_fails_changes_nothing(failure: str, tmp_path: Path) -> None:
    script, sentence = FAILURES[failure]
    program = replaceable(tmp_path)
    pair = Pair(tmp_path)
    with (
        service(pair.region, program=program) as region,
        service(pair.edge) as edge,
        playing(pair.player) as player,
    ):
        with sender(pair.ingest, rate=400) as source:
            with numbered(source):
                more(player)
                before = region.pid
                program.write_text(script)
                region.signal(signal.SIGUSR2)
                wait_for("failure", lambda: region.logged(" handover_failed "))
                more(player)
                program.write_text(RELAY.read_text())
                upgraded(region)  # the next attempt
                more(player)
            assert complete(player, source)
        (line,) = [line for line in region.log.read_text().splitlines() if " handover_failed " in line]
        assert any(word in line for word in sentence.split("|")), line
        assert region.pid != before and edge.logged("hop_") == 1


def test_a_successor_that_does_not_begin_is_a_crash(tmp_path: Path) -> None:
    """Once told to go on it may have sent something: the keys are its own, and nobody goes on with them."""
    program = replaceable(tmp_path)
    pair = Pair(tmp_path)
    with playing_through(pair, program) as (region, edge, player):
        kept, before = region.inodes(), region.pid
        program.write_text(BEGIN + READY_THEN + "of.send(TAKEN)\nof.receive(GO, 3)\ntime.sleep(60)")
        region.signal(signal.SIGUSR2)
        assert region.ended() == 1
        assert region.pid == before and region.logged("has not begun") == 1
        program.write_text(RELAY.read_text())
        region.start()
        more(player)
        assert region.inodes() == kept
        assert edge.logged("new_process=true") == 2


def test_a_node_that_drains_is_not_handed_over(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    with playing_through(pair) as (region, _, player):
        before = region.pid
        call(f"http://127.0.0.1:{pair.region_ops}", "/v1/drain", {"timeout_seconds": None})
        region.signal(signal.SIGUSR2)
        wait_for("refusal", lambda: region.logged(" handover_failed "))
        assert "the node drains: start the new version when it has ended" in region.log.read_text()
        more(player)  # nobody else takes the stream
        assert region.pid == before


def test_several_threads_are_not_handed_over(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    pair.region.write_text(pair.region.read_text() + "\n" + engine_toml(2))
    with service(pair.region) as region:
        region.signal(signal.SIGUSR2)
        wait_for("refusal", lambda: region.logged("handover_failed"))
        assert "threads is 2" in region.log.read_text()
