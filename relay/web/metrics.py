"""Prometheus metrics, made from the status of the node at the moment of a scrape.

The text exposition format 0.0.4, as https://prometheus.io/docs/instrumenting/exposition_formats describes it.
Names are `relay_…_{total,seconds,bytes,ratio,celsius}`; a yes or no is a ratio of 1 or 0. Labels are stream,
kind and index of a track, peer, the number of a path (0 to 3), and a few fixed words: none whose values grow
with viewers. What is unknown is left out, never zero.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Status = Mapping[str, Any]
_Labels = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class _Spec:
    """A metric: what is at `path` of a status dictionary, times `scale`. A name in `_total` is a counter."""

    name: str
    path: str
    help: str
    scale: float = 1
    labels: _Labels = ()


MS = 1e-3  # status dictionaries have milliseconds, metrics have seconds
BITS = 1 / 8


def _quantiles(name: str, path: str, help: str) -> tuple[_Spec, ...]:
    """A delay in milliseconds at `path`, in which `{}` stands for p50 and p99."""
    return tuple(
        _Spec(name, path.format(key), help, scale=MS, labels=(("quantile", quantile),))
        for key, quantile in (("p50", "0.5"), ("p99", "0.99"))
    )


NODE = (
    _Spec("relay_node_uptime_seconds", "node.uptime_seconds", "Seconds since the process started."),
    _Spec("relay_node_draining_ratio", "node.draining", "1 while the node refuses new work, else 0."),
    _Spec(
        "relay_fleet_record_expiry_seconds",
        "fleet.record.expires_in_seconds",
        "Seconds until the node's own record expires; below 0 afterwards.",
    ),
    _Spec("relay_node_ready_ratio", "ready", "1 while media can flow, else 0."),
)
ADMISSION = (
    _Spec("relay_load_ratio", "u", "How much of the node is in use, what it has just let in included."),
    _Spec("relay_reserved_ratio", "terms.reserved", "Of that, what was let in and does not show yet."),
    *(
        _Spec(f"relay_shedding_{step}_ratio", step, "1 while that is given up for too high a load, else 0.")
        for step in ("repair", "frames", "viewers")
    ),
    _Spec("relay_sent_away_total", "sent_away", "Subscriptions sent elsewhere for too high a load."),
)
REFUSED = "relay_refused_total"
REFUSED_HELP = "Streams and subscriptions that were refused, by reason."
STREAM = (
    _Spec("relay_stream_waiting_ratio", "waiting", "1 while a stream that is to be here has not come."),
    _Spec(
        "relay_stream_standby_ratio",
        "standby.armed",
        "1 while a second region is ready to take it over.",
    ),
    _Spec("relay_stream_takeovers_total", "takeovers", "Changes to a region that was ready."),
)
TRACK = (
    _Spec("relay_track_received_packets_total", "received_packets", "RTP packets that came in."),
    _Spec("relay_track_received_bytes_total", "received_bytes", "RTP that came in, in bytes with headers."),
    _Spec("relay_track_delivered_packets_total", "delivered_packets", "RTP packets released in time."),
    _Spec("relay_track_lost_packets_total", "lost_packets", "RTP packets that never came."),
    _Spec("relay_track_late_packets_total", "late_packets", "RTP packets that came after their deadline."),
    _Spec("relay_track_duplicate_packets_total", "duplicate_packets", "RTP packets that came again."),
    _Spec("relay_track_relayed_packets_total", "relayed_packets", "RTP packets sent on to other nodes."),
    _Spec(
        "relay_track_playout_target_seconds",
        "playout.target_ms",
        "Seconds beyond the least transit time that a missing packet is waited for.",
        scale=MS,
    ),
    *_quantiles(
        "relay_track_delay_seconds",
        "playout.delay_{}_ms",
        "Seconds that packets took beyond the least transit time.",
    ),
    _Spec(
        "relay_track_drift_ratio",
        "playout.drift_ppm",
        "How much faster our clock is than the origin's.",
        scale=1e-6,
    ),
    _Spec("relay_track_rate_bytes", "bitrate_bps", "Bytes a second of RTP that come in.", scale=BITS),
    _Spec(
        "relay_track_target_rate_bytes",
        "target_bitrate",
        "Bytes a second that its hop leaves it.",
        scale=BITS,
    ),
    _Spec("relay_track_key_frames_total", "key_frames", "Key frames that came in."),
    _Spec(
        "relay_track_key_frame_requests_total",
        "key_frame_requests",
        "Key frames asked for, of the encoder or of the peer.",
    ),
    _Spec(
        "relay_track_malformed_payloads_total",
        "malformed_payloads",
        "RTP packets passed on that are not of the track's payload format.",
    ),
)
EGRESS = (
    _Spec("relay_egress_packets_total", "packets", "RTP packets sent, to all destinations together."),
    _Spec("relay_egress_bytes_total", "bytes", "Bytes of RTP sent, to all destinations together."),
)
HOP = (
    _Spec("relay_hop_connected_ratio", "connected", "1 while a session with the peer is up, else 0."),
    _Spec("relay_hop_initiations_total", "initiations", "Handshakes begun with the peer."),
    _Spec("relay_hop_handshakes_total", "handshakes", "Handshakes completed with the peer."),
    _Spec("relay_hop_rtt_seconds", "rtt_ms", "Round-trip time in seconds, smoothed.", scale=MS),
    _Spec("relay_hop_min_rtt_seconds", "min_rtt_ms", "Least round-trip time in seconds.", scale=MS),
    _Spec("relay_hop_jitter_seconds", "jitter_ms", "Jitter in seconds (RFC 3550 section 6.4.1).", scale=MS),
    *(
        _Spec(
            "relay_hop_loss_ratio",
            f"loss_ratio.{way}",
            "Datagrams that the link loses, of those sent, before repair.",
            labels=(("direction", way),),
        )
        for way in ("send", "receive")
    ),
    _Spec("relay_hop_source_packets_total", "source_packets", "Source packets sent and received."),
    _Spec("relay_hop_repair_packets_total", "repair_packets", "Repair packets sent and received."),
    _Spec(
        "relay_hop_recovered_packets_total",
        "recovered_packets",
        "Lost source packets that were repaired.",
    ),
    _Spec("relay_hop_unrecovered_packets_total", "unrecovered_packets", "Lost source packets not repaired."),
    _Spec("relay_hop_overhead_ratio", "overhead_ratio", "Repair bytes per media byte."),
    _Spec(
        "relay_hop_proactive_ratio",
        "proactive_ratio",
        "Repair per source packet, sent unasked.",
    ),
    *_quantiles(
        "relay_hop_added_delay_seconds",
        "added_delay_ms.{}",
        "Seconds that repair adds to packets, beyond propagation.",
    ),
    _Spec("relay_hop_target_rate_bytes", "target_bitrate", "Bytes a second that may be sent.", scale=BITS),
    _Spec(
        "relay_hop_queue_seconds",
        "congestion.queue_ms",
        "Seconds that packets wait in front of the path's bottleneck.",
        scale=MS,
    ),
    _Spec(
        "relay_hop_paced_packets_total", "congestion.paced_packets", "Packets that had to wait to be sent."
    ),
    _Spec("relay_hop_mtu_bytes", "mtu", "Largest UDP payload in bytes known to get through."),
)
PATH = (
    _Spec("relay_path_up_ratio", "up", "1 while what is sent on the path gets through, else 0."),
    _Spec("relay_path_source_ratio", "source", "1 while source packets take the path, else 0."),
    _Spec("relay_path_rtt_seconds", "rtt_ms", "Round-trip time of the path in seconds, smoothed.", scale=MS),
    *(
        _Spec(
            "relay_path_loss_ratio",
            f"loss_ratio.{way}",
            "Datagrams that the path loses, of those sent.",
            labels=(("direction", way),),
        )
        for way in ("send", "receive")
    ),
    _Spec("relay_path_sent_bytes_total", "sent_bytes", "UDP payload sent on the path, in bytes."),
    _Spec("relay_path_received_bytes_total", "received_bytes", "UDP payload received on it, in bytes."),
)
PERMILLE = 1e-3
MBPS = 1e6 / 8
BOARD = (
    _Spec(
        "relay_board_headroom_ratio", "headroom_permille", "What the node can still take, of all.", PERMILLE
    ),
    _Spec(
        "relay_board_thread_load_ratio",
        "thread_load_permille",
        "CPU time of the busiest packet thread, of one core.",
        PERMILLE,
    ),
    _Spec(
        "relay_board_kernel_load_ratio",
        "kernel_load_permille",
        "Time that the busiest processor spends on interrupts.",
        PERMILLE,
    ),
    _Spec("relay_board_loop_lag_seconds", "loop_lag_ms", "How late the event loop ran, at worst.", MS),
    _Spec("relay_board_temperature_celsius", "temperature_c", "Of the hottest sensor of the processor."),
    _Spec("relay_board_throttled_ratio", "throttled", "1 while the processor is held back, else 0."),
    _Spec("relay_board_under_voltage_ratio", "under_voltage", "1 while the supply is too weak, else 0."),
    _Spec(
        "relay_board_memory_pressure_ratio",
        "memory_pressure_permille",
        "Share of 10 s in which some task waited for memory.",
        PERMILLE,
    ),
    _Spec(
        "relay_board_memory_available_ratio", "memory_available_permille", "Memory that can be had.", PERMILLE
    ),
    _Spec("relay_board_nic_rate_bytes", "nic_speed_mbps", "Bytes a second of the slowest card in use.", MBPS),
    _Spec("relay_board_nic_load_ratio", "nic_load_permille", "Of the busiest card's speed.", PERMILLE),
    _Spec("relay_board_disk_free_ratio", "disk_free_permille", "Of the state directory's disk.", PERMILLE),
    _Spec("relay_board_disk_read_only_ratio", "disk_read_only", "1 if that cannot be written, else 0."),
    _Spec("relay_board_disk_errors_total", "disk_errors", "Errors that ext4 file systems have recorded."),
    _Spec("relay_board_clock_synchronised_ratio", "clock_synchronised", "1 if the clock is right, else 0."),
)
BOARD_TOTALS = (
    _Spec("relay_board_backlog_drops_total", "backlog_drops", "Packets dropped before any socket."),
    _Spec("relay_board_udp_drops_total", "udp_drops", "Datagrams that found their socket's buffer full."),
    _Spec("relay_board_nic_errors_total", "nic_errors", "Errors of the network cards."),
    _Spec("relay_board_unreadable_total", "unreadable", "Facts of the board that could not be read."),
)
DROPS = "relay_hop_dropped_packets_total"
DROPS_HELP = (
    "Datagrams from the peer that were refused, and packets to it that the hop did not carry, by reason."
)


def render(status: Status) -> bytes:
    """Prometheus' text format of what `GET /v1/status` shows; its type is `CONTENT_TYPE`."""
    found: dict[str, tuple[_Spec, dict[_Labels, float]]] = {}
    for spec, labels, owner in _walk(status):
        value = _lookup(owner, spec.path)
        if value is not None:
            _, samples = found.setdefault(spec.name, (spec, {}))
            key = (*labels.items(), *spec.labels)
            samples[key] = samples.get(key, 0) + value * spec.scale  # a track's destinations add up
    return "".join(line for family in found.values() for line in _family(*family)).encode()


