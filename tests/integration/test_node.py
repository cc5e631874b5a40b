"""`relay run` as processes: what operators see, and what signals, restarts and mistakes do."""

import json
import os
import signal
import socket
import stat
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from relay import __version__
from relay.lab.receiver import free_port
from tests.integration.nodes import (
    H264,
    OPUS,
    SSRC,
    STREAM,
    Fleet,
    Node,
    egress_toml,
    gaps,
    hop_toml,
    ingest_toml,
    keygen,
    node_toml,
    received,
    receiver,
    relay,
    rtp,
    running,
    sender,
    udp_is_free,
    wait_for,
)

RATE = 400


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    fleets: list[Fleet] = []

    def start(**options: object) -> Fleet:
        fleets.append(Fleet(tmp_path, **options))  # type: ignore[arg-type]
        return fleets[-1]

    yield start
    for of in fleets:
        of.stack.close()


@pytest.fixture
def forwarder(tmp_path: Path) -> Iterator[tuple[Node, int]]:
    """A node that forwards two streams without a hop, and the first of its ports: in, in, out, out, spare."""
    first = free_port(12)
    config = tmp_path / "node.toml"
    config.write_text(
        node_toml(
            "plain",
            first + 10,
            ingest_toml("a", first),
            ingest_toml("b", first + 2),
            egress_toml("a", first + 4),
            egress_toml("b", first + 6),
        )
    )
    with running(config, first + 10) as node:
        yield node, first


# ---- two nodes ----------------------------------------------------------------------------------


def test_media_crosses_a_lossy_link_and_every_page_tells_of_it(fleet: Callable[..., Fleet]) -> None:
    f = fleet()
    edge, region = f.edge, f.region
    with receiver(f.player) as player, sender(f.ingest, rate=RATE) as source:
        source.send(800)
        packets = received(player)
        assert len(packets) >= 799 and gaps(packets) <= 1, f"{len(packets)} of 800"
        assert packets[0][12:] == rtp(0)[12:]
        [hop] = region.json("/v1/hops")
        assert hop["peer"] == "edge" and hop["state"] == "connected" and hop["recovered_packets"] > 100
        assert edge.get("/readyz")[0] == region.get("/readyz")[0] == 200
        assert 'relay_hop_recovered_packets_total{peer="edge"}' in region.get("/metrics")[1]
        status = region.json("/v1/status")
        assert status["ready"] and status["node"]["name"] == "region"
        assert status["engine"]["rx_datagrams"] > 800
        [stream] = region.json("/v1/streams")
        assert stream["name"] == STREAM and stream["source"] == "hop:edge"
        [track] = region.json(f"/v1/streams/{STREAM}")["tracks"]
        assert track["egress"][0]["address"] == f"127.0.0.1:{f.player}"
        assert track["egress"][0]["packets"] == len(packets)
        assert edge.json(f"/v1/streams/{STREAM}")["route"]["chosen"] == "region"
        peers = [(p["name"], p["self"], p["connected"]) for p in region.json("/v1/peers")]
        assert peers == [("region", True, True), ("edge", False, True)]
        code, text = region.get(f"/v1/streams/{STREAM}.sdp?host=127.0.0.1&port={f.player}")
        assert code == 200 and f"m=video {f.player} RTP/AVP 96" in text
        assert region.get("/v1/streams/none")[0] == 404


def test_nodes_know_how_they_and_their_peers_are(fleet: Callable[..., Fleet]) -> None:
    f = fleet(loss=0.3)

    def known() -> list[dict[str, Any]]:
        peers: list[dict[str, Any]] = f.region.json("/v1/peers")
        complete = all(peer["health"] and peer["health"]["headroom_permille"] is not None for peer in peers)
        return peers if complete else []

    for peer in wait_for("health", known):
        assert peer["age_seconds"] < 3 and peer["health"]["draining"] is False
        assert peer["health"]["memory_available_permille"] > 0 and peer["health"]["version"] == __version__
    assert "relay_board_headroom_ratio" in f.region.get("/metrics")[1]
    assert f.region.json("/v1/status")["board"]["unreadable"] == 0
    assert "self" in relay("status", "--url", f.edge.url).stdout


