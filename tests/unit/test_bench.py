"""The arithmetic of `relay bench`, what it reads of a board, and what it says."""

import gzip
import json
import platform
import resource
from collections.abc import Callable
from pathlib import Path

import pytest

from relay.bench import machine
from relay.bench.capacity import SHARE, Capacity, judge, search
from relay.bench.kernels import Cipher, Kernel, ns_each
from relay.bench.machine import Heat, Machine, heat, throttled
from relay.bench.main import allow_files
from relay.bench.report import Report, Scenario, as_json, as_text, notes, sentences
from relay.bench.rig import PACKET_BYTES, STREAM_BPS, STREAM_PPS, Round
from relay.errors import RelayError


def load(
    pps: float,
    *,
    cost_ns: float = 4000,
    lost: float = 0.0,
    fan: int = 1,
    waited: float = 0.0,
    refused: dict[str, int] | None = None,
    link_loss: float = 0.0,
) -> Round:
    """A second of it. `lost` and `waited` are shares, of the packets and of the time."""
    offered = int(pps)
    return Round(
        seconds=1.0,
        offered=offered,
        expected=offered * fan,
        arrived=offered * fan - int(offered * fan * lost),
        cpu_ns={"forwarder": int(offered * cost_ns)},
        waited_ns={"forwarder": int(waited * 1e9)},
        bytes_sent={"forwarder": offered * fan * PACKET_BYTES},
        refused=refused or {},
        link_loss=link_loss,
    )


def test_a_stream_has_two_megabits() -> None:
    assert pytest.approx(2e6, rel=0.01) == STREAM_BPS


# ---- the choice of loads ------------------------------------------------------------------------


def board(knee_pps: float, generator_pps: float) -> tuple[Callable[[float, float], Round], list[float]]:
    """A node that carries `knee_pps`, a generator that makes `generator_pps`; what it was asked for."""
    asked = []

    def offer(pps: float, seconds: float) -> Round:
        asked.append(pps)
        rate = min(pps, generator_pps)
        return load(rate, lost=max(0.0, 1 - knee_pps / rate))

    return offer, asked


def test_offers_what_the_first_load_makes_expect_and_stops_where_it_is_carried() -> None:
    offer, asked = board(knee_pps=1e6, generator_pps=1e6)
    assert len(search(offer, 5000, 0.5, 1.5, 3)) == 2
    assert asked == [5000, pytest.approx(SHARE * 1e9 / 4000)]
    (node,) = judge(search(offer, 5000, 0.5, 1.5, 3), 1, None)
    assert node.reached and node.not_reached_because is None and node.limit == "packet_thread"
    assert node.packets_per_second == pytest.approx(200_000)
    assert node.streams == 200_000 // STREAM_PPS
    assert node.mbps == pytest.approx(1920)


def test_halves_a_load_that_is_lost() -> None:
    offer, asked = board(knee_pps=60_000, generator_pps=1e6)
    loads = search(offer, 5000, 0.5, 1.5, 3)
    assert asked == [5000, 200_000, 100_000, 50_000]
    (node,) = judge(loads, 1, None)
    assert node.reached_packets_per_second == 50_000
    assert node.not_reached_because == "loss" and not node.reached


def test_stops_where_the_generator_comes_no_further() -> None:
    offer, asked = board(knee_pps=1e6, generator_pps=30_000)
    (node,) = judge(search(offer, 5000, 0.5, 1.5, 3), 1, None)
    assert len(asked) == 2
    assert node.not_reached_because == "load_generator"
    assert node.reached_packets_per_second == 30_000
    assert node.packets_per_second == pytest.approx(200_000)


def test_goes_on_where_a_heavier_load_proved_cheaper() -> None:
    asked = []

    def offer(pps: float, seconds: float) -> Round:
        asked.append(pps)
        return load(pps, cost_ns=5000 if pps < 10_000 else 2500)

    loads = search(offer, 5000, 0.5, 1.5, 3)
    assert asked == [5000, pytest.approx(160_000), pytest.approx(320_000)]
    assert judge(loads, 1, None)[0].reached


def test_a_board_that_carries_nothing_is_reported_and_not_divided_by() -> None:
    silent = Round(1.0, 0, 0, 0, {"forwarder": 0}, {"forwarder": 0}, {"forwarder": 0}, {})
    (node,) = judge([silent, silent], 50, 1000)
    assert node.reached_packets_per_second == 0 and not node.reached
    (node,) = judge([load(5000, lost=0.5)], 1, None)
    assert node.reached_packets_per_second == 0 and node.not_reached_because == "loss"


