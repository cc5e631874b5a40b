"""What a node says of itself: dictionaries ready for JSON, for the API, the metrics and `relay status`."""

from typing import Any

from relay.core.figures import percentile
from relay.core.routing import Candidate, Verdict
from relay.services.hops import MS, Hop, Hops
from relay.services.paths import Paths
from relay.services.shards import Shards
from relay.services.stream import Publication, Stream, Takeover, Track
from relay.services.streams import Streams
from relay.wire.hop import CIPHER_NAMES
from relay_ext.control import Plane

Status = dict[str, Any]

HOP_COUNTERS = {
    "source_packets": "source_sent",
    "repair_packets": "repair_sent",
    "reactive_packets": "reactive_sent",
    "received_source_packets": "source_received",
    "received_repair_packets": "repair_received",
    "recovered_packets": "recovered",
    "unrecovered_packets": "unrecovered",
}
HOP_DROPS = [
    "duplicate",
    "repair_redundant",
    "repair_refused",
    "forged",
    "replayed",
    "short_datagrams",
    "bad_type",
    "bad_inner",
    "unknown_track",
    "stale_epoch",
    "too_many_hops",
    "bad_report",
    "no_session",
    "too_long",
    "seal_failed",
    "no_memory",
    "overhead_limited",
    "dropped_frames",
    "dropped_audio",
    "dropped_key",
    "dropped_discardable",
    "dropped_media",
    "dropped_overflow",
]
INGEST_DROPS = ["not_rtp", "not_rtcp", "other_source", "payload_type", "too_long", "held"]


def hop_status(shards: Shards, hops: Hops, hop: Hop) -> Status:
    plane = shards.of(hop.id)
    stats = plane.hop_stats(hop.id)
    delays = plane.hop_delays(hop.id)
    link = hop.link
    return {
        "peer": hop.name,
        "region": hop.region,
        "state": hop.session.state,
        "initiations": hop.session.initiations,
        "handshakes": hop.session.handshakes,
        "cipher": CIPHER_NAMES[hop.session.cipher] if hop.session.cipher else None,
        "rtt_ms": round(link.rtt_ns / MS, 3) if link.rtt_ns else None,
        "min_rtt_ms": round(link.rtt_min_ns / MS, 3) if link.rtt_ns else None,
        "jitter_ms": round(link.jitter_ns / MS, 3),
        "loss_ratio": {
            "send": round(link.loss_ratio, 6) if link.loss_settled else None,
            "receive": round(max(stats["receive_loss_ratio"], 0.0), 6),
        },
        **{name: stats[counter] for name, counter in HOP_COUNTERS.items()},
        "overhead_ratio": round(stats["repair_bytes"] / stats["source_bytes"], 6)
        if stats["source_bytes"]
        else 0.0,
        "proactive_ratio": round(hop.params[0], 4) if hop.params else None,
        "added_delay_ms": {"p50": percentile(delays, 0.5), "p99": percentile(delays, 0.99)},
        "target_bitrate": None if hop.rates.target_bps is None else round(hop.rates.target_bps),
        "congestion": {
            "state": hop.rates.congestion.state,
            "queue_ms": round(link.queue_ns / MS, 3),
            "capacity_bitrate": round(hop.rates.congestion.capacity_bps) or None,
            "sent_bitrate": round(hop.rates.congestion.sent_bps),
            "own_loss_ratio": round(hop.rates.congestion.own_loss, 6),
            "waiting_packets": link.waiting,
            "paced_packets": stats["paced"],
        },
        "mtu": hop.session.mtu,
        "paths": [_path_status(hops, hop, path) for path in stats["paths"]],
        "drops": {
            **{name: stats[name] for name in HOP_DROPS},
            **{reason.replace(" ", "_"): n for reason, n in (hop.session.drops + hop.drops).items()},
        },
    }


def _path_status(hops: Hops, hop: Hop, path: Status) -> Status:
    session = hop.session.paths.get(path["id"])
    seen = next((seen for seen in hop.link.paths if seen.id == path["id"]), None)
    return {
        "id": path["id"],
        "uplink": hops.uplink_name(path["port"]),
        "state": session.state if session else "connecting",
        "role": seen.role if seen else "dead",
        "address": ("[{}]:{}" if ":" in path["address"][0] else "{}:{}").format(*path["address"]),
        "rtt_ms": round(path["rtt_ns"] / MS, 3) if path["rtt_ns"] else None,
        "loss_ratio": {
            "send": round(path["loss_ratio"], 6),
            "receive": round(path["receive_loss_ratio"], 6),
        },
        "sent_packets": path["sent_packets"],
        "sent_bytes": path["sent_bytes"],
        "received_packets": path["received_packets"],
        "received_bytes": path["received_bytes"],
    }


def stream_status(now_ns: int, shards: Shards, stream: Stream, paths: Paths) -> Status:
    source = "ingest" if stream.enters_here else f"hop:{stream.source.name}" if stream.source else None
    return {
        "name": stream.name,
        "epoch": stream.epoch,
        "source": source,
        "latency_ms": stream.latency_ms,
        "budget_ms": stream.budget_ms or None,
        "target_bitrate": _target_bitrate(stream),
        "route": _route_status(stream) if stream.candidates else None,
        **paths.status(stream),
        "asked": stream.asked.name if stream.asked else None,
        "waits": None if stream.live else stream.waits or None,
        "lost": stream.lost,
        "standby": _standby_status(stream),
        "takeovers": stream.takeovers,
        "takeover": _takeover_status(now_ns, stream.takeover) if stream.takeover else None,
        "sent_to": [_publication_status(stream, p) for p in stream.publications.values()],
        "tracks": [_track_status(shards.of(track.id), track) for track in stream.tracks],
    }