def test_a_region_that_was_killed_gets_its_media_again(fleet: Callable[..., Fleet]) -> None:
    f = fleet(loss=0.1)
    with receiver(f.player) as player, sender(f.ingest, rate=RATE) as source:
        source.send(100)
        assert len(received(player)) == 100
        f.region.kill()
        source.send(400)
        state = f.edge.json("/v1/hops")[0]["state"]
        f.region = f.start_region()
        wait_for("stream", lambda: f.region.json("/v1/streams")[0]["source"] == "hop:edge", 20)
        assert wait_for("publication", lambda: f.edge.sends(STREAM))
        source.send(100)
        packets = received(player)
    assert state in ("connected", "silent", "connecting")
    assert len(packets) >= 100 and packets[-1][12:] == rtp(599)[12:]
    assert gaps(packets[-100:]) == 0


def test_a_hop_over_ipv6(fleet: Callable[..., Fleet]) -> None:
    f = fleet(host="::1")
    with receiver(f.player, "::1") as player, sender(f.ingest, rate=RATE) as source:
        source.send(200)
        assert len(received(player)) >= 199
    assert f.edge.json("/v1/hops")[0]["paths"][0]["address"] == f"[::1]:{f.link}"


def test_peers_and_players_by_name(fleet: Callable[..., Fleet]) -> None:
    f = fleet(host="localhost", loss=0.0)
    [track] = f.region.json(f"/v1/streams/{STREAM}")["tracks"]
    address = track["egress"][0]["address"]
    with (
        receiver(f.player, address.rpartition(":")[0].strip("[]")) as player,
        sender(f.ingest, rate=RATE) as source,
    ):
        source.send(50)
        assert len(received(player)) == 50


# ---- signals and commands -----------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_within_a_second_and_leaves_nothing(
    forwarder: tuple[Node, int], number: signal.Signals
) -> None:
    node, first = forwarder
    with socket.create_connection(("127.0.0.1", first + 10)) as idle, sender(first, rate=RATE) as source:
        idle.sendall(b"GET /healthz HTTP/1.1\r\n")  # a client that never ends its request
        source.send(20)
        children = Path(f"/proc/{node.popen.pid}/task/{node.popen.pid}/children").read_text()
        code, seconds = node.end(number)
    assert (code, children) == (0, "") and seconds < 1, (code, children, seconds)
    assert all(udp_is_free(first + n) for n in range(4))
    assert "Traceback" not in node.log.read_text()