# ---- what is the limit --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failed", "limit", "obstacle"),
    [
        (load(100_000, lost=0.5, refused={"rx_kernel_drops": 9}), "receive_buffer", "loss"),
        (load(100_000, lost=0.5, refused={"tx_would_block": 9}), "send_buffer", "loss"),
        (load(100_000, lost=0.5, refused={"slabs_exhausted": 9}), "packet_memory", "loss"),
        (load(100_000, lost=0.5, waited=0.5, refused={"rx_kernel_drops": 9}), "packet_thread", "cores"),
        (load(100_000, lost=0.5, cost_ns=9000, refused={"rx_kernel_drops": 9}), "packet_thread", "loss"),
        (load(100_000, lost=0.5, link_loss=0.4), "packet_thread", "load_generator"),
    ],
)
def test_the_limit_and_what_stood_in_the_way(failed: Round, limit: str, obstacle: str) -> None:
    (node,) = judge([load(5000), failed], 1, None)
    assert (node.limit, node.not_reached_because) == (limit, obstacle)


def test_a_network_card_that_is_slower_than_the_packet_thread_is_the_limit() -> None:
    (node,) = judge([load(20_000, fan=50)], 50, 1000)
    assert node.cpu_ns_per_packet == pytest.approx(80)
    assert node.limit == "network_card"
    assert node.network_card_streams == int(1e9 / STREAM_BPS)
    assert judge([load(20_000, fan=50)], 50, 1_000_000)[0].limit == "packet_thread"


# ---- kernels ------------------------------------------------------------------------------------


def test_times_what_costs_seven_ns_each() -> None:
    now = 0

    def run(times: int) -> None:
        nonlocal now
        now += 7 * times

    assert ns_each(run, 0.001, lambda: now) == pytest.approx(7)


def test_open_files_are_allowed_or_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = (100, 400)
    granted = []
    monkeypatch.setattr(resource, "getrlimit", lambda what: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda what, pair: granted.append(pair))
    allow_files(100)
    assert granted == []
    allow_files(400)
    assert granted == [(400, 400)]
    with pytest.raises(RelayError, match="ulimit -n 401"):
        allow_files(401)


# ---- the board ----------------------------------------------------------------------------------


