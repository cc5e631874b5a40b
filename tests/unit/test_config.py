"""The configuration: what is accepted, what it becomes, and every error with its key path."""

import base64
import dataclasses
import json
import random
import re
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.config import Address, Config, RtpTrack, notes, parse, parse_address
from relay.config.checks import Array, Scalar, Table, is_host
from relay.config.files import check_files, load, read_private_key
from relay.config.reader import Reader, checks_of
from relay.config.shown import SHOWN, shown
from relay.core.record import Record, revise, sign, to_text
from relay.errors import ConfigError
from relay_ext.crypto import ed25519_public_key, x25519_public_key

REFERENCE = Path(__file__).parents[2] / "docs" / "node.toml"
KEY = base64.b64encode(bytes(range(32))).decode()
OTHER_KEY = base64.b64encode(bytes(range(1, 33))).decode()
VIDEO = '{ kind = "video", listen = "0.0.0.0:5004", payload_type = 96, codec = "H264/90000" }'
AUDIO = '{ kind = "audio", listen = "0.0.0.0:5006", payload_type = 97, codec = "opus/48000/2" }'
NODE = '[node]\nname = "a"\n'


def problems(text: str, environ: dict[str, str] | None = None) -> dict[str, str]:
    """Key path -> the rest of the sentence, for a configuration that must be refused."""
    with pytest.raises(ConfigError) as caught:
        parse(text, environ or {})
    return {p.path: f"found {p.found}, expected {p.expected}" for p in caught.value.problems}


def ingest(stream: str = "s", tracks: str = VIDEO) -> str:
    return f'[[ingest.rtp]]\nstream = "{stream}"\ntracks = [{tracks}]\n'


def egress(stream: str = "s", to: str = '{ kind = "video", address = "192.0.2.1:6004" }') -> str:
    return f'[[egress.rtp]]\nstream = "{stream}"\nto = [{to}]\n'


def peer(name: str = "p", key: str = KEY, more: str = "") -> str:
    return f'[[hop.peers]]\nname = "{name}"\npublic_key = "{key}"\n{more}\n'


# ---- what is accepted ---------------------------------------------------------------------------


def test_the_least_configuration_has_the_defaults_of_the_contract() -> None:
    config = parse(NODE, {})
    assert (config.node.name, config.node.state_dir) == ("a", Path("/var/lib/relay"))
    assert config.hop is None and config.web is None
    assert config.ops.listen == ("127.0.0.1", 7480)
    assert (config.log.format, config.log.level) == ("text", "info")
    assert (config.ingest.rtp, config.egress.rtp) == ((), ())


def test_hop_defaults() -> None:
    hop = parse(NODE + "[hop]\n", {}).hop
    assert hop is not None
    assert hop.listen == ("::", 7400) and hop.key_file == Path("/etc/relay/node.key")
    assert (hop.budget_ms, hop.max_overhead, hop.peers) == (200, 1.0, ())


def test_the_reference_configuration() -> None:
    config = parse(REFERENCE.read_text(), {})
    assert config.hop is not None
    first, second, third = config.hop.peers
    assert first.addresses == (Address("203.0.113.7", 7400),)
    assert second.addresses == (Address("198.51.100.9", 7400), Address("2001:db8::9", 7400))
    assert third.addresses == () and third.region == "default" and len(third.public_key) == 32
    studio, obs, field = config.ingest.rtp
    assert (studio.latency_ms, len(studio.tracks), obs.tracks[0].clock_rate) == (400, 2, 90000)
    assert obs.tracks[0] == RtpTrack(
        kind="av", listen=Address("0.0.0.0", 5010), payload_type=33, codec="MP2T/90000"
    )
    assert field.sdp == Path("/etc/relay/field.sdp") and field.tracks == () and field.latency_ms is None
    assert [(to.kind, to.index) for to in config.egress.rtp[0].to] == [
        ("video", 0),
        ("audio", 0),
        ("video", 0),
    ]
    assert notes(config) == ("[web] is reserved: nothing listens there in this version",)
    assert notes(parse(NODE, {})) == ()