def test_sighup_changes_one_stream_and_leaves_the_other_alone(forwarder: tuple[Node, int]) -> None:
    node, first = forwarder
    with (
        receiver(first + 4) as a,
        receiver(first + 6) as b,
        receiver(first + 8) as new,
        sender(first, rate=RATE) as to_a,
        sender(first + 2, rate=RATE) as to_b,
    ):
        to_a.send(50)
        to_b.send(50)
        assert len(received(b, 0.2)) == 50
        node.rewrite(f"127.0.0.1:{first + 6}", f"127.0.0.1:{first + 8}")
        node.popen.send_signal(signal.SIGHUP)
        to_a.send(100)
        wait_for("reload", lambda: node.logged("reloaded"))
        to_b.send(50)
        packets = received(a)
        assert len(packets) == 150 and gaps(packets) == 0
        assert packets[-1][8:12] == packets[0][8:12]
        assert (len(received(b, 0.2)), len(received(new, 0.2))) == (0, 50)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('name = "plain"', 'naem = "plain"', "naem"),
        ("payload_type = 96", "payload_type = 300", "payload_type"),
        ('name = "plain"', 'name = "plain', "syntax"),
        ("@PLAYER", "nowhere.invalid:9", "nowhere.invalid"),
        ("@INGEST", "@BUSY", "in use"),
    ],
)
def test_sighup_with_a_mistake_changes_nothing(
    forwarder: tuple[Node, int], old: str, new: str, sentence: str
) -> None:
    node, first = forwarder
    names = {
        "@PLAYER": f"127.0.0.1:{first + 6}",
        "@INGEST": f"127.0.0.1:{first + 2}",
        "@BUSY": f"127.0.0.1:{first + 8}",
    }
    before = node.config.read_text()
    with (
        receiver(first + 4) as a,
        receiver(first + 6) as b,
        receiver(first + 8) as busy,
        sender(first, rate=RATE) as to_a,
        sender(first + 2, rate=RATE) as to_b,
    ):
        to_a.send(20)
        node.rewrite(names.get(old, old), names.get(new, new))
        # The first egress changes as well, which a refused configuration must not do.
        node.rewrite(f"127.0.0.1:{first + 4}", f"127.0.0.1:{first + 8}")
        node.popen.send_signal(signal.SIGHUP)
        wait_for("refusal", lambda: node.logged("reload_refused"))
        assert sentence in node.log.read_text()
        to_a.send(20)
        to_b.send(20)
        packets = received(a, 0.3)
        assert len(packets) == 40 and gaps(packets) == 0
        assert len(received(b, 0.3)) == 20 and received(busy, 0.1) == []
        node.config.write_text(before.replace(f"127.0.0.1:{first + 4}", f"127.0.0.1:{first + 8}"))
        node.popen.send_signal(signal.SIGHUP)
        wait_for("reload", lambda: node.logged("reloaded"))
        to_a.send(20)
        assert len(received(busy, 0.3)) == 20


def test_status_and_drain(fleet: Callable[..., Fleet]) -> None:
    f = fleet(loss=0.0)
    text = relay("status", "--url", f.edge.url)
    assert (text.returncode, text.stderr) == (0, "") and STREAM in text.stdout and "region" in text.stdout
    of_json = relay("status", "--json", "--url", f.edge.url)
    assert json.loads(of_json.stdout)["node"]["name"] == "edge"
    drained = relay("drain", "--timeout", "5", "--url", f.region.url)
    assert (drained.returncode, drained.stdout, drained.stderr) == (0, "", "")
    assert f.region.popen.wait(5) == 0
    assert wait_for("refusal", lambda: not f.edge.sends(STREAM))
    assert (
        f.edge.json(f"/v1/streams/{STREAM}")["route"]["candidates"][0]["refused"] == "this node is draining"
    )
    gone = relay("status", "--url", f.region.url)
    assert gone.returncode == 1 and gone.stderr.startswith("relay: no node answers at") and gone.stdout == ""


# ---- mistakes -----------------------------------------------------------------------------------


def fails(config: Path, text: str, code: int, *words: str) -> None:
    config.write_text(text)
    done = relay("run", "--config", str(config))
    assert done.returncode == code, done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("relay: ")]
    assert len(errors) == 1 and all(word in errors[0] for word in words), done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


def test_a_port_in_use(tmp_path: Path) -> None:
    first = free_port(4)
    key = tmp_path / "node.key"
    public = keygen(tmp_path / "peer.key")
    keygen(key)
    with receiver(first), socket.create_server(("127.0.0.1", first + 3)):
        in_use = "in use"
        fails(
            tmp_path / "a.toml",
            node_toml("a", first + 2, hop_toml(f"127.0.0.1:{first}", key, "b", public)),
            1,
            f"127.0.0.1:{first}",
            in_use,
        )
        fails(tmp_path / "b.toml", node_toml("b", first + 2, ingest_toml("s", first)), 1, str(first), in_use)
        fails(
            tmp_path / "c.toml",
            node_toml("c", first + 3, ingest_toml("s", first + 1)),
            1,
            f"127.0.0.1:{first + 3}",
            in_use,
        )
    assert all(udp_is_free(first + n) for n in range(3))


