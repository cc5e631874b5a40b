"""What `relay status` prints: the status of a node as tables for a terminal."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

Status = Mapping[str, Any]
UNKNOWN = "-"
ELSEWHERE_MAX = 20
"""Streams at other nodes that are shown."""
TERM_MS = 0.05
"""A part of a cost that is less is not shown."""


def render(status: Status) -> str:
    """Text of a `GET /v1/status` answer. Raises LookupError, TypeError, ValueError, AttributeError."""
    node = status["node"]
    state = "draining" if node["draining"] else "ready" if status["ready"] else "not ready"
    up = _duration(node["uptime_seconds"])
    head = [node["name"], node["region"], f"relay {node['version']}", f"up {up}", state]
    lines = ["  ".join(head), *_findings(status["findings"])]
    lines += _fleet(status["fleet"]) if status["fleet"] else []
    lines.append(_admission(status["admission"]))
    streams, hops = status["streams"], status["hops"]
    tables = [_streams(streams), _stream_hops(streams), _waits(streams)]
    tables += [_elsewhere(streams, status["directory"]), _routes(streams)]
    for table in (*tables, _regions(status["fleet"]), _hops(hops), _paths(hops)):
        lines += ["", *table] if table else []
    if drops := _drops(status["hops"]):
        lines += ["", *drops]
    for table in (_health(status["peers"]), _summaries(status["peers"])):
        lines += ["", *table] if table else []
    return "\n".join(_printable(line) for line in lines) + "\n"


def _findings(findings: Sequence[Status]) -> list[str]:
    """What is wrong, as the page says it: viewers notice what has an exclamation mark."""
    found = [f"  {'!' if of['severity'] == 'bad' else '-'} {of['text']}" for of in findings]
    return found or ["  all well"]


def _admission(admission: Status) -> str:
    terms = ", ".join(f"{name} {_percent(load)}" for name, load in admission["terms"].items())
    refused = ", ".join(f"{n} {reason}" for reason, n in admission["refused"].items())
    shedding = admission["shedding"]
    parts = [f"load {_percent(admission['u'])} ({terms})"]
    parts += [] if shedding == "none" else [f"sheds {shedding}, {admission['sent_away']} sent away"]
    return "  " + "; ".join(parts + ([f"refused: {refused}"] if refused else []))


def _fleet(fleet: Status) -> list[str]:
    own, revocations = fleet["record"], fleet["revocations"]
    if own is None:
        record = "no record"
    elif own["revoked"]:
        record = "record REVOKED"
    elif own["expires_in_seconds"] <= 0:
        record = f"record EXPIRED {own['expires']}"
    else:
        record = f"record until {own['expires']}, {_duration(own['expires_in_seconds'])}"
    keys = revocations["keys"] if revocations else 0
    members = f"{len(fleet['members'])} of {fleet['max_peers']} members"
    return [f"  fleet: {record}; {members}; {keys} revoked"]


def _streams(streams: Sequence[Status]) -> list[str]:
    rows = []
    for stream in streams:
        for track in stream["tracks"]:
            sent = " ".join(egress["address"] for egress in track["egress"]) or UNKNOWN
            rate = track["bitrate_bps"]
            rows.append(
                [
                    stream["name"],
                    stream["source"] or "none",
                    f"{track['kind']} {track['codec']}",
                    UNKNOWN if rate is None else f"{rate / 1000:.0f}",
                    *(str(track[f"{what}_packets"]) for what in ("received", "delivered", "lost", "late")),
                    _number(track["playout"]["target_ms"], 0),
                    sent,
                ]
            )
    head = ["STREAM", "FROM", "TRACK", "KBIT/S", "RECEIVED", "DELIVERED", "LOST", "LATE", "WAIT MS", "TO"]
    return _table(head, rows) if rows else ["no streams"]


def _stream_hops(streams: Sequence[Status]) -> list[str]:
    """Every hop of a stream, from where it entered the fleet to where it leaves, as far as it is known."""
    rows = []
    for stream in streams:
        path, behind = stream["path"], stream["behind"]
        for before, node in pairwise(path):
            leaves = stream["leaves"] and node is path[-1]
            rows.append([stream["name"], *_hop(before["node"], node, leaves)])
        for hop in behind["hops"]:
            rows.append([stream["name"], *_hop(hop["from"], hop, hop["leaves"])])
        if more := behind["nodes"] - len(behind["hops"]):
            rows.append([stream["name"], f"and {more} more", *[UNKNOWN] * 5])
    head = ["STREAM", "HOP", "DELAY MS", "LOSS", "AFTER REPAIR", "ADDED P50 P99", "LEAVES"]
    return _table(head, rows) if rows else []


def _hop(before: str, hop: Status, leaves: bool) -> list[str]:
    added = hop["added_delay_ms"]
    return [
        f"{before} > {hop['node']}",
        _number(hop["delay_ms"], 0),
        _percent(hop["loss_ratio"]),
        UNKNOWN if hop["residual_ratio"] is None else f"{hop['residual_ratio']:.2%}",
        f"{_number(added['p50'], 0)} {_number(added['p99'], 0)}",
        "there" if leaves else "",
    ]


def _elsewhere(streams: Sequence[Status], directory: Sequence[Status]) -> list[str]:
    """Streams of the fleet that are not at this node, and the regions that have them."""
    here = {stream["name"] for stream in streams}
    others = [[of["stream"], of["region"] or UNKNOWN] for of in directory if of["stream"] not in here]
    if (more := len(others) - ELSEWHERE_MAX) > 0:
        others = [*others[:ELSEWHERE_MAX], [f"and {more} more", UNKNOWN]]
    return _table(["STREAM ELSEWHERE", "AT"], others) if others else []


def _waits(streams: Sequence[Status]) -> list[str]:
    rows = [[stream["name"], stream["waits"]] for stream in streams if stream["waits"]]
    return _table(["STREAM", "WAITS BECAUSE"], rows) if rows else []


def _routes(streams: Sequence[Status]) -> list[str]:
    """Each peer that a stream could go to, or be asked for at, and why it does or does not."""
    rows = []
    for stream in streams:
        route = stream["route"]
        for c in route["candidates"] if route else []:
            terms = ((name, ms) for name, ms in (c["terms_ms"] or {}).items() if ms >= TERM_MS)
            chosen = "> " if c["peer"] == route["chosen"] else ""
            rows.append(
                [
                    stream["name"],
                    chosen + c["peer"],
                    _number(c["cost_ms"], 1),
                    " + ".join(f"{ms:.1f} {name}" for name, ms in terms) or UNKNOWN,
                    c["why"],
                ]
            )
    return _table(["STREAM", "ROUTE", "COST MS", "OF WHICH", "WHY"], rows) if rows else []


def _regions(fleet: Status | None) -> list[str]:
    """The regions that this node calls, or could."""
    rows = [
        [of["name"], of["region"], of["state"], _number(of["cost_ms"], 1), _number(of["age_seconds"], 0)]
        for of in (fleet["regions"] if fleet else [])
    ]
    return _table(["REGION", "OF", "SESSION", "COST MS", "MEASURED S AGO"], rows) if rows else []


def _hops(hops: Sequence[Status]) -> list[str]:
    rows = [
        [
            hop["peer"],
            hop["state"],
            _number(hop["rtt_ms"], 1),
            f"{_percent(hop['loss_ratio']['send'])} {_percent(hop['loss_ratio']['receive'])}",
            str(hop["source_packets"]),
            str(hop["recovered_packets"]),
            str(hop["unrecovered_packets"]),
            _number(hop["overhead_ratio"], 2),
            f"{_number(hop['added_delay_ms']['p50'], 0)} {_number(hop['added_delay_ms']['p99'], 0)}",
            " ".join(dict.fromkeys(path["address"] for path in hop["paths"])) or UNKNOWN,
        ]
        for hop in hops
    ]
    head = ["HOP", "STATE", "RTT MS", "LOSS OUT IN", "SOURCE", "RECOVERED", "UNRECOVERED", "OVERHEAD"]
    return _table([*head, "DELAY P50 P99", "ADDRESS"], rows) if rows else []


def _paths(hops: Sequence[Status]) -> list[str]:
    """Of the peers that are reached over more than one."""
    rows = [
        [
            hop["peer"],
            str(path["id"]),
            path["uplink"],
            path["address"],
            path["state"],
            path["role"],
            _number(path["rtt_ms"], 1),
            f"{_percent(path['loss_ratio']['send'])} {_percent(path['loss_ratio']['receive'])}",
            f"{path['sent_bytes'] / 1e6:.1f} {path['received_bytes'] / 1e6:.1f}",
        ]
        for hop in hops
        if len(hop["paths"]) > 1
        for path in hop["paths"]
    ]
    head = ["HOP", "PATH", "UPLINK", "ADDRESS", "STATE", "CARRIES", "RTT MS", "LOSS OUT IN", "MBYTE OUT IN"]
    return _table(head, rows) if rows else []


def _drops(hops: Sequence[Status]) -> list[str]:
    rows = [[hop["peer"], reason, str(n)] for hop in hops for reason, n in sorted(hop["drops"].items()) if n]
    return _table(["HOP", "DROPPED BECAUSE", "PACKETS"], rows) if rows else []


def _health(peers: Sequence[Status]) -> list[str]:
    rows = []
    for peer in peers:
        known = peer["health"] or {}
        costs = peer["penalties_ms"]
        rows.append(
            [
                peer["name"],
                peer["region"],
                peer["role"],
                "self" if peer["self"] else "yes" if peer["connected"] else "no",
                known.get("version") or UNKNOWN,
                _number(peer["age_seconds"], 1),
                _number(known.get("streams"), 0),
                _permille(known.get("headroom_permille")),
                _number(known.get("loop_lag_ms"), 0),
                _permille(known.get("memory_available_permille")),
                _number(known.get("temperature_c"), 0),
                ", ".join(f"{why} {ms:.0f} ms" if ms else why for why, ms in costs.items()) or UNKNOWN,
            ]
        )
    head = ["NODE", "REGION", "ROLE", "CONNECTED", "VERSION", "AGE S", "STREAMS", "HEADROOM", "LAG MS"]
    return _table([*head, "MEMORY FREE", "CELSIUS", "WRONG, AND ITS COST"], rows) if rows else []


def _summaries(peers: Sequence[Status]) -> list[str]:
    rows = [
        [
            peer["name"],
            f"{s['known']} of {s['nodes']}",
            *(str(s[what]) for what in ("draining", "ailing", "streams")),
            *(_permille(s[f"headroom_{which}_permille"]) for which in ("median", "worst")),
            _number(s["temperature_worst_c"], 0),
        ]
        for peer in peers
        if (s := peer["summary"])
    ]
    head = ["EDGES OF", "KNOWN", "DRAINING", "AILING", "STREAMS", "HEADROOM P50", "WORST", "HOTTEST C"]
    return _table(head, rows) if rows else []


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns two blanks apart; the last one is not padded."""
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]


def _number(value: float | None, decimals: int) -> str:
    return UNKNOWN if value is None else f"{value:.{decimals}f}"


def _percent(ratio: float | None) -> str:
    return UNKNOWN if ratio is None else f"{ratio:.1%}"


def _permille(value: int | None) -> str:
    return UNKNOWN if value is None else f"{value / 10:.0f}%"


def _duration(seconds: float) -> str:
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days} d {hour} h"
    return f"{hour} h {minute} min" if hour else f"{minute} min {second} s" if minute else f"{second} s"


def _printable(line: str) -> str:
    """The line without anything that a terminal would obey: names come from other nodes."""
    return "".join(c if c.isprintable() else "?" for c in line)