def test_the_reference_configuration_shows_every_key_and_its_default() -> None:
    text = REFERENCE.read_text()

    def walk(of: type, raw: list[dict[str, Any]]) -> None:
        for field in dataclasses.fields(of):
            check = checks_of(of)[field.name]
            given = [table[field.name] for table in raw if field.name in table]
            assert given, f"{of.__name__}.{field.name} is not shown"
            single = check.single if isinstance(check, Array) else None
            assert single is None or any(single in table for table in raw), f"{single} is not shown"
            inner = check.item if isinstance(check, Array) else check
            if isinstance(inner, Table):
                walk(inner.of, [t for g in given for t in (g if isinstance(g, list) else [g])])
            elif field.default not in (dataclasses.MISSING, None, ()):
                default = field.default
                shown = str(default) if isinstance(default, int | float) else f'"{default}"'
                lines = [x for x in text.splitlines() if f"Default: {shown}" in x]
                assert any(field.name in x for x in lines), f"{field.name}: no default {shown}"

    walk(Config, [tomllib.loads(text)])


def test_the_environment_overrides_scalars_of_single_tables() -> None:
    environ = {
        "RELAY_NODE_REGION": "eu",
        "RELAY_HOP_BUDGET_MS": "300",
        "RELAY_HOP_MAX_OVERHEAD": "0.5",
        "RELAY_OPS_LISTEN": "[::1]:9000",
        "RELAY_ENGINE_COALESCE_US": "0",
        "RELAY_LOG_FORMAT": "json",
        "RELAY_EXT_ASAN": "1",  # no section of ours
        "PATH": "/bin",
    }
    config = parse(NODE + "[hop]\nbudget_ms = 100\n", environ)
    assert config.hop is not None
    assert (config.hop.budget_ms, config.hop.max_overhead) == (300, 0.5)
    assert config.engine.coalesce_us == 0
    assert config.node.region == "eu" and config.ops.listen == ("::1", 9000) and config.log.format == "json"


def test_egress_without_ingest_is_fine_when_a_peer_may_send_the_stream() -> None:
    parse(NODE + "[hop]\n" + peer() + egress("elsewhere"), {})


def test_egress_may_choose_among_tracks_of_one_kind() -> None:
    second = VIDEO.replace("5004", "5008")
    first = '{ kind = "video", address = "192.0.2.1:6004" }'
    to = first + ', { kind = "video", address = "192.0.2.1:6006", index = 1 }'
    config = parse(NODE + ingest(tracks=f"{VIDEO}, {second}") + egress(to=to), {})
    assert [d.index for d in config.egress.rtp[0].to] == [0, 1]


def test_one_port_on_two_addresses_is_no_conflict() -> None:
    tracks = [VIDEO.replace("0.0.0.0", host) for host in ("127.0.0.1", "127.0.0.2", "[::1]")]
    parse(NODE + ingest(tracks=", ".join(tracks)), {})


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("[::]:7400", ("::", 7400)),
        ("0.0.0.0:1", ("0.0.0.0", 1)),
        ("relay.example.org:65535", ("relay.example.org", 65535)),
        ("[fe80::1%eth0]:7400", ("fe80::1%eth0", 7400)),
    ],
)
def test_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_address(text) == address
    assert str(parse_address(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":7400",
        "host",
        "host:",
        "host:0",
        "host:65536",
        "::1:7400",
        "[1.2.3.4]:1",
        "[::1]",
        "1.2.3:4",
        "300.1.1.1:4",
        "a b:1",
        "-a:1",
        "a..b:1",
        "h:+1",
        "h:1 ",
        "h:١",
        "[fe80::1%a\nb]:1",
        "x" * 64 + ":1",
        "[]:1",
    ],
)
def test_bad_addresses(text: str) -> None:
    with pytest.raises(ValueError):
        parse_address(text)


def test_is_host_bounds_the_length() -> None:
    assert is_host(".".join(["a" * 62] * 4)) and not is_host(".".join(["a" * 63] * 4))


# ---- what is refused ----------------------------------------------------------------------------

