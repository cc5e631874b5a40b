"""What Python says to the packet plane and reads from it.

With an engine running, commands go through a bounded queue (PlaneBusy when it is full); without one they take
effect at once, and `receive` and `poll` drive the same machine from Python. Every method that takes an id or
an index raises KeyError for one that does not exist. Addresses are (host, port), the host a number, no name.
"""

from typing import Any, Final, NamedTuple, Self

_Address = tuple[str, int]
_Datagram = tuple[int, _Address, bytes]
"""Port, address, bytes: the address it came from, or is to be sent to."""

EVENT_HANDSHAKE: Final[int]
"""`data`: a handshake datagram that passed the gate, received on `port`."""
EVENT_CONTROL: Final[int]
"""`a`: hop, `b`: local index, `data`: an opened control frame with its padding."""
EVENT_CONFIRMED: Final[int]
"""`a`: hop, `b`: local index; the first datagram authenticated under these keys."""
EVENT_ADDRESS: Final[int]
"""`a`: hop, `b`: path; an authenticated datagram came from another address than the path's."""
EVENT_SOURCE: Final[int]
"""`a`: track, `b`: SSRC; an ingest port follows another source."""
EVENT_KEY_WANTED: Final[int]
"""`a`: hop, `b`: stream alias << 8 | track alias; frames that others need were dropped before that hop."""
EVENT_KEY_ASKED: Final[int]
"""`a`: track; a receiver of one of its egresses asks for a key frame. At most one each 100 ms and egress."""
EVENT_SILENT: Final[int]
"""`a`: hop, `b`: milliseconds; nothing has come for so long from a peer that is watched."""
EVENT_UNREACHED: Final[int]
"""`a`: hop, `b`: milliseconds; for so long a peer whose echo is watched has not said that anything new of
ours has come."""
PORT_HOP: Final[int]
PORT_RTP: Final[int]
"""RTP, and RTCP multiplexed with it (RFC 5761)."""
PORT_RTCP: Final[int]
PORT_EGRESS: Final[int]
"""Sends; receivers' feedback arrives here and ends here."""
DEFAULT_SLABS: Final[int]

class PlaneBusy(RuntimeError):
    """The command queue is full: the engine has not run for a while."""

class Event(NamedTuple):
    """What the packet plane leaves to Python; which fields mean something depends on `kind`."""

    kind: int
    now_ns: int
    a: int
    b: int
    port: int
    size: int
    """Bytes of the datagram that caused it."""
    address: _Address
    """Where that datagram came from."""
    data: bytes

class PathState(NamedTuple):
    """One path, and what the peer has said of it. Units as in Link."""

    id: int
    role: str
    """"source", "repair", "source+repair", "standby", or "dead": nothing gets through, or nothing has yet."""
    heard_ns: int
    rtt_ns: int
    rtt_min_ns: int
    jitter_ns: int
    queue_delay_ns: int
    loss_ratio: float
    loss_burst: float
    loss_settled: bool
    reported_highest: int
    """Highest counter that the peer has received, low 32 bits, and how many datagrams in all."""
    reported_received: int
    queue_ns: int
    """What one-way delays of the last 25 to 50 ms were at least, beyond what they are on the empty path."""
    passed_bps: float
    """Bits/s of IP packets at which what was sent came through of late, whether it was lost then or not."""
    loss_recent: float
    """Of the same datagrams."""
    progress_ns: int
    """A report last showed that more had arrived."""
    sent_bytes: int
    """Of IP packets (IPv4), in all."""

class Link(NamedTuple):
    """State of the path that a hop sends source packets on, and of the hop. Times in ns of the plane's clock,
    0 for never; delays in ns."""

    rtt_ns: int
    rtt_min_ns: int
    jitter_ns: int
    queue_delay_ns: int
    """Relative one-way delay less its least, smoothed."""
    loss_ratio: float
    loss_assumed: float
    """The larger of the averages over 250 ms and 2 s, of what we send; 0.3 at least until it is settled."""
    loss_burst: float
    """1 - P(good to bad) - P(bad to good), 0 to 0.9."""
    loss_settled: bool
    """Two seconds of reports exist."""
    heard_ns: int
    source_at_ns: int
    """Last source packet sent."""
    media_at_ns: int
    """Last source or repair packet received."""
    source_sent: int
    queue_ns: int
    """As that of its PathState."""
    waiting: int
    """Packets that wait for their turn."""
    repair_loss_assumed: float
    """As `loss_assumed`, of the path that repair takes."""
    repair_round_ns: int
    """From a loss that is reported to its repair, at best: the RTT, where there is one path."""
    paths: tuple[PathState, ...]
    """Those with keys and an address."""

