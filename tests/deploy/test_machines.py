"""A fleet from nothing, by deploy/ansible and under a real systemd. With a stream running it is upgraded,
harmed, and given a release that does not hold."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.deploy.fleet import Fleet
from tests.deploy.machine import Machine
from tests.deploy.stream import Stream
from tests.integration.nodes import wait_for

pytestmark = pytest.mark.deploy

CRASH_SECONDS = 3.0
"""docs/operations.md has what it is; this bounds what a busy machine may make of it."""
HANG_SECONDS = 10 + 5 + CRASH_SECONDS
"""WatchdogSec, TimeoutStopSec, and a crash."""
EXPOSURE_MOST = 1.5
DROPPED = ("dropped_audio", "dropped_key", "dropped_discardable", "dropped_media")


def restarted(machine: Machine, by: str, patience: float = 10.0) -> None:
    """Sends a signal to the node, and waits until systemd has started it anew, with the sockets it had."""
    before, kept = int(machine.unit("NRestarts")), int(machine.unit("NFileDescriptorStore"))
    machine.signal(by)
    wait_for(f"restart of {machine.name}", lambda: int(machine.unit("NRestarts")) > before, patience)
    wait_for(f"readiness of {machine.name}", lambda: machine.unit("SubState") == "running")
    assert int(machine.unit("NFileDescriptorStore")) == kept > 2


@contextmanager
def nothing_lost(fleet: Fleet, stream: Stream, what: str) -> Iterator[None]:
    """But what the edge itself did not send: where a machine has no time for its nodes, packets wait as they
    do before a narrow link, and the edge does as there (docs/congestion.md). On a quiet machine that is none.
    """

    def dropped() -> int:
        return sum(hop["drops"][of] for hop in fleet.edge.status()["hops"] for of in DROPPED)

    before = dropped()
    with stream.meanwhile(what) as harm:
        yield
    assert harm.lost <= dropped() - before


def test_a_trial_run_changes_nothing(fleet: Fleet) -> None:
    play = fleet.play("--check", "--diff")
    assert play.failed == {"region": 0, "edge": 0}, play.output
    for machine in fleet.both:
        assert machine.sh("ls /opt /etc/relay 2>&1", check=False).count("No such file") == 1


def test_it_is_installed(fleet: Fleet, stream: Stream) -> None:
    play = fleet.play()
    assert play.failed == {"region": 0, "edge": 0}, play.output
    fleet.region.sh("touch /etc/relay/node.toml")  # as if that play had ended before the reload
    assert fleet.region.status()["node"]["unapplied"]
    with nothing_lost(fleet, stream, "a second run"):
        play = fleet.play()
    assert play.failed == {"region": 0, "edge": 0}, play.output
    assert play.changed == {"region": 1, "edge": 0}, play.output
    assert len(fleet.region.journal("reloaded")) == 1
    assert not fleet.region.status()["node"]["unapplied"]


def test_it_can_do_little(fleet: Fleet) -> None:
    pid = fleet.edge.unit("MainPID")
    status = dict(
        line.split(":\t") for line in fleet.edge.sh(f"cat /proc/{pid}/status").splitlines() if ":\t" in line
    )
    assert int(status["CapBnd"], 16) == 0 and status["NoNewPrivs"] == "1" and status["Seccomp"] == "2"
    uid = status["Uid"].split()[0]
    assert 61184 <= int(uid) <= 65519  # DynamicUser=
    assert fleet.edge.sh("stat --format='%a %u' /etc/relay/node.key /var/lib/relay/") == f"600 0\n700 {uid}\n"
    said = fleet.edge.sh("systemd-analyze security --no-pager relay")
    exposure = re.search(r"Overall exposure level for relay.service: (\d+\.\d+)", said)
    assert exposure and float(exposure[1]) <= EXPOSURE_MOST


def test_the_journal_has_fields(fleet: Fleet) -> None:
    (entry,) = fleet.region.journal("stream_received")
    assert (entry["RELAY_STREAM"], entry["RELAY_PEER"]) == ("studio", "edge")
    assert entry["RELAY_LOGGER"].startswith("relay.") and entry["PRIORITY"] == "6"
    assert entry["_SYSTEMD_UNIT"] == "relay.service" and entry["SYSLOG_IDENTIFIER"] == "relay"


def test_a_wrong_configuration_is_refused(fleet: Fleet, stream: Stream) -> None:
    region = fleet.region
    pid = region.unit("MainPID")
    with nothing_lost(fleet, stream, "a wrong configuration"):
        region.sh("cp /etc/relay/node.toml /root && echo nonsense >>/etc/relay/node.toml")
        region.sh("systemctl reload relay")
        wait_for("refusal", lambda: region.unit("StatusText").startswith("configuration refused: syntax"))
        region.sh("mv /root/node.toml /etc/relay && systemctl reload relay")
        wait_for("reload", lambda: region.unit("StatusText").startswith("running"))
    (entry,) = region.journal("reload_refused")
    assert "line" in entry["RELAY_ERROR"] and entry["PRIORITY"] == "3"
    assert region.unit("MainPID") == pid


def test_an_upgrade_loses_nothing(fleet: Fleet, stream: Stream) -> None:
    before = [machine.unit("MainPID") for machine in fleet.both]
    with nothing_lost(fleet, stream, "upgrade of both by hand-over"):
        play = fleet.release("0.1.1")
    assert play.failed == {"region": 0, "edge": 0}, play.output
    for machine, pid in zip(fleet.both, before, strict=True):
        (done,) = machine.journal("handed_over")
        print(f"pause of {machine.name}: {done['RELAY_PAUSE_MS']} ms", end=" ")
        assert (done["_PID"], done["RELAY_PID"]) == (pid, machine.unit("MainPID"))
        assert machine.unit("NRestarts") == "0"
        assert machine.unit("StatusText") == "running, version 0.1.1"


def test_a_node_that_hangs_is_ended_by_the_watchdog(fleet: Fleet, stream: Stream) -> None:
    """One that has come by hand-over."""
    with stream.meanwhile("SIGSTOP of the edge, and the watchdog") as harm:
        restarted(fleet.edge, "SIGSTOP", HANG_SECONDS)
    assert harm.pause < HANG_SECONDS
    said = fleet.edge.sh("journalctl --unit=relay --grep='Failed with result'")
    assert said.count("'watchdog'") == 1


def test_a_node_that_crashes_has_its_sockets_back(fleet: Fleet, stream: Stream) -> None:
    for machine in fleet.both:
        with stream.meanwhile(f"SIGKILL of the {machine.name}") as harm:
            restarted(machine, "SIGKILL")
        assert harm.pause < CRASH_SECONDS


def test_a_full_disk_is_told_and_does_no_harm(fleet: Fleet, stream: Stream) -> None:
    def wrong() -> list[str]:
        return [alarm for peer in fleet.edge.status()["peers"] for alarm in peer["alarms"]]

    with nothing_lost(fleet, stream, "a full disk on the edge"):
        assert "disk full" not in wrong()
        fleet.edge.sh("cat /dev/zero >/full", check=False)
        assert fleet.edge.sh("df --output=avail / | tail -n 1").strip() == "0"
        wait_for("alarm", lambda: "disk full" in wrong())
    with stream.meanwhile("SIGKILL of the edge on a full disk") as harm:
        restarted(fleet.edge, "SIGKILL")
    assert harm.pause < CRASH_SECONDS
    fleet.edge.sh("rm /full")
    wait_for("end of the alarm", lambda: "disk full" not in wrong())


def test_a_release_that_does_not_hold_is_taken_back(fleet: Fleet, stream: Stream) -> None:
    """Its process takes over, and crashes a second later, again and again. The next machine never gets it."""
    before = fleet.edge.unit("MainPID")
    crash = (
        "relay/node.py",
        "        gc.freeze()",
        "        loop.call_later(1, os.abort)\n        gc.freeze()",
    )
    with stream.meanwhile("a release that crashes on the region, and the way back"):
        play = fleet.release("0.1.2", crash)
    assert play.failed == {"region": 1, "edge": 0}, play.output
    assert "region is back at release 0.1.1" in play.output
    assert [machine.status()["node"]["version"] for machine in fleet.both] == ["0.1.1", "0.1.1"]
    assert fleet.edge.unit("MainPID") == before
    assert fleet.region.sh("readlink /opt/relay/current") == "releases/0.1.1\n"