BAD_VALUES = [
    ("[node]\n", "node.name", "found nothing, expected a name"),
    ("[log]\n", "node.name", "found nothing, expected a name"),
    ("node = 3\n", "node", "found 3, expected a table"),
    ('[node]\nname = "a b"\n', "node.name", 'found "a b"'),
    ("[node]\nname = 3\n", "node.name", "found 3"),
    (NODE + 'state_dir = ""\n', "node.state_dir", 'found "", expected the path'),
    (NODE + "reigon = 1\n", "node.reigon", "found an unknown key, expected region"),
    (NODE + "xyz = 1\n", "node.xyz", "found an unknown key, expected one of name, region, role, state_dir"),
    (NODE + '"a\\nb" = 1\n', 'node."a\\nb"', "found an unknown key"),
    (NODE + "[hopp]\n", "hopp", "found an unknown key, expected hop"),
    (NODE + "[engine]\ncoalesce = 2\n", "engine.coalesce", "found an unknown key, expected coalesce_us"),
    (NODE + "[engine]\ncoalesce_us = 1001\n", "engine.coalesce_us", "found 1001, expected a whole number"),
    (NODE + "[motor]\nthreads = 2\n", "motor", "found an unknown key"),
    (NODE + "[engine]\nthreads = 3\n", "engine.threads", "found 3, expected a power of two from 1 to 16"),
    (NODE + "[engine]\nthreads = 32\n", "engine.threads", "found 32"),
    (NODE + "[engine]\nthreads = 0\n", "engine.threads", "found 0"),
    (NODE + "[engine]\nthreads = true\n", "engine.threads", "found true"),
    (
        NODE + "[hop]\nbudget_ms = 19\n",
        "hop.budget_ms",
        "found 19, expected a whole number from 20 to 5000 (ms)",
    ),
    (NODE + "[hop]\nbudget_ms = 200.0\n", "hop.budget_ms", "found 200.0"),
    (NODE + "[hop]\nbudget_ms = true\n", "hop.budget_ms", "found true"),
    (NODE + '[hop]\nbudget_ms = "200"\n', "hop.budget_ms", 'found "200"'),
    (NODE + "[hop]\nmax_overhead = nan\n", "hop.max_overhead", "found nan, expected a number from 0 to 3"),
    (NODE + "[hop]\nmax_overhead = 3.1\n", "hop.max_overhead", "found 3.1"),
    (NODE + '[hop]\nlisten = "relay.example.org:7400"\n', "hop.listen", 'expected "IP:PORT"'),
    (NODE + "[hop]\nlisten = 7400\n", "hop.listen", "found 7400"),
    (NODE + "[hop]\npeers = 3\n", "hop.peers", "found 3, expected an array"),
    (NODE + "[hop]\npeers = [3]\n", "hop.peers[0]", "found 3, expected a table"),
    (NODE + "[hop]\n" + peer(key="c2hvcnQ="), "hop.peers[0].public_key", "found 8 characters that are none"),
    (NODE + "[hop]\n" + peer(key=KEY[:-1] + "*"), "hop.peers[0].public_key", "expected an X25519 public key"),
    (NODE + "[hop]\n" + peer(more="address = '1.2.3.4'"), "hop.peers[0].address", 'found "1.2.3.4"'),
    (NODE + "[hop]\n" + peer(more="addresses = []"), "hop.peers[0].addresses", "found an array of 0"),
    (NODE + "[hop]\n" + peer(more="addresses = ['1.2.3.4:5', 6]"), "hop.peers[0].addresses[1]", "found 6"),
    (
        NODE + "[hop]\n" + peer(more="address = '1.2.3.4:5'\naddresses = ['1.2.3.4:6']"),
        "hop.peers[0]",
        "found both address and addresses, expected one of them",
    ),
    (NODE + '[log]\nformat = "xml"\n', "log.format", 'found "xml", expected one of "text", "json"'),
    (NODE + ingest(".hidden"), "ingest.rtp[0].stream", "expected a stream name"),
    (NODE + ingest("a.sdp"), "ingest.rtp[0].stream", "does not end in .sdp"),
    (NODE + ingest("s" * 64), "ingest.rtp[0].stream", "up to 63"),
    (NODE + ingest(tracks=""), "ingest.rtp[0].tracks", "found an array of 0, expected an array of 1 to"),
    (
        NODE + '[[ingest.rtp]]\nstream = "s"\n',
        "ingest.rtp[0]",
        "found neither, expected either sdp or tracks",
    ),
    (NODE + ingest() + 'sdp = "x"\n', "ingest.rtp[0]", "found sdp and tracks, expected either"),
    (NODE + ingest() + "latency_ms = 19\n", "ingest.rtp[0].latency_ms", "found 19"),
    (NODE + ingest(tracks=VIDEO.replace("video", "vidoe")), "ingest.rtp[0].tracks[0].kind", 'found "vidoe"'),
    (NODE + ingest(tracks=VIDEO.replace("96", "128")), "ingest.rtp[0].tracks[0].payload_type", "found 128"),
    (
        NODE + ingest(tracks=VIDEO.replace("96", "72")),
        "ingest.rtp[0].tracks[0].payload_type",
        "look like RTCP",
    ),
    (
        NODE + ingest(tracks=VIDEO.replace("H264/90000", "H264")),
        "ingest.rtp[0].tracks[0].codec",
        'found "H264"',
    ),
    (NODE + ingest(tracks=VIDEO.replace("90000", "0")), "ingest.rtp[0].tracks[0].codec", "as in SDP"),
    (
        NODE + ingest(tracks=VIDEO.replace("5004", "65535")),
        "ingest.rtp[0].tracks[0].listen",
        "port 1 to 65534",
    ),
    (NODE + ingest() + egress(to=""), "egress.rtp[0].to", "found an array of 0"),
    (NODE + "x = [", "syntax", "expected TOML"),
    (NODE + "x = " + "[" * 5000, "syntax", "expected TOML"),
]


