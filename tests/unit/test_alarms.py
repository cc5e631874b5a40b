"""The alarms for Prometheus: each is raised by what it is for, rests otherwise, and is explained. The
dashboard for Grafana: what it asks for is well-formed, and each panel has a place of its own."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "relay.json"
PROMTOOL = shutil.which(ROOT / ".venv" / "bin" / "promtool") or shutil.which("promtool")
TEXT = RULES.read_text()
ALARMS: list[str] = re.findall(r"^ +- alert: (\w+)$", TEXT, re.MULTILINE)
NODE = 'instance="a:1", job="relay"'
STREAM = f'{NODE}, stream="s", kind="video", index="0"'
HOP = f'{NODE}, peer="b"'
DELIVERED = f"relay_track_delivered_packets_total{{{STREAM}}}"
CASES = {
    "RelayDown": ({f"up{{{NODE}}}": "0x60"}, {f"up{{{NODE}}}": "1x60"}),
    "RelayNotReady": (
        {f"relay_node_ready_ratio{{{NODE}}}": "0x60"},
        {f"relay_node_ready_ratio{{{NODE}}}": "1x60"},
    ),
    "RelayRestarts": (
        {f"relay_node_uptime_seconds{{{NODE}}}": "9x40 1 9 1 9 1 9x20"},
        {f"relay_node_uptime_seconds{{{NODE}}}": "0+60x30 0+60x30"},
    ),
    "RelayDrainsTooLong": (
        {f"relay_node_draining_ratio{{{NODE}}}": "0x40 1x20"},
        {f"relay_node_draining_ratio{{{NODE}}}": "0x55 1x5"},
    ),
    "RelayStreamStalled": (
        {
            f"relay_track_rate_bytes{{{STREAM}}}": "9x55 0x5",
            f"relay_track_received_packets_total{{{STREAM}}}": "0+9x55 495x5",
        },
        {
            f"relay_track_rate_bytes{{{STREAM}}}": "9x20 0x40",
            f"relay_track_received_packets_total{{{STREAM}}}": "0+9x20 180x40",
        },
    ),
    "RelayStreamWaits": (
        {f'relay_stream_waiting_ratio{{{NODE}, stream="s"}}': "1x60"},
        {f'relay_stream_waiting_ratio{{{NODE}, stream="s"}}': "0x60"},
    ),
    "RelayResidualLoss": (
        {DELIVERED: "0+998x60", f"relay_track_lost_packets_total{{{STREAM}}}": "0+2x60"},
        {DELIVERED: "0+9999x60", f"relay_track_lost_packets_total{{{STREAM}}}": "0+1x60"},
    ),
    "RelayPlayoutLate": (
        {DELIVERED: "0+998x60", f"relay_track_late_packets_total{{{STREAM}}}": "0+2x60"},
        {DELIVERED: "0+9999x60", f"relay_track_late_packets_total{{{STREAM}}}": "0+1x60"},
    ),
    "RelayOverheadAtLimit": tuple(
        {f'relay_hop_dropped_packets_total{{{HOP}, reason="{reason}"}}': "0+9x60"}
        for reason in ("overhead_limited", "replayed")
    ),
    "RelayLinkTooThin": tuple(
        {f'relay_hop_dropped_packets_total{{{HOP}, reason="{reason}"}}': "0+9x60"}
        for reason in ("dropped_frames", "duplicate")
    ),
    "RelayPathDead": tuple(
        {
            f'relay_path_up_ratio{{{HOP}, path="1"}}': "0x60",
            f"relay_hop_connected_ratio{{{HOP}}}": f"{connected}x60",
        }
        for connected in (1, 0)
    ),
    "RelaySocketDrops": tuple(
        {
            f"relay_board_udp_drops_total{{{NODE}}}": f"0+{rate}x60",
            f"relay_board_backlog_drops_total{{{NODE}}}": "0x60",
        }
        for rate in (600, 6)
    ),
    "RelayDiskFails": tuple(
        {
            f"relay_board_disk_read_only_ratio{{{NODE}}}": "0x60",
            f"relay_board_disk_errors_total{{{NODE}}}": f"{errors}x60",
        }
        for errors in (2, 0)
    ),
    **{
        alarm: ({f"{metric}{{{labels}}}": f"{raised}x60"}, {f"{metric}{{{labels}}}": f"{rests}x60"})
        for alarm, metric, labels, raised, rests in (
            ("RelayHopDown", "relay_hop_connected_ratio", HOP, 0, 1),
            ("RelayHopLossHigh", "relay_hop_loss_ratio", f'{HOP}, direction="send"', 0.3, 0.1),
            ("RelayOverloaded", "relay_shedding_repair_ratio", NODE, 1, 0),
            ("RelayHeadroomLow", "relay_board_headroom_ratio", NODE, 0.1, 0.5),
            ("RelayEventLoopLate", "relay_board_loop_lag_seconds", NODE, 0.5, 0.05),
            ("RelayHot", "relay_board_temperature_celsius", NODE, 85, 70),
            ("RelayThrottled", "relay_board_throttled_ratio", NODE, 1, 0),
            ("RelayUnderVoltage", "relay_board_under_voltage_ratio", NODE, 1, 0),
            ("RelayMemoryShort", "relay_board_memory_available_ratio", NODE, 0.05, 0.5),
            ("RelayNetworkCardErrors", "relay_board_nic_errors_total", NODE, "0+600", 7),
            ("RelayDiskFull", "relay_board_disk_free_ratio", NODE, 0.01, 0.5),
            ("RelayClockUnsynchronised", "relay_board_clock_synchronised_ratio", NODE, 0, 1),
            ("RelayRecordExpires", "relay_fleet_record_expiry_seconds", NODE, 86400, 9e6),
        )
    },
}
"""By alarm: an hour of series, by the minute, that raises it, and one that does not."""
BLOCK = re.compile(r"- alert: (\w+)\n(.*?)(?=- alert|\Z)", re.DOTALL)


def test_every_alarm_says_what_to_do_and_where_more_is_said() -> None:
    headings = re.findall(r"^## (\w+)$", (ROOT / "docs" / "alarms.md").read_text(), re.MULTILINE)
    assert headings == ALARMS and set(CASES) == set(ALARMS)
    for name, block in BLOCK.findall(TEXT):
        assert re.search(r"^ +severity: (critical|warning)$", block, re.MULTILINE)
        for key in ("summary", "description"):
            assert re.search(rf"^ +{key}: '.{{15,}}'$", block, re.MULTILINE), (name, key)
        assert f"runbook: docs/alarms.md#{name.lower()}\n" in block


def promtool(*arguments: str | Path) -> None:
    assert PROMTOOL is not None
    done = subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool")


@needs_promtool
def test_the_rules_are_well_formed() -> None:
    promtool("check", "rules", RULES)


def hour(alarm: str, series: dict[str, str], *, raised: bool) -> dict[str, Any]:
    """A test of promtool's (https://prometheus.io/docs/prometheus/latest/configuration/unit_testing_rules):
    the series for an hour, at whose end the alarm is raised or is not."""
    query = f'count(ALERTS{{alertname="{alarm}", alertstate="firing"}})'
    return {
        "name": f"{alarm} {'is raised' if raised else 'rests'}",
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [
            {
                "expr": query,
                "eval_time": "59m",
                "exp_samples": [{"labels": "{}", "value": 1}] if raised else [],
            }
        ],
    }


@needs_promtool
def test_each_alarm_is_raised_by_what_it_is_for_and_rests_otherwise(tmp_path: Path) -> None:
    tests = [
        hour(alarm, series, raised=raised)
        for alarm, cases in CASES.items()
        for series, raised in zip(cases, (True, False), strict=True)
    ]
    path = tmp_path / "test.yml"
    path.write_text(json.dumps({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": tests}))
    promtool("test", "rules", path)


def test_panels_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    taken: dict[tuple[int, int], str] = {}
    for panel in panels:
        at = panel["gridPos"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert x < 24 and (x, y) not in taken, (panel["title"], taken.get((x, y)))
                taken[x, y] = panel["title"]
    assert len({panel["id"] for panel in panels}) == len(panels)


@needs_promtool
def test_what_the_dashboard_asks_for_is_well_formed(tmp_path: Path) -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    asked = [target["expr"] for panel in panels for target in panel.get("targets", ())]
    rules = [{"record": f"panel:{i}", "expr": expression} for i, expression in enumerate(asked)]
    path = tmp_path / "rules.yml"
    path.write_text(json.dumps({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", path)
