"""`relay doctor`: what is found in facts, each a change of a machine where all is well."""

import errno
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from relay.config import parse
from relay.core.record import Record
from relay.doctor.facts import Directory, Facts, Finding, Kernel, KeyFile, Port, Probe, Unit
from relay.doctor.look import look
from relay.doctor.main import as_json, as_text, examine
from relay.errors import Problem
from relay.wire.health import Digest
from tests.unit.status_sample import sample

KEY = "Xx4GbZUfQd1+cPqnD/MfdvALxiAiYcMX4MBuPUMGh0k="
CONFIG = f"""
[node]
name = "edge-sgp-1"
[hop]
[[hop.peers]]
name = "region-sgp"
address = "region.example:7400"
public_key = "{KEY}"
[fleet]
authority_key = "1ArMVMHPjBKFVZFXBR/0EkjCxBxtZSBTYmhiU0m2ASo="
"""
NOW_S = 1_800_000_000
DAY_S = 86400
HOP = Port("hop.listen", "UDP", "[::]:7400", 7400, 0)
UNIT = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled", "NRestarts": "0"}
DYNAMIC = {"DynamicUser": "yes", "LoadCredential": "node.key:/etc/relay/node.key"}
BOARD = Digest(
    temperature_c=50,
    throttled=False,
    under_voltage=False,
    memory_pressure_permille=0,
    memory_available_permille=800,
    backlog_drops_per_s=0,
    udp_drops_per_s=0,
    nic_errors_per_s=0,
    disk_errors=0,
    disk_read_only=False,
    disk_free_permille=500,
    clock_synchronised=True,
)
KERNEL = Kernel(
    release="6.1.0-28-arm64",
    gso=True,
    gro=True,
    steering=True,
    received=True,
    rmem_max=4194304,
    wmem_max=4194304,
    field_kernel="neon",
    field_kernels=("scalar", "neon"),
    ciphers=("ChaCha20-Poly1305", "AES-256-GCM"),
)
RECORD = Record("edge-sgp-1", "default", bytes(range(32)), NOW_S - 10 * DAY_S, NOW_S + 80 * DAY_S)
WELL = Facts(
    root=True,
    kernel=KERNEL,
    mtus={"eth0": 1500},
    board=BOARD,
    wall_s=NOW_S,
    config_path=Path("/etc/relay/node.toml"),
    config=parse(CONFIG, {}),
    problems=(),
    url="http://127.0.0.1:7480",
    status=None,
    no_status="no node answers",
    ports=(HOP,),
    key=KeyFile(Path("/etc/relay/node.key"), 0o600, 0, True),
    state_dir=Directory(Path("/var/lib/relay"), "writable", 1 << 30),
    record=RECORD,
    systemd=True,
    unit=Unit("relay.service", UNIT | DYNAMIC),
    names={"region.example": ""},
    probes=(Probe("region-sgp", "203.0.113.7:7400", 8, (101.0,) * 8),),
)


def found(facts: Facts, check: str) -> list[Finding]:
    return [finding for finding in examine(facts) if finding.check == check]


def states(facts: Facts, check: str) -> list[str]:
    return [finding.state for finding in found(facts, check)]


def running(**hop: Any) -> Facts:
    """The node answers; `hop` is what it says of its one hop besides."""
    status = sample()
    status["hops"] = [{**status["hops"][0], "loss_ratio": {"send": 0.0, "receive": 0.0}, **hop}]
    status |= {"log": {"warnings": {}, "last": []}, "engine": {"rx_kernel_drops": 0}}
    held = replace(HOP, errno=errno.EADDRINUSE, pids=frozenset([status["node"]["pid"]]), holder="relay")
    return replace(WELL, status=status | {"reasons": [], "notes": []}, ports=(held,), probes=())


def test_all_is_well() -> None:
    assert {f.state for f in examine(running())} == {"ok"}
    assert [f.check for f in examine(WELL) if f.state != "ok"] == ["node"]  # which does not run


def test_what_the_node_tells_of_itself() -> None:
    facts = running()
    assert facts.status is not None
    facts.status["peers"][0]["alarms"] = ["event loop late", "hot"]
    facts.status["engine"]["rx_kernel_drops"] = 7
    facts.status["log"]["warnings"]["hop_silent"] = 2
    (load,) = found(facts, "load")
    assert (load.state, load.seen) == ("warning", "event loop late")  # heat has a check of its own
    assert states(facts, "socket drops") == states(facts, "log") == ["warning"]
    assert "2 hop_silent" in found(facts, "log")[0].seen


