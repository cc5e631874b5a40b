"""A region process that many subscriptions reach in the same moment: who is refused hears it at once, and a
stream that runs loses nothing."""

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from relay.lab.receiver import free_port
from tests.integration.nodes import (
    STREAM,
    Node,
    egress_toml,
    gaps,
    ingest_toml,
    keygen,
    received,
    receiver,
    running,
    sender,
    wait_for,
)

NAMES = ("region", "in", "viewer", "crowd")
JOINS = 100
RATE, PACKETS = 400.0, 1600


class Surge:
    """On loopback: a region, an edge that publishes `STREAM` and JOINS more, one that views `STREAM`, and one
    that wants all others."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        self._directory, self._stack = directory, stack
        self._keys = {name: keygen(directory / f"{name}.key") for name in NAMES}
        self._first = free_port(2 * JOINS + 4 + 2 * len(NAMES))
        self.ingest = self._first
        self.player = self._first + 2 * JOINS + 2

    def start(self, name: str, *media: str) -> Node:
        port = self.player + 2 + 2 * NAMES.index(name)
        lines = [
            f'[node]\nname = "{name}"\nrole = "{"region" if name == "region" else "edge"}"',
            f'[ops]\nlisten = "127.0.0.1:{port + 1}"',
            f'[hop]\nlisten = "127.0.0.1:{port}"\nkey_file = "{self._directory / name}.key"',
        ]
        for peer in NAMES[1:] if name == "region" else NAMES[:1]:
            lines.append(f'[[hop.peers]]\nname = "{peer}"\npublic_key = "{self._keys[peer]}"')
            if peer == "region":
                lines.append(f'address = "127.0.0.1:{self.player + 2}"')
        path = self._directory / f"{name}.toml"
        path.write_text("\n".join([*lines, *media]))
        return self._stack.enter_context(running(path, port + 1))


def waits_ms(log: str) -> list[int]:
    """How long each refusal took: from the question to the answer, as the one who asks logs them."""
    asked: dict[str, datetime] = {}
    waits = []
    for line in log.splitlines():
        time, _, _, event, *fields = line.split(" ")
        stream = next((field for field in fields if field.startswith("stream=")), "")
        if event == "stream_asked":
            asked[stream] = datetime.fromisoformat(time)
        elif event == "stream_waits" and "loaded" in line:
            waits.append(round((datetime.fromisoformat(time) - asked[stream]).total_seconds() * 1000))
    return waits


def test_a_hundred_joins_at_once(tmp_path: Path) -> None:
    names = [f"crowd-{i}" for i in range(JOINS)]
    with ExitStack() as stack:
        of = Surge(tmp_path, stack)
        region = of.start("region")
        streams = [ingest_toml(name, of.ingest + 2 * i) for i, name in enumerate([STREAM, *names])]
        edge = of.start("in", *streams)
        viewer = of.start("viewer", egress_toml(STREAM, of.player))
        wait_for("all streams", lambda: all(map(edge.sends, [STREAM, *names])), 30)
        wait_for("the viewer", lambda: viewer.json(f"/v1/streams/{STREAM}")["source"] is not None)
        wait_for("a rest", lambda: region.json("/v1/status")["admission"]["terms"]["reserved"] == 0)
        with (
            receiver(of.player) as sock,
            sender(of.ingest, rate=RATE) as source,
            ThreadPoolExecutor() as pool,
        ):
            sent = pool.submit(source.send, PACKETS)
            wait_for(
                "its rate", lambda: region.json(f"/v1/streams/{STREAM}")["tracks"][0]["bitrate_bps"] > 3e6
            )
            # Nothing comes of these streams, so their players may be anywhere.
            ways = [egress_toml(name, of.player, host=f"127.0.1.{i}") for i, name in enumerate(names)]
            crowd = of.start("crowd", *ways)
            sent.result()
            packets = received(sock)
        refused = region.json("/v1/status")["admission"]["refused"].get("load", 0)
        waits = sorted(waits_ms(crowd.log.read_text()))
    print(f"{refused} refusals, answered after {waits[len(waits) // 2]} ms (median), {waits[-1]} ms (most)")
    assert len(waits) >= 10
    assert waits[len(waits) // 2] < 1000
    assert len(packets) == PACKETS and gaps(packets) == 0