class Plane:
    """The packet plane of one node, or of one shard of it: see `relay_ext.shards`.

    `public_key` (32 bytes) is the node's own, for MAC1; `slabs` bounds its packet memory, 2 KB each;
    `now_ns` is the monotonic time at which it begins. The four low bits of the ids of its tracks, hops and
    egresses are `shard` (0 to 15). Raises ValueError, MemoryError.
    """

    def __new__(cls, public_key: bytes, *, slabs: int = ..., now_ns: int = 0, shard: int = 0) -> Self: ...
    @property
    def shard(self) -> int: ...
    def close(self) -> None:
        """Remove everything. Raises RuntimeError while an engine is running."""
    @property
    def slabs_in_use(self) -> int: ...
    @property
    def mail_waits(self) -> bool:
        """Another shard has posted something that the next `poll` takes."""

    # ports, tracks, egresses

    def set_port(self, port: int, kind: int, track: int | None = None) -> None:
        """Say what datagrams of a port are: PORT_HOP, PORT_EGRESS, or PORT_RTP and PORT_RTCP of a track.

        Raises ValueError for a number of 1024 or more, another kind, a track where none belongs or none where
        one does.
        """
    def close_port(self, port: int) -> None:
        """What still arrives there is counted as of an unknown port."""
    def add_track(
        self,
        *,
        clock_rate: int,
        hold_us: int,
        first_seq: int = 0,
        payload_type: int = 0,
        priority: int = 1,
        kind: int = 0,
        ssrc: int = 0,
    ) -> int:
        """A new track's id. `hold_us`: how long playout waits for a missing packet, in microseconds.

        `clock_rate` in Hz (ValueError for 0). For a track that is ingested here: `first_seq` is the origin
        sequence of its first packet, what has another payload type is refused, `kind` is its payload format
        (`payload.Kind`), and `ssrc` our own towards its source.
        """
    def remove_track(self, track: int) -> None:
        """Remove a track, its egresses, its feeds and every route to it, and close its ports."""
    def restart_track(self, track: int) -> None:
        """The track's origin began anew: forget its sequence and its clock."""
    def set_hold(self, track: int, hold_us: int, rtt_us: int = 0) -> None:
        """As `add_track`, from now on. `rtt_us` is the longest round trip of the hops before the last one."""
    def ask_key_frame(self, track: int, fir: bool = False) -> None:
        """Ask the source of a track for a key frame, by PLI (RFC 4585) or FIR (RFC 5104).

        To where its RTCP comes from, else to the port after its RTP's, or to that where there is no port for
        RTCP. Nothing while there is no source.
        """
    def offer_rate(self, track: int, bitrate: int) -> None:
        """Tell the source of a track, if it sends RTCP, how many bits a second it may send (REMB)."""
    def add_egress(
        self,
        track: int,
        port: int,
        to: _Address,
        rtcp_to: _Address,
        *,
        ssrc: int,
        seq: int,
        timestamp: int,
        cname: bytes,
        payload_type: int = 255,
    ) -> int:
        """Send a track to an address from `port`; returns the egress's id.

        `seq` and `timestamp` are the offsets that RFC 3550 wants random; payload type 255 keeps the source's.
        Raises ValueError for a CNAME of more than 64 bytes, OSError or ValueError for an address.
        """
    def remove_egress(self, egress_id: int) -> None: ...

    # hops

    def add_hop(self, port: int, first_esi: int = 0) -> int:
        """A new peer's id; `port` is the socket that it is reached through."""
    def remove_hop(self, hop_id: int) -> None:
        """Remove a peer with its keys, and every feed to it."""
    def forget(self, id: int) -> None:
        """Remove the feeds to a hop, or the routes to a track, of another shard: it goes there."""
    def set_params(
        self,
        hop_id: int,
        *,
        proactive: float,
        max_overhead: float,
        send_budget_ns: int,
        receive_budget_ns: int,
        pace_bps: float = 0.0,
        spare_frames: bool = False,
    ) -> None:
        """What the decision plane wants of a hop's repair.

        `proactive`: repair packets a source packet; `max_overhead`: repair bytes a media byte, at most; the
        budgets: how long repair of what is sent and received may take, beyond propagation. `spare_frames`:
        frames to which no other refers are not sent.
        """
    def set_orders(self, hop_id: int, source: tuple[int, ...], repair: tuple[int, ...]) -> None:
        """The order in which paths are tried for source packets, and for repair.

        Each names the paths 0 to 3 once; ValueError otherwise. One that does not get through is passed over.
        """
    def set_path(
        self,
        hop_id: int,
        path_id: int,
        *,
        address: _Address | None = None,
        datagram_max: int = 0,
        port: int | None = None,
    ) -> None:
        """Set a path's address, proven datagram size (1232 to 2000 bytes of UDP payload) and port, if given.

        Raises ValueError for another path than 0 to 3, another size or port, OSError or ValueError for an
        address.
        """
    def add_keys(
        self,
        hop_id: int,
        path_id: int,
        local_index: int,
        remote_index: int,
        send_key: bytes,
        receive_key: bytes,
        cipher: int,
        generation: int,
        instance: int,
    ) -> None:
        """Keys of a handshake, to receive with at once and to send with after `use_keys`.

        `generation` counts up; the first datagram under keys of another `instance` resets what was received
        of the old one. Raises ValueError for a wrong length, path or cipher, an index in use, too many keys.
        """
    def use_keys(self, local_index: int) -> None:
        """Send with these keys from now on."""
    def drop_keys(self, local_index: int) -> None: ...
    def add_feed(
        self,
        track: int,
        hop_id: int,
        stream_alias: int,
        track_alias: int,
        epoch: int,
        *,
        age_max_us: int = ...,
    ) -> None:
        """Send a track to a peer, which may be one of another shard: of what comes from another peer, packets
        that have spent no more than `age_max_us` in nodes (in steps of 100 us; from 6.5535 s on, all).

        Raises ValueError when it is sent there already.
        """
    def set_feed(self, track: int, hop_id: int, *, age_max_us: int) -> None:
        """Change what `add_feed` said of it."""
    def remove_feed(self, track: int, hop_id: int) -> None: ...
    def hold_feed(self, track: int, hop_id: int) -> None:
        """Send no more of it to the peer until it asks, or `release_feed`; keep the last half second."""
    def release_feed(self, track: int, hop_id: int, since: int | None = None) -> None:
        """Send the peer what was kept from that origin sequence on, if one is given, and what comes from now
        on."""
    def resume_feed(self, track: int, hop_id: int, period_us: int) -> None:
        """Send the peer what was kept of so much time, and what comes from now on. More stays kept until it
        asks, or `release_feed`."""
    def add_standby(
        self, track: int, first: int, second: int, stream_alias: int, track_alias: int, epoch: int
    ) -> None:
        """The track, which comes from one peer, is asked of a second one under these aliases as soon as the
        first, which must be watched, is silent. All of one shard. Raises ValueError where there is one."""
    def remove_standby(self, track: int) -> None:
        """Nothing, if the track has none."""
    def has_standby(self, track: int) -> bool: ...
    def ask_standby(self, track: int) -> None:
        """Take the track from its second peer, too, from now on."""
    def watch_hop(self, hop_id: int, watched: bool) -> None:
        """Tell of it (EVENT_SILENT) when nothing comes from the peer any more, and have it send something all
        the time."""
    def watch_echo(self, hop_id: int, watched: bool) -> None:
        """Tell of it (EVENT_UNREACHED) when the peer is heard no more to get what is sent to it, and send it
        something all the time."""
    def add_route(self, hop_id: int, stream_alias: int, track_alias: int, epoch: int, track: int) -> None:
        """What the peer sends under these aliases is that track, which may be one of another shard."""
    def remove_route(self, hop_id: int, track: int) -> None:
        """Whether there was one or not."""

    # datagrams that Python makes

    def send_datagram(self, port: int, address: _Address, data: bytes) -> None:
        """Send a datagram as it is: handshakes. Raises ValueError beyond 2032 bytes."""
    def send_control(
        self, hop_id: int, path_id: int, address: _Address | None, frame: bytes, pad_to: int = 0
    ) -> None:
        """Seal a control frame and send it to `address`, or to the path's own where that is None.

        `pad_to`: bytes of the datagram, at least. Raises ValueError for a wrong path or length.
        """
    def set_cookie_secret(self, secret: bytes) -> None:
        """32 bytes; the secret before it stays valid until the next."""

    # events and statistics

    def ping(self, number: int) -> None:
        """Ask whether the packet plane takes commands: `pong` becomes `number`. Raises PlaneBusy."""
    @property
    def pong(self) -> int: ...
    def drain_events(self) -> list[Event]:
        """Every event that waits, by kind: handshakes, cookie replies, control, notices, sources."""
    def stats(self) -> dict[str, int]:
        """Counters of the plane."""
    def track_stats(self, track: int) -> dict[str, Any]:
        """Counters of a track, of its source (under "ingest"), and what it follows; "missing": the first
        origin sequence that has not come, None before any has."""
    def track_delays(self, track: int) -> list[float]:
        """Histogram of what packets took beyond the least transit time, 1 ms a slot, in samples that are
        forgotten with a time constant of 10 s."""
    def egress_stats(self, egress_id: int) -> dict[str, int]:
        """What was sent: packets, bytes of UDP payload, sender reports."""
    def hop_link(self, hop_id: int) -> Link:
        """What repair and routing decide on, of the active path."""
    def hop_stats(self, hop_id: int) -> dict[str, Any]:
        """Counters of a hop and what is known of its paths."""
    def hop_delays(self, hop_id: int) -> list[int]:
        """Histogram of the delay that the hop added beyond propagation, 1 ms a slot."""

    # driven from Python

    def receive(self, now_ns: int, datagrams: list[_Datagram]) -> list[_Datagram]:
        """Take datagrams at a moment; returns those to be sent. Raises RuntimeError under an engine."""
    def poll(self, now_ns: int) -> tuple[list[_Datagram], int | None]:
        """Run what is due; returns the datagrams to be sent and the next deadline in ns, None without one."""