def test_every_finding_but_ok_says_what_to_do_in_one_line() -> None:
    nothing = (
        replace(
            WELL,
            board=Digest(),
            mtus={},
            key=KeyFile(WELL.key.path, None, None, False, "no", True),
            record=None,
        )
        if WELL.key
        else WELL
    )
    for facts in (WELL, running(state="silent"), nothing):
        for finding in examine(facts):
            assert "\n" not in finding.seen + finding.do
            assert finding.do or finding.state in ("ok", "unknown")
            assert (finding.state == "unknown") == finding.seen.startswith("cannot tell: ")


def test_what_is_missing_is_unknown_and_never_ok() -> None:
    facts = replace(WELL, board=Digest(), mtus={}, systemd=False, kernel=replace(KERNEL, rmem_max=None))
    for check in ("clock", "temperature", "throttled", "disk free", "mtu", "service", "buffers, rmem_max"):
        assert states(facts, check) == ["unknown"], check


@pytest.mark.parametrize(
    ("check", "kernel", "state"),
    [
        ("kernel", {"release": "4.19.0"}, "warning"),
        ("kernel", {"release": "unnamed"}, "unknown"),
        ("udp gso", {"gso": False}, "warning"),
        ("udp gro", {"gro": False}, "warning"),
        ("steering", {"steering": False}, "ok"),  # one thread
        ("packet thread", {"received": False}, "error"),
        ("processor", {"field_kernel": "scalar"}, "warning"),
        ("buffers, wmem_max", {"wmem_max": 212992}, "warning"),
    ],
)
def test_kernel(check: str, kernel: dict[str, Any], state: str) -> None:
    assert states(replace(WELL, kernel=replace(KERNEL, **kernel)), check) == [state]


def test_threads_need_steering() -> None:
    facts = replace(WELL, config=parse(CONFIG + "[engine]\nthreads = 2\n", {}))
    assert states(replace(facts, kernel=replace(KERNEL, steering=False)), "steering") == ["error"]


def test_machine() -> None:
    hot = replace(BOARD, temperature_c=82, throttled=True, clock_synchronised=False)
    facts = replace(WELL, board=hot, mtus={"eth0": 1500, "wg0": 1200})
    (temperature,) = found(facts, "temperature")
    assert (temperature.state, temperature.seen) == ("warning", "82 °C: hot")
    assert states(facts, "throttled") == states(facts, "clock") == ["warning"]
    assert (states(facts, "mtu of eth0"), states(facts, "mtu of wg0")) == (["ok"], ["error"])


def test_key() -> None:
    key = WELL.key
    assert key is not None
    assert states(replace(WELL, key=replace(key, mode=0o644)), "key") == ["error"]
    assert states(replace(WELL, key=replace(key, mode=None, missing=True)), "key") == ["error"]
    assert states(replace(WELL, key=replace(key, mode=None, why="permission denied")), "key") == ["unknown"]
    hidden = replace(WELL, key=replace(key, readable=False))
    assert states(hidden, "key") == ["ok"]  # systemd reads it
    assert states(replace(hidden, unit=None), "key") == ["unknown"]
    own_unit = replace(WELL, unit=Unit("relay.service", UNIT | {"DynamicUser": "yes"}))
    assert states(own_unit, "key") == ["error"]  # nothing gives it to that user
    no_key = Problem("hop.key_file", "no key in it", "a private key")
    assert states(replace(WELL, problems=(no_key,)), "key") == ["error"]


def test_configuration() -> None:
    wrong = Problem("egress.rtp[0].stream", '"x"', "a stream")
    assert states(replace(WELL, problems=(wrong,)), "configuration") == ["error"]
    unread = Problem("fleet.record_file", "r: a file that this user may not read", "a record")
    assert states(replace(WELL, problems=(unread,)), "configuration") == ["unknown"]
    assert states(replace(WELL, config=None, problems=(wrong,)), "configuration") == ["error"]


def test_state_dir() -> None:
    path = Path("/var/lib/relay")
    for of, state in (
        (Directory(path, "hidden"), "unknown"),
        (Directory(path, "missing"), "ok"),  # systemd makes it
        (Directory(path, "not writable", 1 << 30), "error"),
        (Directory(path, "writable", 1 << 20), "error"),
        (Directory(path, "writable"), "unknown"),
    ):
        assert states(replace(WELL, state_dir=of), "state_dir") == [state], of
    assert states(replace(WELL, unit=None, state_dir=Directory(path, "missing")), "state_dir") == ["error"]


def test_record() -> None:
    day = {"ok": 80, "warning": 20, "error": 0}
    for state, days in day.items():
        facts = replace(
            WELL, record=replace(RECORD, expires_s=NOW_S + days * DAY_S, issued_s=NOW_S - 70 * DAY_S)
        )
        assert states(facts, "record") == [state]
    ahead = replace(RECORD, issued_s=NOW_S + DAY_S)
    assert states(replace(WELL, record=ahead), "record") == ["warning"]
    assert states(replace(WELL, record=None), "record") == ["unknown"]
    revoked = running()
    assert revoked.status is not None
    revoked.status["fleet"]["record"]["revoked"] = True
    assert states(revoked, "record") == ["error"]