@pytest.mark.parametrize(("text", "path", "sentence"), BAD_VALUES)
def test_bad_values(text: str, path: str, sentence: str) -> None:
    found = problems(text)
    assert list(found) == [path]
    assert sentence in found[path]


BAD_TOGETHER = [
    (
        ingest() + ingest(tracks=AUDIO),
        "ingest.rtp[1].stream",
        "found the stream name of ingest.rtp[0].stream again",
    ),
    (
        "[hop]\n" + peer() + peer(key=OTHER_KEY),
        "hop.peers[1].name",
        "the node name of hop.peers[0].name again",
    ),
    ("[hop]\n" + peer("a"), "hop.peers[0].name", "the node name of node.name again"),
    (
        "[hop]\n" + peer() + peer("q"),
        "hop.peers[1].public_key",
        "the public key of hop.peers[0].public_key again",
    ),
    (egress(), "egress.rtp[0].stream", 'found "s", expected a stream of [[ingest.rtp]], or [[hop.peers]]'),
    ("[hop]\n" + egress(), "egress.rtp[0].stream", "[[hop.peers]]"),
    (
        ingest(tracks=AUDIO) + egress(),
        "egress.rtp[0].to[0]",
        "found video track 0, expected a kind that the stream's ingest has: audio",
    ),
    (
        ingest() + egress(to='{ kind = "video", address = "192.0.2.1:6004", index = 1 }'),
        "egress.rtp[0].to[0]",
        "found video track 1, expected an index below 1",
    ),
    (
        ingest() + egress() + egress(),
        "egress.rtp[1].to[0].address",
        "found the destination of egress.rtp[0].to[0].address again",
    ),
    (
        ingest(tracks=f"{VIDEO}, {AUDIO.replace('5006', '5004')}"),
        "ingest.rtp[0].tracks[1].listen",
        "found UDP port 5004 of ingest.rtp[0].tracks[0].listen again",
    ),
    (
        ingest(tracks=f"{VIDEO}, {AUDIO.replace('5006', '5005')}"),
        "ingest.rtp[0].tracks[1].listen",
        "found UDP port 5005 of ingest.rtp[0].tracks[0].listen (RTCP) again",
    ),
    (
        "[hop]\n" + ingest(tracks=VIDEO.replace("0.0.0.0:5004", "127.0.0.1:7400")),
        "ingest.rtp[0].tracks[0].listen",
        "found UDP port 7400 of hop.listen again",
    ),
    ('[web]\nlisten = "0.0.0.0:7480"\n', "web.listen", "found TCP port 7480 of ops.listen again"),
]


@pytest.mark.parametrize(("text", "path", "sentence"), BAD_TOGETHER)
def test_values_that_do_not_go_together(text: str, path: str, sentence: str) -> None:
    found = problems(NODE + text)
    assert list(found) == [path]
    assert sentence in found[path]


