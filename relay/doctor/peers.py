"""Checks of what is beyond the machine: names, and the way to each peer."""

from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

from relay.doctor.facts import Facts, Finding, Probe, error, ok, unknown, warning
from relay.wire.hop import MTU_BASE

LOSS = 0.05
"""More than this is worth knowing, though repair deals with a third and more."""
LOSS_TOO_MUCH = 0.5
"""More than this no repair within `max_overhead` makes good."""
REPAIR = "repair deals with it if budget_ms is two and a half round trips: docs/loss.md"
OPEN = "is it up, its UDP port open (firewall, NAT), and each other's public key right?"


def check_peers(facts: Facts) -> Iterator[Finding]:
    for name, why in sorted(facts.names.items()):
        if why:
            yield error(
                f"name {name}", f"cannot be resolved: {why}", f"getent ahosts {name}; see /etc/resolv.conf"
            )
        else:
            yield ok(f"name {name}", "is resolved")
    if facts.config is None or facts.config.hop is None:
        return
    if facts.status is not None:
        yield from _running(facts, facts.status)
    else:
        yield from _probed(facts)


def _running(facts: Facts, status: Mapping[str, Any]) -> Iterator[Finding]:
    hops = {hop["peer"]: hop for hop in status["hops"]}
    assert facts.config is not None and facts.config.hop is not None
    for peer in facts.config.hop.peers:
        if peer.name not in hops:
            do = "systemctl reload relay, or kill -HUP the node; its log says why it has none"
            yield warning(f"peer {peer.name}", "the running node has no such peer", do)
    calls = {peer.name for peer in facts.config.hop.peers if peer.addresses}
    for name, hop in hops.items():
        yield _hop(facts, f"peer {name}", hop, called=name in calls)


def _hop(facts: Facts, check: str, hop: Mapping[str, Any], *, called: bool) -> Finding:
    if hop["state"] != "connected":
        drops = ", ".join(f"{n} {reason}" for reason, n in hop["drops"].items() if n)
        seen = (
            f"{hop['state']} after {hop['initiations']} calls"
            if called
            else f"{hop['state']}: it has to call this node"
        )
        return error(check, seen + (f"; {drops}" if drops else ""), OPEN)
    there, back, rtt = hop["loss_ratio"]["send"], hop["loss_ratio"]["receive"], hop["rtt_ms"]
    mtu = hop["mtu"]
    seen = (
        f"connected, RTT {'unknown' if rtt is None else f'{rtt:.1f} ms'}, "
        f"loss {'unknown' if there is None else f'{there:.1%}'} there, {back:.1%} back, "
        f"datagrams of {mtu} bytes"
    )
    loss = max(there or 0.0, back)
    if loss > LOSS_TOO_MUCH:
        return error(
            check, seen, f"another uplink (docs/uplinks.md); where it is lost: relay status --url {facts.url}"
        )
    if loss > LOSS:
        return warning(check, seen, REPAIR)
    if mtu <= MTU_BASE:
        do = "a tunnel on the way? tracepath PEER shows where; media flows, with smaller packets"
        return warning(check, f"{seen}: no more passes, or the search is under way", do)
    return ok(check, seen)


def _probed(facts: Facts) -> Iterator[Finding]:
    assert facts.config is not None and facts.config.hop is not None
    tried = {probe.peer for probe in facts.probes}
    for peer in facts.config.hop.peers:
        check = f"peer {peer.name}"
        if not peer.addresses:
            yield unknown(
                check, "it calls this node, which does not run", "start the node, then relay doctor"
            )
        elif peer.name not in tried:
            yield unknown(check, facts.no_probes or "its name has no address")
    for probe in facts.probes:
        yield _probe(f"peer {probe.peer}", probe)


def _probe(check: str, probe: Probe) -> Finding:
    if probe.error:
        return error(check, f"{probe.address}: {probe.error}", "is there a route? ip route")
    if not probe.rtts_ms:
        return error(check, f"{probe.address}: none of {probe.sent} handshakes was answered", OPEN)
    lost = 1 - len(probe.rtts_ms) / probe.sent
    seen = (
        f"{probe.address}: {len(probe.rtts_ms)} of {probe.sent} handshakes answered, "
        f"RTT {median(probe.rtts_ms):.1f} ms"
    )
    if lost > LOSS:
        each = 1 - (1 - lost) ** 0.5  # if both ways lose the same
        return warning(check, f"{seen}: about {each:.0%} lost each way", REPAIR)
    return ok(check, seen)
