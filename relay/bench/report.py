"""What was measured, as text for a person and as JSON (docs/operations.md, "Sizing")."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from relay import __version__
from relay.bench.capacity import REACHED, SHARE, STARVED, Capacity
from relay.bench.kernels import Cipher, Kernel
from relay.bench.machine import Heat, Machine, throttled
from relay.bench.rig import BURST, LOSS, PACKET_BYTES, REPAIR, STREAM_BPS, Round

WANTED_BUFFER: Final = 4 << 20  # bytes, what the engine asks for

LIMITS: Final = {
    "packet_thread": "the packet thread's CPU",
    "receive_buffer": "the socket's receive buffer",
    "send_buffer": "the socket's send buffer",
    "packet_memory": "packet memory",
    "network_card": "the network card",
}
OBSTACLES: Final = {
    "load_generator": "the load generator came no further",
    "cores": "nodes and load generator had too few cores",
    "loss": "packets were lost",
}
CARRIES: Final = {
    "plain RTP, 1 to 1": "from encoder to receiver as a plain forwarder",
    "plain RTP, 1 to 50": "to receivers, 50 for each encoder, as a plain forwarder",
    "edge": "from encoder to region as an edge",
    "region": "from edge to receiver as a region",
}


@dataclass(frozen=True)
class Scenario:
    name: str
    fan: int
    nodes: tuple[Capacity, ...]
    loads: tuple[Round, ...]


@dataclass(frozen=True)
class Report:
    machine: Machine
    scenarios: tuple[Scenario, ...]
    kernels: tuple[Kernel, ...]
    ciphers: tuple[Cipher, ...]
    hop_cipher: str
    heat: tuple[Heat, ...]
    """Readings before the first measurement and after each scenario."""
    receive_buffer: int
    """Bytes that the kernel granted a port."""


def rows(report: Report) -> list[tuple[str, Capacity]]:
    """Every node measured, under its name in CARRIES."""
    return [
        (node.role if node.role in CARRIES else scenario.name, node)
        for scenario in report.scenarios
        for node in scenario.nodes
    ]


# ---- sentences ----------------------------------------------------------------------------------


def sentences(report: Report) -> list[str]:
    """What the board carries, in plain words."""
    return [_sentence(name, node) for name, node in rows(report)]


def _sentence(name: str, node: Capacity) -> str:
    limit = LIMITS[node.limit]
    if node.limit == "network_card":
        limit += f", which {node.network_card_streams} fill"
    streams = f"about {_about(node.streams)} streams of 2 Mb/s"
    return f"Carries {streams} {CARRIES[name]} on one core; the limit is {limit}."


def _label(name: str) -> str:
    return f"hop, {name}" if name in ("edge", "region") else name


def _about(n: int) -> int:
    """Two significant digits: more would promise more than a measurement of seconds can keep."""
    step: int = 10 ** max(len(str(n)) - 2, 0)
    return n // step * step


def notes(report: Report) -> list[str]:
    """What has to be known to read the figures."""
    result = [
        f"Calculated from the CPU time of the packet thread, for {SHARE:.0%} of one core. Loopback has no "
        "network card: a card's interrupts come on top, on any core.",
    ]
    for name, node in rows(report):
        if node.not_reached_because:
            got = (
                f"{node.reached_streams} streams were carried here"
                if node.reached_packets_per_second
                else "none"
            )
            result.append(f"{_label(name)}: not reached, {got}; {OBSTACLES[node.not_reached_because]}.")
    if report.machine.irq_time_accounting:
        result.append(
            "This kernel (CONFIG_IRQ_TIME_ACCOUNTING) leaves out of the figures what sending costs in "
            "software interrupts: they err on the high side."
        )
    if any(node.waited_ratio > STARVED for _, node in rows(report)):
        result.append(
            "The packet thread had to wait for a CPU: other programs, or too few cores for it and the load. "
            "What waits gathers into batches, so the figures err on the high side; a quiet board says more."
        )
    if report.receive_buffer < WANTED_BUFFER:
        result.append(
            f"The kernel grants a socket {report.receive_buffer >> 10} KB of receive buffer, a node asks for "
            f"{WANTED_BUFFER >> 10}: raise net.core.rmem_max (deploy/sysctl/90-relay.conf)."
        )
    if reasons := throttled(list(report.heat)):
        result.append(
            f"The board was held back while it was measured ({', '.join(reasons)}): with better cooling or "
            "power it carries more; without, it may carry less in the long run."
        )
    return result


# ---- text ---------------------------------------------------------------------------------------


def as_text(report: Report) -> str:
    facts = report.machine
    kind = {True: ", virtual machine", False: "", None: ""}[facts.virtual]
    cards = ", ".join(f"{name} {mbps} Mb/s" for name, mbps in facts.network_cards.items())
    lines = [
        f"relay {__version__} on {facts.cpu or facts.architecture}: {facts.cores} cores{kind}, "
        f"{facts.architecture}, Linux {facts.kernel}; {cards or 'network card of unknown speed'}",
        _temperature(report.heat),
        "",
        f"Packets of {PACKET_BYTES} bytes in bursts of {BURST}. The hop loses {LOSS:.0%} each way and has "
        f"{REPAIR:.0%} repair, {report.hop_cipher}.",
        *_table(
            ["FORWARDING", "CPU ns/packet", "packets/s", "Mb/s", "streams of 2 Mb/s", "carried here"],
            _forwarding(report),
        ),
        "",
        *_table(
            ["GF(2^8), GB/s", "one source", "eight"],
            [
                [
                    f"{k.name}{' (in use)' if k.selected else ''}",
                    f"{k.one_source:.1f}",
                    f"{k.eight_sources:.1f}",
                ]
                for k in report.kernels
            ],
        ),
        "",
        *_table(
            ["AEAD, MB/s", "seal", "open"],
            [[c.name, f"{c.seal:.0f}", f"{c.open:.0f}"] for c in report.ciphers],
        ),
        "",
        *sentences(report),
        "",
        *(f"- {note}" for note in notes(report)),
    ]
    return "\n".join(line for line in lines if line is not None) + "\n"


def _forwarding(report: Report) -> list[list[str]]:
    return [
        [
            _label(name),
            f"{node.cpu_ns_per_packet:.0f}",
            f"{_about(int(node.packets_per_second))}",
            f"{_about(int(node.mbps))}",
            f"{_about(node.streams)}",
            "reached" if node.reached else f"{node.reached_streams} streams",
        ]
        for name, node in rows(report)
    ]


def _temperature(heat: Sequence[Heat]) -> str | None:
    first, last = heat[0].celsius, heat[-1].celsius
    return None if first is None or last is None else f"{first:.0f} C before, {last:.0f} C after"


def _table(head: list[str], body: list[list[str]]) -> list[str]:
    """The first column to the left, the figures to the right."""
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    return [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in [head, *body]
    ]


# ---- JSON ---------------------------------------------------------------------------------------


def as_json(report: Report) -> dict[str, Any]:
    facts = report.machine
    return {
        "version": __version__,
        "machine": asdict(facts) | {"socket_buffer_bytes": report.receive_buffer},
        "load": {
            "packet_bytes": PACKET_BYTES,
            "burst_packets": BURST,
            "stream_bps": STREAM_BPS,
            "core_share": SHARE,
            "reached_from": REACHED,
            "hop_loss_ratio": LOSS,
            "hop_repair_ratio": REPAIR,
            "hop_cipher": report.hop_cipher,
        },
        "forwarding": [
            asdict(node) | {"name": name, "mbps": node.mbps, "streams": node.streams}
            for name, node in rows(report)
        ],
        "loads": [
            asdict(load) | {"scenario": scenario.name, "lost": load.lost}
            for scenario in report.scenarios
            for load in scenario.loads
        ],
        "gf256_gbytes_per_second": [asdict(kernel) for kernel in report.kernels],
        "aead_mbytes_per_second": [asdict(cipher) for cipher in report.ciphers],
        "heat": {
            "before": asdict(report.heat[0]),
            "after": asdict(report.heat[-1]),
            "throttled": list(throttled(list(report.heat))),
        },
        "summary": sentences(report),
        "notes": notes(report),
    }
