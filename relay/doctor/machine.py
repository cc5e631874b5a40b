"""Checks of the machine: kernel, buffers, clock, interfaces, board."""

import re
from collections.abc import Iterator

from relay.core.health import EXPECTED, RULES, Rule
from relay.doctor.facts import FREE_SPACE, Facts, Finding, error, ok, unknown, warning
from relay.wire.hop import MTU_BASE
from relay_ext.engine import SOCKET_BUFFER

LEAST_KERNEL = (5, 0)
"""With UDP GRO; what is older works with more CPU time a packet."""
LATER_KERNEL = "a later kernel: apt full-upgrade; the node works without it, with more CPU time a packet"
UDP_HEADERS = 48
"""Bytes of IPv6 and UDP headers (RFC 8200 section 3, RFC 768)."""
ETHERNET_MTU = 1500
MEMORY = "see what takes it: ps -eo pid,rss,comm --sort=-rss | head"
DO = {
    "temperature_c": "more air, a heat sink or a fan; `relay bench` shows whether the board is held back",
    "throttled": "better cooling or a better power supply; on a Raspberry Pi: vcgencmd get_throttled",
    "under_voltage": "a supply that holds its voltage under load, a short cable",
    "memory_pressure_permille": MEMORY,
    "memory_available_permille": MEMORY,
    "backlog_drops_per_s": "sysctl -w net.core.netdev_max_backlog=5000",
    "udp_drops_per_s": "see whose buffer is full: ss -lunpm; for this node see `buffers`",
    "nic_errors_per_s": "see which card: ip -s link; try another cable or port",
    "disk_errors": "look at dmesg --level=err,warn; replace the card or disk",
    "disk_read_only": "look at dmesg --level=err,warn, then mount -o remount,rw /",
    "disk_free_permille": FREE_SPACE,
}
"""Facts of the board that have an alarm, and what to do then."""
UNITS = {"permille": (10, " %"), "c": (1, " °C"), "s": (1, " per second")}
"""By the end of a fact's name: divided by what, followed by what."""


def check_machine(facts: Facts) -> Iterator[Finding]:
    yield from _kernel(facts)
    yield from _packet_plane(facts)
    yield from _buffers(facts)
    yield _clock(facts)
    yield from _interfaces(facts)
    for rule in RULES:
        if rule.fact in DO:
            yield _board(facts, rule)


def _kernel(facts: Facts) -> Iterator[Finding]:
    release = facts.kernel.release
    version = tuple(int(n) for n in re.findall(r"\d+", release)[:2])
    if len(version) < 2:
        yield unknown("kernel", f"{release!r} names no version")
    elif version < LEAST_KERNEL:
        yield warning("kernel", f"Linux {release}, without UDP GRO", LATER_KERNEL)
    else:
        yield ok("kernel", f"Linux {release}")
    for check, there, what in (
        ("udp gso", facts.kernel.gso, "UDP_SEGMENT, several datagrams a send (Linux 4.18)"),
        ("udp gro", facts.kernel.gro, "UDP_GRO, several datagrams a receive (Linux 5.0)"),
    ):
        yield ok(check, what) if there else warning(check, f"the kernel has no {what}", LATER_KERNEL)


def _packet_plane(facts: Facts) -> Iterator[Finding]:
    kernel, threads = facts.kernel, facts.config.engine.threads if facts.config else 1
    if kernel.steering:
        yield ok("steering", "a UDP port can be shared among threads (SO_ATTACH_REUSEPORT_CBPF)")
    elif threads > 1:
        yield error("steering", "the kernel cannot share a UDP port among threads", "[engine] threads = 1")
    else:
        yield ok("steering", "not there, and not needed with [engine] threads = 1")
    if kernel.received:
        yield ok("packet thread", "received by recvmmsg on loopback")
    else:
        do = "a firewall on loopback (nft list ruleset), or a sandbox that forbids recvmmsg?"
        yield error("packet thread", "a datagram to the packet thread on loopback did not arrive", do)
    choice = f"{kernel.field_kernel} for repair; {kernel.ciphers[0]} is the fastest cipher"
    fastest = kernel.field_kernels[-1]
    if kernel.field_kernel == fastest:
        yield ok("processor", choice)
    else:
        yield warning("processor", choice, f"unset RELAY_GF256: {fastest} is faster on this processor")


def _buffers(facts: Facts) -> Iterator[Finding]:
    for name, size in ("rmem_max", facts.kernel.rmem_max), ("wmem_max", facts.kernel.wmem_max):
        check = f"buffers, {name}"
        if size is None:
            yield unknown(check, f"/proc/sys/net/core/{name} cannot be read")
        elif size < SOCKET_BUFFER:
            setting = f"net.core.{name}={SOCKET_BUFFER}"
            seen = f"net.core.{name} is {size}, the node asks for {SOCKET_BUFFER}: bursts may be lost"
            do = (
                f"sysctl -w {setting} && echo {setting} >> /etc/sysctl.d/90-relay.conf, then restart the node"
            )
            yield warning(check, seen, do)
        else:
            yield ok(check, f"net.core.{name} is {size}, the node asks for {SOCKET_BUFFER}")


def _clock(facts: Facts) -> Finding:
    synchronised = facts.board.clock_synchronised
    if synchronised is None:
        return unknown("clock", "the kernel does not say (adjtimex)")
    if synchronised:
        return ok("clock", "synchronised")
    do = "apt install systemd-timesyncd && timedatectl set-ntp true; only logs and warnings need it"
    return warning("clock", "not synchronised", do)


def _interfaces(facts: Facts) -> Iterator[Finding]:
    if not facts.mtus:
        yield unknown("mtu", "no interface but loopback is up, or /sys/class/net cannot be read", "ip link")
    for name, mtu in sorted(facts.mtus.items()):
        check = f"mtu of {name}"
        if mtu < MTU_BASE + UDP_HEADERS:
            seen = f"{mtu} bytes, less than the {MTU_BASE + UDP_HEADERS} that a hop needs (IPv6's least)"
            yield error(check, seen, f"ip link set {name} mtu {MTU_BASE + UDP_HEADERS}, or another uplink")
        else:
            few = "" if mtu >= ETHERNET_MTU else ": fewer media bytes a datagram"
            yield ok(check, f"{mtu} bytes{few}")


def _board(facts: Facts, rule: Rule) -> Finding:
    check = rule.fact.removesuffix("_permille").removesuffix("_c").removesuffix("_per_s").replace("_", " ")
    value = getattr(facts.board, rule.fact)
    if value is None:
        expected = " (every board should)" if rule.fact in EXPECTED else ""
        return unknown(check, f"this board does not say{expected}")
    seen = _shown(rule.fact, value)
    if not rule.holds(value, before=False):
        return ok(check, seen)
    return warning(check, f"{seen}: {rule.alarm}", DO[rule.fact])


def _shown(fact: str, value: float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    divisor, unit = UNITS.get(fact.rpartition("_")[2], (1, ""))
    return f"{value / divisor:g}{unit}"
