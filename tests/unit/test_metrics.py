"""Metrics: the right numbers under the right names, in Prometheus' own parser."""

import re
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from relay.web.metrics import render
from tests.unit.status_sample import sample

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def scrape(status: dict[str, Any]) -> Samples:
    text = render(status).decode()
    families = text_string_to_metric_families(text)
    return {(s.name, frozenset(s.labels.items())): s.value for family in families for s in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def names(samples: Samples, **labels: str) -> set[str]:
    return {name for name, found in samples if labels.items() <= dict(found).items()}


def test_values_and_units() -> None:
    samples = scrape(sample())
    video = {"stream": "studio", "kind": "video", "index": "0"}
    assert value(samples, "relay_track_received_packets_total", **video) == 27000
    assert value(samples, "relay_track_rate_bytes", **video) == 2_500_000 / 8
    assert value(samples, "relay_track_playout_target_seconds", **video) == 0.18
    assert value(samples, "relay_track_delay_seconds", **video, quantile="0.99") == 0.13
    assert value(samples, "relay_track_drift_ratio", **video) == 21e-6
    assert value(samples, "relay_hop_rtt_seconds", peer="region-sgp") == 0.10125
    assert value(samples, "relay_hop_loss_ratio", peer="region-sgp", direction="receive") == 0.297
    assert value(samples, "relay_hop_added_delay_seconds", peer="region-sgp", quantile="0.99") == 0.161
    assert value(samples, "relay_hop_queue_seconds", peer="region-sgp") == 0.0125
    assert value(samples, "relay_hop_paced_packets_total", peer="region-sgp") == 40
    assert value(samples, "relay_hop_connected_ratio", peer="region-sgp") == 1
    assert value(samples, "relay_path_source_ratio", peer="region-sgp", path="0") == 1
    assert value(samples, "relay_path_source_ratio", peer="region-sgp", path="1") == 0
    assert value(samples, "relay_path_up_ratio", peer="region-sgp", path="1") == 1
    assert value(samples, "relay_path_rtt_seconds", peer="region-sgp", path="1") == 0.0605
    lte = {"peer": "region-sgp", "path": "1"}
    assert value(samples, "relay_path_loss_ratio", **lte, direction="send") == 0.02
    assert value(samples, "relay_hop_connected_ratio", peer="region-tyo") == 0
    assert value(samples, "relay_hop_dropped_packets_total", peer="region-sgp", reason="replayed") == 7
    assert value(samples, "relay_node_ready_ratio") == 1
    assert value(samples, "relay_fleet_record_expiry_seconds") == 63 * 86400
    about = {"node": "edge-sgp-1", "region": "ap-southeast", "version": "0.1.0"}
    assert value(samples, "relay_node_uptime_seconds", **about) == 7999.5
    assert value(samples, "relay_engine_received_datagrams_total") == 56000
    assert value(samples, "relay_engine_pool_exhausted_total") == 0


def test_destinations_are_summed_so_that_viewers_add_no_labels() -> None:
    status = sample()
    before = scrape(status)
    assert value(before, "relay_egress_packets_total", stream="studio", kind="video", index="0") == 150
    track = status["streams"][0]["tracks"][0]
    track["egress"] = [{"address": f"192.0.2.1:{n}", "packets": 1, "bytes": 2} for n in range(5000)]
    after = scrape(status)
    assert after.keys() == before.keys()
    assert value(after, "relay_egress_bytes_total", stream="studio", kind="video", index="0") == 10000


def test_names_follow_the_contract_and_help_says_something() -> None:
    text = render(sample()).decode()
    families = list(text_string_to_metric_families(text))
    assert len(families) > 30
    for family in families:
        assert family.samples and len(family.documentation) > 20 and family.documentation.endswith(".")
        for found in family.samples:
            assert re.fullmatch(r"relay_[a-z0-9_]+_(total|seconds|bytes|ratio|celsius)", found.name)
            fixed = {"stream", "kind", "index", "peer", "reason", "direction", "quantile", "path"}
            assert found.labels.keys() <= fixed | {"node", "region", "version"}


def test_what_is_unknown_is_left_out() -> None:
    found = names(scrape(sample()), peer="region-tyo")
    assert "relay_hop_source_packets_total" in found
    assert not found & {"relay_hop_rtt_seconds", "relay_hop_loss_ratio", "relay_hop_added_delay_seconds"}


def test_odd_names_are_escaped() -> None:
    status = sample()
    status["streams"][0]["name"] = 'a"\\\nb'
    status["engine"] = {"Odd Name-total": 1, "packets_total": 2}
    samples = scrape(status)
    assert value(samples, "relay_engine_odd_name_total") == 1
    assert value(samples, "relay_engine_packets_total") == 2
    assert names(samples, stream='a"\\\nb')


def test_the_board_as_far_as_it_is_known() -> None:
    samples = scrape(sample())
    assert value(samples, "relay_board_headroom_ratio") == 0.912
    assert value(samples, "relay_board_kernel_load_ratio") == 0.031
    assert value(samples, "relay_board_temperature_celsius") == 81
    assert value(samples, "relay_board_throttled_ratio") == 1
    assert value(samples, "relay_board_loop_lag_seconds") == 0.002
    assert value(samples, "relay_board_nic_rate_bytes") == 125e6
    assert value(samples, "relay_board_udp_drops_total") == 6
    assert {"relay_board_under_voltage_ratio", "relay_board_nic_errors_total"}.isdisjoint(names(samples))


def test_admission() -> None:
    samples = scrape(sample())
    assert value(samples, "relay_load_ratio") == 0.91
    assert value(samples, "relay_reserved_ratio") == 0.01
    assert value(samples, "relay_refused_total", reason="load") == 3
    shed = [value(samples, f"relay_shedding_{what}_ratio") for what in ("repair", "frames", "viewers")]
    assert shed == [1, 1, 0]
    assert value(samples, "relay_sent_away_total") == 2