def test_all_errors_come_at_once_and_none_hides_another() -> None:
    text = """
        [node]
        naem = "a"
        [hop]
        budget_ms = "x"
        [[hop.peers]]
        name = "p"
        [[ingest.rtp]]
        stream = "s"
        tracks = [{ kind = "video", listen = "0.0.0.0:5004", payload_type = 96, codec = 5 }]
        [[ingest.rtp]]
        stream = "s"
        tracks = [{ kind = "audio", listen = "0.0.0.0:5004", payload_type = -1, codec = "opus/48000/2" }]
        [[egress.rtp]]
        stream = "s"
        """
    assert set(problems(text, {"RELAY_LOG_LEVEL": "loud", "RELAY_HOP_BUGDET_MS": "1"})) == {
        "node.naem",
        "node.name",
        "hop.budget_ms",
        "hop.peers[0].public_key",
        "ingest.rtp[0].tracks[0].codec",
        "ingest.rtp[1].stream",
        "ingest.rtp[1].tracks[0].payload_type",
        "ingest.rtp[1].tracks[0].listen",
        "egress.rtp[0].to",
        "RELAY_LOG_LEVEL",
        "RELAY_HOP_BUGDET_MS",
    }


def test_errors_of_the_environment_name_the_variable() -> None:
    found = problems(NODE, {"RELAY_HOP_BUDGET_MS": "soon", "RELAY_HOP_PEERS": "x", "RELAY_INGEST_RTP": "x"})
    assert found["RELAY_HOP_BUDGET_MS"].startswith('found "soon", expected a whole number')
    assert found["RELAY_HOP_PEERS"].startswith("found an unknown variable")
    assert found["RELAY_INGEST_RTP"].startswith("found an unknown variable")


def test_a_key_pasted_in_the_wrong_place_is_not_shown() -> None:
    assert "secret" not in str(problems(NODE + "[hop]\n" + peer(key="secret-secret-secret")))


def test_sentences_are_one_bounded_line() -> None:
    for found in problems(NODE + f'region = "{"x" * 5000}"\n[log]\nlevel = "a\\u0085\\nb"\n').values():
        assert len(found) < 300 and found.isprintable()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda v: st.lists(v, max_size=3)
    )
)
def test_no_value_of_any_type_breaks_the_reader(value: Any) -> None:
    def replace(of: type) -> None:
        for name, check in checks_of(of).items():
            reader = Reader()
            reader.value(check, name, value)
            inner = check.item if isinstance(check, Array) else check
            if isinstance(inner, Table):
                Reader().table(inner, name, dict.fromkeys(checks_of(inner.of), value))
                replace(inner.of)
            else:
                assert isinstance(inner, Scalar)

    replace(Config)


def test_random_damage_is_refused_or_read_but_never_crashes() -> None:
    seed = 20240607
    rng = random.Random(seed)
    text = REFERENCE.read_text()
    words = re.findall(r'"[^"\n]*"|\d+|true|\{|\}|\[|\]', text)
    for _ in range(300):
        damaged = text
        for _ in range(rng.randint(1, 4)):
            damaged = damaged.replace(
                rng.choice(words), rng.choice([*words, "false", "nan", "1979-05-27"]), 1
            )
        try:
            parse(damaged, {})
        except ConfigError as error:
            assert error.problems, f"seed {seed}"


# ---- files --------------------------------------------------------------------------------------


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "node.key"
    path.write_text(KEY + "\n")
    path.chmod(0o600)
    return path


def sdp(*kinds: str) -> Callable[[str], Any]:
    """An SDP parser that finds media of these kinds in anything."""
    return lambda text: SimpleNamespace(media=[SimpleNamespace(kind=kind) for kind in kinds])


def file_problems(text: str, parse_sdp: Callable[[str], Any] | None = None) -> dict[str, str]:
    found = check_files(parse(text, {}), parse_sdp or sdp("video"))
    return {p.path: f"found {p.found}, expected {p.expected}" for p in found}


def with_key(path: Path, more: str = "") -> str:
    return f'{NODE}[hop]\nkey_file = "{path}"\n{more}'


def test_a_good_key_file(key_file: Path) -> None:
    assert file_problems(with_key(key_file, peer(key=OTHER_KEY))) == {}
    assert read_private_key(key_file) == bytes(range(32))


def test_a_plain_forwarder_needs_no_key() -> None:
    assert file_problems(NODE + ingest() + egress()) == {}


