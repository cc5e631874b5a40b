"""What is wrong with a node and with what it carries, in words: one line each, what ends media first.

Made from the node's status, for the page, for `relay status` and for whoever asks the API; empty means that
all is well. `bad` is what viewers notice, `warn` what should be seen to.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Any

Status = Mapping[str, Any]
LOSS_HIGH = 0.1
"""Of a link: repair copes, but takes its share of the line."""
RESIDUAL_HIGH = 1e-3
"""After repair: a viewer sees one packet in a thousand."""
FINDINGS_MAX = 20
"""Of a region that many edges have left, say: more would be no glance."""
CONGESTED = {
    "limited": ("warn", "carries less than it is given: frames are dropped, or the encoder is to send less"),
    "stopped": ("bad", "lets nothing through"),
}
"""By the state of the hop's congestion controller."""


def findings(status: Status) -> list[dict[str, str]]:
    """Each with `severity` and `text`, the bad ones first."""
    streams, hops, peers = _streams(status["streams"]), _hops(status["hops"]), _peers(status["peers"])
    found = [*_node(status), *streams, *hops, *peers, *_notes(status)]
    ordered = sorted(dict.fromkeys(found), key=lambda finding: finding[0])  # "bad" comes before "warn"
    if (more := len(ordered) - FINDINGS_MAX) > 0:
        ordered = [*ordered[:FINDINGS_MAX], ("warn", f"and {more} more")]
    return [{"severity": severity, "text": text} for severity, text in ordered]


Finding = tuple[str, str]


def _node(status: Status) -> Iterator[Finding]:
    yield from (("bad", reason) for reason in status["reasons"])
    admission = status["admission"]
    if admission["shedding"] != "none":
        yield "bad", f"the node is overloaded ({admission['u']:.0%}) and gives up {admission['shedding']}"


def _streams(streams: Iterable[Status]) -> Iterator[Finding]:
    for stream in streams:
        name = f"stream {stream['name']}"
        if stream["waits"]:
            yield "bad", f"{name} does not come: {stream['waits']}"
        elif any(t["received_packets"] for t in stream["tracks"]) and not any(
            t["bitrate_bps"] for t in stream["tracks"]
        ):
            yield "bad", f"{name} has come and comes no more"
        ways = [(before["node"], hop) for before, hop in pairwise(stream["path"])]
        for before, hop in ways + [(hop["from"], hop) for hop in stream["behind"]["hops"]]:
            left = hop["residual_ratio"]
            if left is not None and left >= RESIDUAL_HIGH:
                yield "bad", f"{name} loses {left:.1%} from {before} to {hop['node']}, after repair"


def _hops(hops: Iterable[Status]) -> Iterator[Finding]:
    for hop in hops:
        peer = hop["peer"]
        if hop["state"] != "connected":
            yield "warn", f"{peer} is {hop['state']}: no session with it"
            continue
        lost = max(loss or 0.0 for loss in hop["loss_ratio"].values())
        if lost >= LOSS_HIGH:
            yield "warn", f"the link with {peer} loses {lost:.0%} of the packets, before repair"
        if hop["congestion"]["state"] in CONGESTED:
            severity, what = CONGESTED[hop["congestion"]["state"]]
            yield severity, f"the link to {peer} {what}"
        for path in hop["paths"]:
            if path["role"] == "dead":
                yield "warn", f"path {path['id']} to {peer} ({path['uplink']}) is dead"


def _peers(peers: Iterable[Status]) -> Iterator[Finding]:
    for peer in peers:
        for alarm in peer["alarms"]:
            if alarm != "draining" or not peer["self"]:  # that is among the reasons already
                yield "warn", f"{'this node' if peer['self'] else peer['name']}: {alarm}"


def _notes(status: Status) -> Iterator[Finding]:
    yield from (("warn", note) for note in status["notes"])
    own = next((peer["health"] for peer in status["peers"] if peer["self"]), None) or {}
    if own.get("clock_synchronised") is False:
        yield (
            "warn",
            "the clock of this node is not synchronised: its log tells another time than others",
        )