@pytest.mark.parametrize(
    ("port", "stopped", "runs"),
    [
        ({"errno": 0}, "ok", "warning"),
        ({"errno": errno.EADDRINUSE}, "error", "unknown"),
        ({"errno": errno.EADDRINUSE, "pids": frozenset([4711])}, "error", "ok"),
        ({"errno": errno.EADDRINUSE, "pids": frozenset([9]), "holder": "other"}, "error", "error"),
        ({"errno": errno.EADDRNOTAVAIL}, "error", "error"),
        ({"errno": errno.EACCES}, "error", "error"),
    ],
)
def test_ports(port: dict[str, Any], stopped: str, runs: str) -> None:
    ports = (replace(HOP, **port),)
    assert states(replace(WELL, ports=ports), "port 7400/udp") == [stopped]
    assert states(replace(running(), ports=ports), "port 7400/udp") == [runs]


def test_service() -> None:
    def service(**properties: str) -> list[str]:
        return states(replace(WELL, unit=Unit("relay.service", UNIT | DYNAMIC | properties)), "service")

    assert service(ActiveState="failed", Result="exit-code") == ["error"]
    assert service(ActiveState="inactive") == ["warning"]
    assert service(LoadState="not-found") == ["error"]
    assert service(NRestarts="3") == ["ok", "warning"]
    assert service(NeedDaemonReload="yes") == ["ok", "warning"]
    disabled = replace(WELL, unit=Unit("relay.service", UNIT | DYNAMIC | {"UnitFileState": "disabled"}))
    assert states(disabled, "service at boot") == ["warning"]


def test_peers_of_a_running_node() -> None:
    assert states(running(loss_ratio={"send": 0.3, "receive": 0.0}), "peer region-sgp") == ["warning"]
    assert states(running(loss_ratio={"send": None, "receive": 0.6}), "peer region-sgp") == ["error"]
    assert states(running(mtu=1232), "peer region-sgp") == ["warning"]
    (silent,) = found(running(state="silent"), "peer region-sgp")
    assert silent.state == "error" and "7 replayed" in silent.seen
    assert states(running(peer="other"), "peer region-sgp") == ["warning"]  # not reloaded


def test_peers_of_a_node_that_does_not_run() -> None:
    answered = Probe("region-sgp", "203.0.113.7:7400", 8, (101.0,) * 4)
    (finding,) = found(replace(WELL, probes=(answered,)), "peer region-sgp")
    assert finding.state == "warning" and "about 29% lost each way" in finding.seen
    assert states(replace(WELL, probes=(replace(answered, rtts_ms=()),)), "peer region-sgp") == ["error"]
    assert states(replace(WELL, probes=(replace(answered, error="no"),)), "peer region-sgp") == ["error"]
    assert states(replace(WELL, probes=(), no_probes="the port is in use"), "peer region-sgp") == ["unknown"]
    assert states(replace(WELL, names={"region.example": "no such name"}), "name region.example") == ["error"]
    called = replace(WELL, config=parse(CONFIG.replace('address = "region.example:7400"', ""), {}), probes=())
    assert states(called, "peer region-sgp") == ["unknown"]


def test_text_and_json() -> None:
    facts = replace(WELL, mtus={"eth0": 900}, root=False)
    findings = examine(facts)
    text = as_text(facts, findings).splitlines()
    assert (
        text[0].startswith("ok ")
        and text[-4].startswith("error    mtu of eth0")
        and " -> ip link" in text[-3]
    )
    assert text[-1].startswith("1 error, 0 warning, 1 unknown") and "root would see more" in text[-1]
    content = json.loads(as_json(facts, findings))
    assert content["counts"]["error"] == 1 and content["status"] is None
    assert content["config"]["node"]["name"] == "edge-sgp-1"
    assert content["findings"][0].keys() == {"check", "state", "seen", "do"}


def test_what_a_peer_says_is_no_line_of_its_own() -> None:
    text = as_text(WELL, [Finding("peer x", "error", "a\n\x1b[2Jb", "c\nd")])
    assert "\x1b" not in text and len(text.splitlines()) == 4


def test_looking_at_this_machine_changes_nothing_and_needs_no_node(tmp_path: Path) -> None:
    config = tmp_path / "node.toml"
    config.write_text(f'[node]\nname = "a"\nstate_dir = "{tmp_path}"\n[ops]\nlisten = "127.0.0.1:9"\n')

    facts = look(config, None, {})
    assert facts.kernel.received and facts.kernel.field_kernel in facts.kernel.field_kernels
    assert facts.config is not None and facts.problems == () and facts.status is None
    assert [port.path for port in facts.ports] == ["ops.listen"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["node.toml"]
    assert look(tmp_path / "none.toml", None, {}).config is None