def test_keys_that_cannot_be_used(tmp_path: Path) -> None:
    first = free_port(2)
    key = tmp_path / "node.key"
    public = keygen(tmp_path / "peer.key")

    def text(file: Path) -> str:
        return node_toml("a", first + 1, hop_toml(f"127.0.0.1:{first}", file, "b", public))

    fails(tmp_path / "a.toml", text(key), 2, str(key), "no such file", "relay keygen")
    fails(tmp_path / "a.toml", text(tmp_path), 2, str(tmp_path), "directory")
    keygen(key)
    key.chmod(0o644)
    fails(tmp_path / "a.toml", text(key), 2, "chmod 600")
    key.write_text("nonsense")
    key.chmod(stat.S_IRUSR)
    fails(tmp_path / "a.toml", text(key), 2, "no key in it")
    if os.geteuid():  # root may read everything
        key.chmod(0)
        fails(tmp_path / "a.toml", text(key), 2, "may not read")


def test_wrong_configurations(tmp_path: Path) -> None:
    first = free_port(4)
    config = tmp_path / "a.toml"
    fails(config, "[node", 2, "syntax")
    fails(config, '[node]\nname = "a"\nregoin = "x"\n', 2, "node.regoin", "region")
    plain = node_toml("a", first + 2, ingest_toml("s", first), egress_toml("s", 5004, host="nowhere.invalid"))
    fails(config, plain, 1, "nowhere.invalid")
    missing = relay("run", "--config", str(tmp_path / "none.toml"))
    assert missing.returncode == 2 and missing.stderr.count("\n") == 1


# ---- SDP ----------------------------------------------------------------------------------------


def sender_report(ntp: int, timestamp: int) -> bytes:
    """RFC 3550 section 6.4.1, with no report block, and the CNAME that section 6.1 wants beside it."""
    return struct.pack("!BBHIQIII", 0x80, 200, 6, SSRC, ntp, timestamp, 1, 1) + struct.pack(
        "!BBHIBB2s4x", 0x81, 202, 3, SSRC, 1, 2, b"me"
    )


@pytest.mark.parametrize("address", ["203.0.113.9", "relay.example", "127.0.0.1"])
def test_an_ingest_that_an_sdp_file_describes(tmp_path: Path, address: str) -> None:
    first = free_port(12)
    sdp = tmp_path / "studio.sdp"
    sdp.write_text(
        f"v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 {address}\nt=0 0\n"
        f"m=video {first} RTP/AVP 96\na=rtpmap:96 H264/90000\na=fmtp:96 packetization-mode=1\n"
        f"a=rtcp:{first + 5}\n"
    )
    config = tmp_path / "node.toml"
    egress = egress_toml("s", first + 6)
    config.write_text(node_toml("a", first + 10, f'[[ingest.rtp]]\nstream = "s"\nsdp = "{sdp}"\n', egress))
    with (
        running(config, first + 10) as node,
        receiver(first + 6) as player,
        receiver(first + 7) as reports,
        sender(first, rate=RATE) as source,
    ):
        source.send(1)
        source.socket.sendto(sender_report(5 << 32, 0), ("127.0.0.1", first + 5))
        wait_for("report", lambda: node.json("/v1/streams/s")["tracks"][0]["sender_reports"])
        source.send(20)
        assert len(received(player, 0.3)) == 21
        assert struct.unpack_from("!Q", received(reports, 0.2)[0], 8)[0] >= 5 << 32
        assert udp_is_free(first + 1)
        code, text = node.get(f"/v1/streams/s.sdp?host=192.0.2.1&port={first}")
        assert code == 200 and "a=fmtp:96 packetization-mode=1" in text


def test_an_sdp_whose_ports_are_too_high(tmp_path: Path) -> None:
    first = free_port(6)
    config = tmp_path / "node.toml"
    config.write_text(node_toml("a", first + 4, ingest_toml("s", first, H264, OPUS)))
    with running(config, first + 4) as node:
        assert node.get("/v1/streams/s.sdp?host=192.0.2.1&port=65532")[0] == 200
        code, text = node.get("/v1/streams/s.sdp?host=192.0.2.1&port=65534")
        assert code == 400 and "2 tracks from port 65534" in json.loads(text)["error"]
