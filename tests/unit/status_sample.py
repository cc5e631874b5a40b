"""A node's status as `GET /v1/status` gives it: one stream, one good hop, one peer that does not answer."""

from copy import deepcopy
from typing import Any

from relay.wire.health import Digest, Summary, as_dict

_HOP: dict[str, Any] = {
    "peer": "region-sgp",
    "state": "connected",
    "initiations": 2,
    "handshakes": 1,
    "cipher": "AES-256-GCM",
    "rtt_ms": 101.25,
    "min_rtt_ms": 100.0,
    "jitter_ms": 0.5,
    "loss_ratio": {"send": 0.302, "receive": 0.297},
    "source_packets": 30000,
    "repair_packets": 22000,
    "recovered_packets": 9000,
    "unrecovered_packets": 1,
    "overhead_ratio": 0.731,
    "proactive_ratio": 0.6,
    "added_delay_ms": {"p50": 12.0, "p99": 161.0},
    "target_bitrate": 8_000_000,
    "congestion": {"state": "limited", "queue_ms": 12.5, "paced_packets": 40},
    "mtu": 1472,
    "paths": [
        {
            "id": 0,
            "address": "203.0.113.7:7400",
            "rtt_ms": 101.25,
            "uplink": "eth0",
            "state": "connected",
            "role": "source",
            "loss_ratio": {"send": 0.3, "receive": 0.297},
            "sent_packets": 52000,
            "sent_bytes": 62_000_000,
            "received_packets": 4000,
            "received_bytes": 400_000,
        },
        {
            "id": 1,
            "address": "203.0.113.7:7400",
            "rtt_ms": 60.5,
            "uplink": "wwan0",
            "state": "connected",
            "role": "repair",
            "loss_ratio": {"send": 0.02, "receive": 0.0},
            "sent_packets": 22000,
            "sent_bytes": 26_000_000,
            "received_packets": 4000,
            "received_bytes": 400_000,
        },
    ],
    "drops": {"replayed": 7, "forged": 0},
}

_SILENT: dict[str, Any] = {
    **_HOP,
    "peer": "region-tyo",
    "state": "connecting",
    "initiations": 40,
    "handshakes": 0,
    "rtt_ms": None,
    "min_rtt_ms": None,
    "jitter_ms": None,
    "loss_ratio": {"send": None, "receive": None},
    "source_packets": 0,
    "repair_packets": 0,
    "recovered_packets": 0,
    "unrecovered_packets": 0,
    "overhead_ratio": None,
    "proactive_ratio": None,
    "added_delay_ms": {"p50": None, "p99": None},
    "target_bitrate": None,
    "congestion": {"state": "unlimited", "queue_ms": 0.0, "paced_packets": 0},
    "mtu": None,
    "paths": [],
    "drops": {},
}

_SELF: dict[str, Any] = {
    "name": "edge-sgp-1",
    "region": "ap-southeast",
    "role": "edge",
    "self": True,
    "connected": True,
    "age_seconds": 0.25,
    "health": as_dict(
        Digest(
            version="0.1.0",
            draining=False,
            streams=1,
            headroom_permille=912,
            thread_load_permille=88,
            kernel_load_permille=31,
            loop_lag_ms=2,
            temperature_c=81,
            throttled=True,
            memory_available_permille=640,
            nic_speed_mbps=1000,
        )
    ),
    "alarms": ["hot", "throttled"],
    "penalties_ms": {"hot": 4.0, "throttled": 20.0},
    "summary": None,
}

_PEER: dict[str, Any] = {
    "name": "region-sgp",
    "region": "ap-southeast",
    "role": "region",
    "self": False,
    "connected": True,
    "age_seconds": 4.5,
    "health": None,
    "alarms": [],
    "penalties_ms": {"headroom unknown": 2.0},
    "summary": {
        **as_dict(Summary(nodes=12, known=10, streams=31, headroom_worst_permille=50)),
        "age_seconds": 4.5,
    },
}


def _hop_to(node: str, delay_ms: float | None = None, **known: float) -> dict[str, Any]:
    return {
        "node": node,
        "delay_ms": delay_ms,
        "loss_ratio": known.get("loss"),
        "residual_ratio": known.get("residual"),
        "added_delay_ms": {"p50": known.get("p50"), "p99": known.get("p99")},
    }