def _target_bitrate(stream: Stream) -> int | None:
    """Bits a second that the hop which it is sent over leaves all its tracks together."""
    targets = [track.target_bps for track in stream.tracks if track.target_bps is not None]
    return round(sum(targets)) if targets else None


def _delay(hop: Hop) -> float | None:
    """One way, ms, if both ways take the same."""
    return round(hop.link.rtt_ns / 2 / MS, 3) if hop.link.rtt_ns else None


def _standby_status(stream: Stream) -> Status | None:
    """The peer that it can come from, or go to, instead."""
    if stream.spare is not None:
        sent = stream.publications.get(stream.spare.id)
        return {"peer": stream.spare.name, "armed": sent is not None and sent.accepted}
    return {"peer": stream.standby.hop.name, "armed": stream.standby.armed} if stream.standby else None


def _takeover_status(now_ns: int, takeover: Takeover) -> Status:
    return {
        "left": takeover.left,
        "taken": takeover.taken,
        "why": takeover.why,
        "silent_ms": takeover.silent_ms,
        "age_seconds": round((now_ns - takeover.at_ns) * 1e-9, 3),
    }


def _publication_status(stream: Stream, sent: Publication) -> Status:
    return {
        "peer": sent.hop.name,
        "accepted": sent.accepted,
        "held": sent.hop.id in stream.held,
        "budget_ms": sent.offered.budget_ms if sent.offered else None,
        "hops_beyond": len(sent.beyond),
        "delay_ms": _delay(sent.hop),
        "loss_ratio": round(sent.hop.link.loss_ratio, 6) if sent.hop.link.loss_settled else None,
    }


def _route_status(stream: Stream) -> Status:
    """The peer that a stream which enters here is sent to; of another, the region that was asked for it."""
    chosen = stream.route if stream.enters_here else stream.asked
    return {
        "chosen": chosen.name if chosen else None,
        "accepted": stream.accepted if stream.enters_here else stream.pulled,
        "why": stream.choice.why,
        "candidates": [_candidate_status(verdict) for verdict in stream.choice.verdicts],
    }


def _candidate_status(verdict: Verdict) -> Status:
    c = verdict.candidate
    known = bool(c.rtt_ms)
    return {
        "peer": c.peer,
        "state": _candidate_state(c),
        "refused": c.refused or None,
        "cost_ms": round(c.cost_ms, 3) if known else None,
        "average_cost_ms": None if verdict.average_ms is None else round(verdict.average_ms, 3),
        "terms_ms": {name: round(ms, 3) for name, ms in c.terms_ms.items()} if known else None,
        "rtt_ms": round(c.rtt_ms, 3),
        "loss_ratio": round(c.loss_ratio, 6),
        "why": verdict.why,
    }


def _candidate_state(c: Candidate) -> str:
    if c.refused:
        return "refused"
    return "connected" if c.connected else "rests" if c.rests else "not connected"


def _track_status(plane: Plane, track: Track) -> Status:
    stats = plane.track_stats(track.id)
    ingest = stats["ingest"]
    return {
        "kind": track.format.kind,
        "codec": track.format.codec,
        "payload_type": track.format.payload_type,
        "ssrc": stats["ssrc"],
        "source_address": "{} port {}".format(*stats["source"]) if stats["source"] else None,
        "received_packets": stats["received"],
        "received_bytes": stats["received_bytes"],
        "delivered_packets": stats["delivered"],
        "lost_packets": stats["lost"],
        "late_packets": stats["late"],
        "duplicate_packets": stats["duplicate"],
        "relayed_packets": stats["relayed"],
        "bitrate_bps": round(track.bitrate_bps),
        "target_bitrate": None if track.target_bps is None else round(track.target_bps),
        "key_frames": stats["key_frames"],
        "key_frame_requests": track.key_requests + ingest["key_requests"],
        "source_changes": ingest["sources"],
        "sender_reports": ingest["reports"],
        "rate_offers": ingest["rate_offers"],
        "malformed_payloads": ingest["payload_malformed"],
        "drops": {
            **{reason: ingest[reason] for reason in INGEST_DROPS},
            "malformed": stats["malformed"],
            "no_memory": stats["no_memory"],
            "expired": stats["expired"],
            "too_many_hops": stats["too_many_hops"],
        },
        "playout": _playout_status(stats, plane.track_delays(track.id)),
        "egress": [
            {"address": str(to.address), **_egress_status(plane, egress)}
            for to, egress in track.egresses.items()
        ],
    }


def _playout_status(stats: Status, delays: list[float]) -> Status:
    return {
        "target_ms": round(stats["target_ns"] / MS, 3),
        "delay_p50_ms": percentile(delays, 0.5),
        "delay_p99_ms": percentile(delays, 0.99),
        "held_packets": stats["held"],
        "drift_ppm": None if stats["drift"] is None else round(stats["drift"] * 1e6, 1),
    }


def _egress_status(plane: Plane, egress: int) -> Status:
    stats = plane.egress_stats(egress)
    return {"packets": stats["packets"], "bytes": stats["bytes"], "sender_reports": stats["reports"]}


def not_ready(hops: Hops | None, streams: Streams) -> list[str]:
    """Why media cannot flow, one sentence a reason."""
    reasons = ["the node is draining"] if streams.draining else []
    if hops is not None and hops.hops and not any(h.session.state == "connected" for h in hops.hops.values()):
        reasons.append("no peer is connected")
    return reasons