def _family(spec: _Spec, samples: Mapping[_Labels, float]) -> Iterator[str]:
    """The lines of one metric."""
    yield f"# HELP {spec.name} {_escaped(spec.help)}\n"
    yield f"# TYPE {spec.name} {'counter' if spec.name.endswith('_total') else 'gauge'}\n"
    for labels, value in samples.items():
        pairs = ",".join(f'{name}="{_escaped(text, quote=True)}"' for name, text in labels)
        yield f"{spec.name}{{{pairs}}} {float(value)!r}\n" if pairs else f"{spec.name} {float(value)!r}\n"


def _escaped(text: str, *, quote: bool = False) -> str:
    text = text.replace("\\", r"\\").replace("\n", r"\n")
    return text.replace('"', r"\"") if quote else text


def _walk(status: Status) -> Iterator[tuple[_Spec, dict[str, str], Status]]:
    """Every metric with its labels and the dictionary that holds its value."""
    node = status["node"]
    about = {"node": node["name"], "region": node["region"], "version": node["version"]}
    yield from ((spec, about if spec.name.endswith("_uptime_seconds") else {}, status) for spec in NODE)
    admission = status["admission"]
    yield from ((spec, {}, {**admission, **_shed(admission["shedding"])}) for spec in ADMISSION)
    for reason in admission["refused"]:
        yield _Spec(REFUSED, reason, REFUSED_HELP), {"reason": reason}, admission["refused"]
    for stream in status["streams"]:
        shown = {**stream, "waiting": stream["waits"] is not None}
        yield from ((spec, {"stream": stream["name"]}, shown) for spec in STREAM)
        for index, track in enumerate(stream["tracks"]):
            labels = {"stream": stream["name"], "kind": track["kind"], "index": str(index)}
            yield from ((spec, labels, track) for spec in TRACK)
            yield from ((spec, labels, egress) for egress in track["egress"] for spec in EGRESS)
    for hop in status["hops"]:
        labels = {"peer": hop["peer"]}
        shown = {**hop, "connected": hop["state"] == "connected"}
        yield from ((spec, labels, shown) for spec in HOP)
        for path in hop["paths"]:
            carries = {"up": path["role"] != "dead", "source": "source" in path["role"]}
            numbered = {**labels, "path": str(path["id"])}
            yield from ((spec, numbered, {**path, **carries}) for spec in PATH)
        for reason in hop["drops"]:
            yield _Spec(DROPS, reason, DROPS_HELP), {**labels, "reason": reason}, hop["drops"]
    own = next(peer for peer in status["peers"] if peer["self"])
    yield from ((spec, {}, own["health"]) for spec in BOARD)
    yield from ((spec, {}, status["board"]) for spec in BOARD_TOTALS)
    for name in status["engine"]:
        metric = f"relay_engine_{re.sub('[^a-z0-9_]', '_', name.lower()).removesuffix('_total')}_total"
        yield _Spec(metric, name, f"The packet plane's counter {name}."), {}, status["engine"]


def _shed(step: str) -> dict[str, bool]:
    """What is given up at a step: itself and all before it."""
    order = ("none", "repair", "frames", "viewers")
    return {name: 0 < i <= order.index(step) for i, name in enumerate(order)}


def _lookup(owner: Status, path: str) -> float | None:
    """The value at a dotted path; None where a part of it is missing or unknown."""
    value: Any = owner
    for key in [path] if path in owner else path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, int | float) else None