@pytest.mark.parametrize("content", [b"", b"hello\n", b"c2hvcnQ=\n", b"\xff\xfe", b"A" * (2 << 20)])
def test_a_key_file_without_a_key_says_what_to_do(key_file: Path, content: bytes) -> None:
    key_file.write_bytes(content)
    found = file_problems(with_key(key_file))
    assert f"`relay keygen --out {key_file}` makes one" in found["hop.key_file"]
    assert len(found["hop.key_file"]) < 400


def test_a_missing_key_file(tmp_path: Path) -> None:
    found = file_problems(with_key(tmp_path / "none"))
    assert "none: found" not in found["hop.key_file"]
    assert "no such file or directory, expected a private key; `relay keygen" in found["hop.key_file"]


def test_a_key_file_that_may_not_be_read(monkeypatch: pytest.MonkeyPatch, key_file: Path) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refuse)
    assert "this user may not read" in file_problems(with_key(key_file))["hop.key_file"]
    assert "run as its owner" in file_problems(with_key(key_file))["hop.key_file"]


@pytest.mark.parametrize(
    ("mode", "lax"), [(0o600, False), (0o440, False), (0o644, True), (0o620, True), (0o602, True)]
)
def test_permissions_of_the_key_file(key_file: Path, mode: int, lax: bool) -> None:
    key_file.chmod(mode)
    found = file_problems(with_key(key_file))
    assert ("hop.key_file" in found) == lax
    assert not lax or f"chmod 600 {key_file}" in found["hop.key_file"]


def test_a_peer_with_the_key_of_this_node(key_file: Path) -> None:
    own = base64.b64encode(x25519_public_key(bytes(range(32))))
    found = file_problems(with_key(key_file, peer(key=own.decode())))
    assert "the key of this node" in found["hop.peers[0].public_key"]


@pytest.mark.parametrize("point", [bytes(32), b"\x01" + bytes(31)])
def test_a_peer_with_a_key_of_low_order(key_file: Path, point: bytes) -> None:
    found = file_problems(with_key(key_file, peer(key=base64.b64encode(point).decode())))
    assert "a key that gives no secret" in found["hop.peers[0].public_key"]


def test_sdp_files(tmp_path: Path) -> None:
    def refuse(_: str) -> None:
        raise ValueError("line 3 has no =")

    path = tmp_path / "s.sdp"
    text = f'{NODE}[[ingest.rtp]]\nstream = "s"\nsdp = "{path}"\n' + egress()
    assert "no such file" in file_problems(text)["ingest.rtp[0].sdp"]
    path.write_text("v=0")
    assert file_problems(text) == {}
    assert "expected a kind" in file_problems(text, sdp("audio"))["egress.rtp[0].to[0]"]
    assert f"{path}: line 3 has no =" in file_problems(text, refuse)["ingest.rtp[0].sdp"]


def test_load(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(NODE)
    assert load(path, {"RELAY_NODE_NAME": "b"}).node.name == "b"
    for bad in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match=re.escape(f"{bad}: found ")):
            load(bad, {})


# ---- the fleet ----------------------------------------------------------------------------------

AUTHORITY = bytes(range(64, 96))
SIGNED_S = 1_800_000_000


def fleet(tmp_path: Path, more: str = "", authority: bytes = AUTHORITY) -> str:
    public = base64.b64encode(ed25519_public_key(authority)).decode()
    with_state = NODE + f'state_dir = "{tmp_path}"\n'
    return f'{with_state}[hop]\nkey_file = "{tmp_path}/node.key"\n[fleet]\nauthority_key = "{public}"\n{more}'


def record_of(
    name: str = "a", region: str = "default", private: bytes = bytes(range(32)), role: str = "edge"
) -> str:
    of = Record(name, region, x25519_public_key(private), SIGNED_S, SIGNED_S + 1, (), role)
    return to_text(sign(AUTHORITY, of))


def test_a_fleet(tmp_path: Path, key_file: Path) -> None:
    config = parse(fleet(tmp_path), {"RELAY_FLEET_MAX_PEERS": "7"}).fleet
    assert config is not None and config.authority_key == ed25519_public_key(AUTHORITY)
    assert (config.record_file, config.revocations_file, config.max_peers) == (None, None, 7)
    assert file_problems(fleet(tmp_path)) == {}