_STATUS: dict[str, Any] = {
    "node": {
        "name": "edge-sgp-1",
        "region": "ap-southeast",
        "version": "0.1.0",
        "pid": 4711,
        "uptime_seconds": 7999.5,
        "draining": False,
        "unapplied": False,
    },
    "admission": {
        "u": 0.91,
        "terms": {"packet thread": 0.9, "reserved": 0.01},
        "shedding": "frames",
        "refused": {"load": 3, "draining": 1},
        "sent_away": 2,
    },
    "streams": [
        {
            "name": "studio",
            "epoch": 1,
            "source": "ingest",
            "latency_ms": 400,
            "path": [_hop_to("edge-sgp-1")],
            "behind": {
                "nodes": 5,
                "hops": [
                    {
                        "from": "edge-sgp-1",
                        **_hop_to("region-sgp", 50.6, loss=0.302, residual=0.0001, p50=12, p99=161),
                        "leaves": True,
                    },
                    {"from": "region-sgp", **_hop_to("region-fra"), "leaves": False},
                ],
            },
            "leaves": False,
            "sent_to": [{"peer": "region-sgp", "accepted": True, "delay_ms": 50.6, "loss_ratio": 0.302}],
            "waits": None,
            "route": {
                "chosen": "region-sgp",
                "why": "lowest cost",
                "candidates": [
                    {
                        "peer": "region-sgp",
                        "cost_ms": 115.4,
                        "average_cost_ms": 115.2,
                        "terms_ms": {
                            "propagation": 50.0,
                            "queue": 0.3,
                            "jitter": 0.01,
                            "loss": 65.1,
                            "load": 0.0,
                        },
                        "why": "lowest cost, 115.2 ms",
                        "rtt_ms": 101.25,
                        "loss_ratio": 0.3,
                        "state": "connected",
                    }
                ],
            },
            "tracks": [
                {
                    "kind": "video",
                    "codec": "H264/90000",
                    "payload_type": 96,
                    "ssrc": 0x1234ABCD,
                    "received_packets": 27000,
                    "received_bytes": 30_000_000,
                    "delivered_packets": 26990,
                    "lost_packets": 4,
                    "late_packets": 6,
                    "duplicate_packets": 0,
                    "relayed_packets": 0,
                    "bitrate_bps": 2_500_000,
                    "playout": {
                        "target_ms": 180.0,
                        "delay_p50_ms": 1.0,
                        "delay_p99_ms": 130.0,
                        "held_packets": 3,
                        "drift_ppm": 21.0,
                    },
                    "egress": [
                        {"address": "192.0.2.10:6004", "packets": 100, "bytes": 1000},
                        {"address": "192.0.2.11:6004", "packets": 50, "bytes": 500},
                    ],
                },
                {
                    "kind": "audio",
                    "codec": "opus/48000/2",
                    "payload_type": 97,
                    "ssrc": None,
                    "received_packets": 0,
                    "received_bytes": 0,
                    "delivered_packets": 0,
                    "lost_packets": 0,
                    "late_packets": 0,
                    "duplicate_packets": 0,
                    "relayed_packets": 0,
                    "bitrate_bps": None,
                    "playout": {
                        "target_ms": 220.0,
                        "delay_p50_ms": None,
                        "delay_p99_ms": None,
                        "held_packets": 0,
                        "drift_ppm": None,
                    },
                    "egress": [],
                },
            ],
        }
    ],
    "hops": [_HOP, _SILENT],
    "fleet": {
        "record": {
            "issued": "2026-11-01T00:00:00Z",
            "expires": "2027-01-30T00:00:00Z",
            "expires_in_seconds": 5_443_200,
            "revoked": False,
            "role": "edge",
        },
        "proven_time": "2026-11-28T00:00:00Z",
        "revocations": {"issued": "2026-11-27T00:00:00Z", "keys": 1},
        "members": [
            {
                "name": "edge-sgp-9",
                "region": "ap-southeast",
                "role": "edge",
                "expires": "2027-01-30T00:00:00Z",
            }
        ],
        "renewals": {"kept": 2, "untold": 1},
        "max_peers": 256,
        "regions": [
            {
                "name": "region-sgp",
                "region": "ap-southeast",
                "state": "kept",
                "cost_ms": 115.4,
                "age_seconds": 0.4,
            },
            {"name": "region-fra", "region": "eu", "state": "rests", "cost_ms": None, "age_seconds": None},
        ],
    },
    "peers": [_SELF, _PEER],
    "directory": [{"stream": "studio", "region": "region-sgp"}, {"stream": "news", "region": "region-fra"}],
    "engine": {"received_datagrams": 56000, "pool.exhausted": 0},
    "board": {"backlog_drops": 5, "udp_drops": 6, "unreadable": 0},
    "ready": True,
    "reasons": [],
    "notes": [],
    "findings": [
        {"severity": "bad", "text": "the node is overloaded (91%) and gives up frames"},
        {"severity": "warn", "text": "region-tyo is connecting: no session with it"},
    ],
}


def sample() -> dict[str, Any]:
    """A copy that a test may change."""
    return deepcopy(_STATUS)


def history() -> dict[str, Any]:
    """As `GET /v1/history` gives it, of the sample's stream and hop: ten minutes, the first eight not
    known."""

    def figure(value: float) -> list[float | None]:
        return [None] * 96 + [value * (1 + i % 5 / 10) for i in range(24)]

    stream = {"bitrate_bps": 2.5e6, "loss": 0.3, "residual": 0.0, "delay_ms": 50.6, "added_ms": 161}
    hop = {"loss_send": 0.3, "loss_receive": 0.29, "rtt_ms": 101.25, "sent_bps": 4.4e6, "received_bps": 2e5}
    node = {"load": 0.6, "headroom": 0.4, "temperature_c": 61.0, "loop_lag_ms": 2.0}
    return {
        "step_seconds": 5.0,
        "age_seconds": 1.5,
        "node": {name: figure(value) for name, value in node.items()},
        "streams": [{"name": "studio", **{name: figure(value) for name, value in stream.items()}}],
        "hops": [{"name": "region-sgp", **{name: figure(value) for name, value in hop.items()}}],
    }