def put(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


PI = {
    "proc/cpuinfo": "processor\t: 0\nBogoMIPS\t: 108.00\n",
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "sys/class/net/eth0/speed": "1000\n",
    "sys/class/net/eth0/operstate": "up\n",
    "sys/class/net/eth0/device/vendor": "",
    "sys/class/net/wlan0/operstate": "up\n",
    "sys/class/net/wlan0/device/vendor": "",
    "sys/class/net/eth1/speed": "-1\n",
    "sys/class/net/eth1/operstate": "up\n",
    "sys/class/net/eth1/device/vendor": "",
    "sys/class/net/tun0/speed": "10000\n",
    "sys/class/net/tun0/operstate": "up\n",
    "sys/class/thermal/thermal_zone0/temp": "61300\n",
    "sys/class/thermal/thermal_zone1/temp": "garbage\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2400000\n",
    "sys/devices/platform/soc@107c000000/soc@107c000000:firmware/get_throttled": "50000\n",
}


def test_reads_a_board(tmp_path: Path) -> None:
    put(tmp_path, PI)
    facts = machine.read(tmp_path)
    assert facts.cpu == "Raspberry Pi 5 Model B Rev 1.0"
    assert facts.network_cards == {"eth0": 1000} and facts.network_mbps == 1000
    assert facts.virtual is None and facts.cores >= 1
    assert heat(tmp_path) == Heat(61.3, 2400, (), ("under-voltage", "throttled"), 0)


def test_reads_nothing_where_there_is_nothing(tmp_path: Path) -> None:
    facts = machine.read(tmp_path)
    assert facts.cpu is None and facts.network_mbps is None
    assert heat(tmp_path) == Heat(None, None, (), (), 0)


def test_how_the_kernel_accounts_interrupts_is_read_from_its_configuration(tmp_path: Path) -> None:
    assert machine.read(tmp_path).irq_time_accounting is None
    put(tmp_path, {f"boot/config-{platform.release()}": "# CONFIG_IRQ_TIME_ACCOUNTING is not set\n"})
    assert machine.read(tmp_path).irq_time_accounting is False
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/config.gz").write_bytes(gzip.compress(b"CONFIG_IRQ_TIME_ACCOUNTING=y\n"))
    assert machine.read(tmp_path).irq_time_accounting is True


def test_throttling_counts_from_the_first_reading_on(tmp_path: Path) -> None:
    put(tmp_path, PI)
    count = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count"
    firmware = next(name for name in PI if name.endswith("get_throttled"))
    readings = [heat(tmp_path)]
    assert throttled([*readings, heat(tmp_path)]) == ()  # the bits of before the first reading say nothing
    put(tmp_path, {count: "3\n", firmware: "50008\n"})
    readings.append(heat(tmp_path))
    put(tmp_path, {firmware: "70000\n"})
    assert throttled([*readings, heat(tmp_path)]) == ("clock capped", "soft temperature limit", "throttled")


# ---- what it says -------------------------------------------------------------------------------


def node(role: str, pps: float = 42_123, **changes: object) -> Capacity:
    fields: dict[str, object] = {
        "role": role,
        "cpu_ns_per_packet": 1e9 / pps,
        "packets_per_second": pps,
        "reached_packets_per_second": pps,
        "waited_ratio": 0.0,
        "lost": 0,
        "reached": True,
        "not_reached_because": None,
        "limit": "packet_thread",
        "sent_bytes_per_packet": 1200.0,
        "network_card_streams": None,
    }
    return Capacity(**fields | changes)  # type: ignore[arg-type]


def report(
    *nodes: Capacity, readings: tuple[Heat, ...] = (), receive_buffer: int = 8 << 20, accounted: bool = False
) -> Report:
    cold = Heat(40.0, 1500.0, (), (), 0)
    return Report(
        machine=Machine("a board", "aarch64", 4, "6.12", None, accounted, {"eth0": 1000}),
        scenarios=(Scenario("full hop", 1, nodes, (load(5000),)),),
        kernels=(Kernel("scalar", False, 0.5, 0.6), Kernel("neon", True, 5.0, 6.0)),
        ciphers=(Cipher(1, "ChaCha20-Poly1305", 300.0, 310.0),),
        hop_cipher="ChaCha20-Poly1305",
        heat=(cold, *readings) if readings else (cold, cold),
        receive_buffer=receive_buffer,
    )


def test_says_in_plain_words_what_is_carried_and_what_the_limit_is() -> None:
    assert sentences(report(node("edge"), node("region", limit="network_card", network_card_streams=95))) == [
        "Carries about 200 streams of 2 Mb/s from encoder to region as an edge on one core; "
        "the limit is the packet thread's CPU.",
        "Carries about 200 streams of 2 Mb/s from edge to receiver as a region on one core; "
        "the limit is the network card, which 95 fill.",
    ]


def test_notes_say_what_was_not_reached_and_what_held_the_board_back() -> None:
    assert len(notes(report(node("edge")))) == 1
    hot = Heat(85.0, 1000.0, ("throttled",), ("throttled",), 0)
    slow = node(
        "edge",
        reached=False,
        not_reached_because="cores",
        reached_packets_per_second=2100.0,
        waited_ratio=0.5,
    )
    text = " ".join(notes(report(slow, readings=(hot,), receive_buffer=425_984, accounted=True)))
    assert "leaves out of the figures what sending costs" in text
    assert "10 streams were carried here; nodes and load generator had too few cores" in text
    assert "The packet thread had to wait for a CPU" in text
    assert "416 KB" in text and "net.core.rmem_max" in text
    assert "held back while it was measured (throttled)" in text


def test_the_table_and_the_json_hold_the_same() -> None:
    of = report(node("edge"), node("region", 60_000))
    text = as_text(of)
    assert "hop, edge" in text and "40 C before, 40 C after" in text and "neon (in use)" in text
    as_read = json.loads(json.dumps(as_json(of)))
    assert [n["name"] for n in as_read["forwarding"]] == ["edge", "region"]
    assert [n["streams"] for n in as_read["forwarding"]] == [200, 285]
    assert as_read["summary"] == sentences(of)
    assert all(line in text for line in as_read["summary"])