def test_what_is_no_fleet(tmp_path: Path) -> None:
    assert "32 bytes in base64" in problems(NODE + "[hop]\n[fleet]\n")["fleet.authority_key"]
    found = problems(f'{NODE}[fleet]\nauthority_key = "short"\nmax_peers = 0\n')
    assert found["fleet.authority_key"].startswith("found 5 characters that are none, expected an Ed25519")
    assert "from 1 to 4096" in found["fleet.max_peers"]
    assert "[hop] as well" in found["fleet"]


def test_a_stream_may_come_from_a_member(tmp_path: Path) -> None:
    assert parse(fleet(tmp_path) + egress(), {}).hop is not None


@pytest.mark.parametrize(
    ("kind", "text", "sentence"),
    [
        ("record", record_of(), None),
        ("record", record_of("b"), "found a record of b, expected one of a"),
        ("record", record_of(region="r"), "found a record of r, expected one of default"),
        ("record", record_of(role="region"), "found a record of role region, expected one of role edge"),
        ("record", record_of(private=bytes(32)), "found a record of another key"),
        ("record", "rubbish", "no record in it, expected what `relay fleet sign` writes"),
        ("record", None, "no such file or directory, expected what `relay fleet sign` writes"),
        (
            "record",
            to_text(sign(bytes(32), Record("a", "default", bytes(32), 1, 2))),
            "signed by another key",
        ),
        ("record", to_text(sign(AUTHORITY, revise(None, 1, []))), "no record in it"),
        ("revocations", to_text(sign(AUTHORITY, revise(None, 1, []))), None),
        ("revocations", to_text(sign(bytes(32), revise(None, 1, []))), "signed by another key"),
        ("revocations", record_of(), "no revocations in it, expected what `relay fleet revoke` writes"),
    ],
)
def test_files_of_the_fleet(
    tmp_path: Path, key_file: Path, kind: str, text: str | None, sentence: str | None
) -> None:
    path = tmp_path / kind
    if text is not None:
        path.write_text(text)
    found = file_problems(fleet(tmp_path, f'{kind}_file = "{path}"\n'))
    assert found.keys() == ({f"fleet.{kind}_file"} if sentence else set())
    assert not sentence or sentence in found[f"fleet.{kind}_file"]


def test_a_record_without_a_key_to_compare_it_with(tmp_path: Path) -> None:
    (tmp_path / "record").write_text(record_of())
    found = file_problems(fleet(tmp_path, f'record_file = "{tmp_path}/record"\n'))
    assert found.keys() == {"hop.key_file"}


def test_a_state_directory_that_is_not_there(tmp_path: Path, key_file: Path) -> None:
    text = fleet(tmp_path).replace(f'state_dir = "{tmp_path}"', f'state_dir = "{tmp_path}/none"')
    assert f"mkdir -p {tmp_path}/none" in file_problems(text)["node.state_dir"]


# ---- what is shown ------------------------------------------------------------------------------


def test_it_is_decided_of_every_key_whether_it_is_shown() -> None:
    """A key that may hold a secret gets an exception here, and stays out of SHOWN."""

    def tables(of: type) -> Iterator[type]:
        yield of
        for check in checks_of(of).values():
            item = check.item if isinstance(check, Array) else check
            if isinstance(item, Table):
                yield from tables(item.of)

    assert set(tables(Config)) == SHOWN.keys()
    for of, names in SHOWN.items():
        assert set(names) == checks_of(of).keys(), of


def test_the_reference_configuration_as_it_is_shown() -> None:
    config = shown(parse(REFERENCE.read_text(), {}))
    assert json.loads(json.dumps(config)) == config
    assert config["node"]["state_dir"] == "/var/lib/relay" and config["hop"]["listen"] == "[::]:7400"
    assert config["hop"]["peers"][0]["public_key"] == "pnZHmVVK+Imyp+Fw1yw57GWyd5oYZ7l1KNV7Fjy7ZTY="
    assert config["ingest"]["rtp"][0]["tracks"][0]["codec"] == "H264/90000"


def test_what_nobody_has_decided_on_is_not_shown() -> None:
    with pytest.raises(TypeError, match="object"):
        shown((object(),))
