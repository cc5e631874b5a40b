# cython: boundscheck=False, wraparound=False
# Buffers from Python are checked against the size of what they are copied into.
"""What Python says to the packet plane and reads from it.

A command allocates what it needs here and hands it over; the packet plane frees it. With an engine running,
commands go through a bounded queue; without one they take effect at once, and `receive` and `poll` drive the
same machine from Python.
"""
from libc.stdint cimport INT64_MAX, uint8_t, uint16_t, uint64_t, uintptr_t
from libc.stdlib cimport free
from libc.string cimport memcpy
from posix.unistd cimport write

from relay_ext.address cimport format_address, parse_address
from relay_ext.base cimport addr, spsc_commit, spsc_peek, spsc_reserve, tx_clear, tx_packet
from relay_ext.commands cimport allocate, make_outgoing, plane_apply
from relay_ext.egress cimport EGRESS_CNAME, egress
from relay_ext.feed cimport feed
from relay_ext.hop cimport hop_destroy, hop_init
from relay_ext.ingest cimport FEEDBACK_FIR, FEEDBACK_PLI, FEEDBACK_REMB
from relay_ext.inner cimport INNER_AGE_MAX
from relay_ext.mailbox cimport SHARDS, TARGETS
from relay_ext.path cimport DATAGRAM_MAX, DATAGRAM_MIN, path_setting, session_keys
from relay_ext.peer cimport HOP_DELAYS, HOP_PATHS, hop, hop_params
from relay_ext.plane cimport (
    OP_CONTROL, OP_COOKIE_SECRET, OP_EGRESS_ADD, OP_EGRESS_REMOVE, OP_FEED_ADD, OP_FEED_HOLD, OP_FEED_RELEASE,
    OP_FEED_REMOVE, OP_FEED_RESUME, OP_FEED_SET, OP_FEEDBACK, OP_HOP_ADD, OP_HOP_ORDERS, OP_HOP_PARAMS, OP_HOP_REMOVE,
    OP_HOP_WATCH, OP_KEYS_ADD, OP_KEYS_DROP, OP_KEYS_USE, OP_PATH, OP_PING, OP_PORT, OP_ROUTE_ADD, OP_ROUTE_REMOVE, OP_SEND, OP_STANDBY_ADD,
    OP_STANDBY_ASK, OP_STANDBY_REMOVE, OP_TRACK_ADD, OP_TRACK_HOLD, OP_TRACK_REMOVE,
    OP_TRACK_RESTART, PLANE_PORTS, outgoing, plane_free, plane_new, plane_poll, plane_receive,
    plane_track, plane_wake)
from relay_ext.delay cimport DELAY_BUCKETS
from relay_ext.playout cimport track_init
from relay_ext.replay cimport replay
from relay_ext.rtp cimport rtp_rewrite_init, rtp_unwrap_init
from relay_ext.seal cimport SEAL_KEY, replay_init, seal_key_free, seal_key_new
from relay_ext.sessions cimport SESSION_SLOTS
from relay_ext.slab cimport SLAB_DATA
from relay_ext.standby cimport standby
from relay_ext.state cimport events_of, hop_state, link_state, plane_state, track_state
from relay_ext.state import Event, Link, PathState

from relay_ext.plane cimport (
    EVENT_ADDRESS as _ADDRESS, EVENT_CONFIRMED as _CONFIRMED, EVENT_CONTROL as _CONTROL,
    EVENT_HANDSHAKE as _HANDSHAKE, EVENT_KEY_ASKED as _KEY_ASKED, EVENT_KEY_WANTED as _KEY_WANTED,
    EVENT_SILENT as _SILENT, EVENT_SOURCE as _SOURCE, EVENT_UNREACHED as _UNREACHED, PORT_CLOSED as _CLOSED,
    PORT_EGRESS as _EGRESS, PORT_HOP as _HOP, PORT_RTCP as _RTCP, PORT_RTP as _RTP)

EVENT_HANDSHAKE = _HANDSHAKE
EVENT_CONTROL = _CONTROL
EVENT_CONFIRMED = _CONFIRMED
EVENT_ADDRESS = _ADDRESS
EVENT_SOURCE = _SOURCE
EVENT_KEY_WANTED = _KEY_WANTED
EVENT_KEY_ASKED = _KEY_ASKED
EVENT_SILENT = _SILENT
EVENT_UNREACHED = _UNREACHED
PORT_HOP = _HOP
PORT_RTP = _RTP
PORT_RTCP = _RTCP
PORT_EGRESS = _EGRESS

DEFAULT_SLABS = 32768  # 64 MB of address space, resident only as far as it has been used


class PlaneBusy(RuntimeError):
    """The command queue is full: the engine has not run for a while."""


cdef inline uint16_t age_units(uint64_t us) noexcept:
    return <uint16_t>min(us // 100, <uint64_t>INNER_AGE_MAX)


cdef class Plane:
    """The packet plane of one node, or of one shard of it.

    `public_key` (32 bytes) is the node's own, for MAC1; `slabs` bounds its packet memory, 2 KB each;
    `now_ns` is the monotonic time at which it begins. The low bits of its tracks', hops' and egresses' ids
    are `shard`.
    """

    def __cinit__(self, bytes public_key, *, uint32_t slabs=DEFAULT_SLABS, int64_t now_ns=0, uint32_t shard=0):
        if len(public_key) != 32:
            raise ValueError("a public key has 32 bytes")
        if shard >= SHARDS:
            raise ValueError(f"there are {SHARDS} shards at most, counted from 0")
        self.p = plane_new(slabs, public_key, now_ns)
        if self.p == NULL:
            raise MemoryError
        self.wake_fd = -1
        self.now = now_ns
        self.shard = self.last_id = shard
        self.places = set()
        self.far_routes = {}
        self.tracks = {}
        self.egresses = {}
        self.hops = {}
        self.keys = {}
        self.feeds = {}
        self.standbys = {}
        self.track_of = {}
        self.ports = {}

    def __dealloc__(self):
        if self.p != NULL:
            plane_free(self.p)

    def close(self):
        """Remove everything. No engine may be running."""
        if self.threaded:
            raise RuntimeError("stop the engine before closing its plane")
        for track in list(self.tracks):
            self.remove_track(track)
        for hop_id in list(self.hops):
            self.remove_hop(hop_id)

    @property
    def slabs_in_use(self):
        return self.p.pool.in_use

    @property
    def mail_waits(self):
        return any(self.p.mail.inbox[i] != NULL and spsc_peek(self.p.mail.inbox[i]) != NULL for i in range(SHARDS))

    cdef int submit(self, command *c) except -1:
        cdef command *slot
        cdef uint64_t one = 1
        if not self.threaded:
            plane_apply(self.p, self.now, c)
            return 0
        slot = <command *>spsc_reserve(&self.p.queues.commands)
        if slot == NULL:
            raise PlaneBusy("the packet plane does not take commands: is its thread running?")
        slot[0] = c[0]
        spsc_commit(&self.p.queues.commands)
        write(self.wake_fd, &one, 8)
        return 0

    cdef int send_command(self, int op, void *target, void *ptr, uint32_t a=0, uint32_t b=0, uint32_t c=0) except -1:
        cdef command x
        x.op = op
        x.a = a
        x.b = b
        x.c = c
        x.target = target
        x.ptr = ptr
        return self.submit(&x)

    cdef uint32_t new_id(self):
        self.last_id += SHARDS
        return self.last_id

    cdef uint32_t new_target(self) except 0:
        """An id for a track or a hop: one whose place in the mailroom's table is free."""
        if len(self.places) == TARGETS:
            raise ValueError(f"there are {TARGETS} tracks and peers at most")
        while place(self.new_id()) in self.places:
            pass
        return self.last_id

    cdef bint is_far(self, uint32_t id) except -1:
        """Whether a track or a hop is one of another shard, of those that this one is joined with."""
        if id & (SHARDS - 1) == self.shard:
            return False
        if self.p.mail.outbox[id & (SHARDS - 1)] == NULL:
            raise KeyError(id)
        return True

    # ---- ports, tracks, egresses -------------------------------------------------------------

    def set_port(self, uint32_t port, uint32_t kind, track=None):
        """Say what datagrams of a port are: PORT_HOP, PORT_EGRESS, or PORT_RTP and PORT_RTCP of a track."""
        if port >= PLANE_PORTS:
            raise ValueError(f"there are {PLANE_PORTS} ports at most")
        if not _CLOSED < kind <= _EGRESS or (track is not None) != (kind in (_RTP, _RTCP)):
            raise ValueError("a port of RTP or RTCP has a track, and no other has")
        self.send_command(OP_PORT, pointer(self.tracks[track]) if track is not None else NULL, NULL, port, kind)
        self.ports.pop(port, None)
        if track is not None:
            self.ports[port] = track

    def close_port(self, uint32_t port):
        """What still arrives there is counted as of an unknown port."""
        if port >= PLANE_PORTS:
            raise ValueError(f"there are {PLANE_PORTS} ports at most")
        self.send_command(OP_PORT, NULL, NULL, port, _CLOSED)
        self.ports.pop(port, None)

    def add_track(self, *, uint32_t clock_rate, uint32_t hold_us, uint32_t first_seq=0, uint8_t payload_type=0,
                  uint8_t priority=1, uint8_t kind=0, uint32_t ssrc=0):
        """A new track's id. `hold_us`: how long playout waits for a missing packet. Where the track is ingested
        here: `first_seq`, origin sequence of the first packet; `kind`, its payload format; `ssrc`, our own
        towards its source."""
        if clock_rate == 0:
            raise ValueError("a clock rate is at least 1 Hz")
        cdef uint32_t new_id = self.new_target()
        cdef plane_track *k = <plane_track *>allocate(sizeof(plane_track))
        if not track_init(&k.t, self.p.pool, &self.p.wheel, &self.p.tx):
            free(k)
            raise MemoryError
        k.t.id = new_id
        k.t.clock_rate = clock_rate
        k.t.hold = <int64_t>hold_us * 1000
        k.priority = priority
        k.source.payload_type = payload_type
        k.source.kind = kind
        k.source.own_ssrc = ssrc
        rtp_unwrap_init(&k.source.unwrap, first_seq)
        self.tracks[new_id] = <uintptr_t>k
        self.places.add(place(new_id))
        self.send_command(OP_TRACK_ADD, k, NULL)
        return new_id

    def remove_track(self, uint32_t track):
        """Remove a track, its egresses, its feeds and every route to it, and close its ports."""
        cdef void *k = pointer(self.tracks[track])
        for port in [p for p, t in self.ports.items() if t == track]:
            self.close_port(port)
        for egress_id in [e for e, t in self.track_of.items() if t == track]:
            self.remove_egress(egress_id)
        for feed_track, feed_hop in [f for f in self.feeds if f[0] == track]:
            self.remove_feed(feed_track, feed_hop)
        for address in self.hops.values():
            self.send_command(OP_ROUTE_REMOVE, pointer(address), k)
        self.remove_standby(track)
        del self.tracks[track]
        self.places.remove(place(track))
        self.send_command(OP_TRACK_REMOVE, k, NULL)

    def restart_track(self, uint32_t track):
        """The track's origin began anew: forget its sequence and its clock."""
        self.send_command(OP_TRACK_RESTART, pointer(self.tracks[track]), NULL)

    def set_hold(self, uint32_t track, uint32_t hold_us, uint32_t rtt_us=0):
        self.send_command(OP_TRACK_HOLD, pointer(self.tracks[track]), NULL, hold_us, rtt_us)

    def ask_key_frame(self, uint32_t track, bint fir=False):
        """Ask the source of a track for a key frame, by PLI (RFC 4585) or FIR (RFC 5104)."""
        self.send_command(OP_FEEDBACK, pointer(self.tracks[track]), NULL, FEEDBACK_FIR if fir else FEEDBACK_PLI)

    def offer_rate(self, uint32_t track, uint64_t bitrate):
        """Tell the source of a track, if it sends RTCP, how many bits a second it may send (REMB)."""
        self.send_command(OP_FEEDBACK, pointer(self.tracks[track]), NULL, FEEDBACK_REMB,
                          <uint32_t>(bitrate >> 32), <uint32_t>bitrate)

    def add_egress(self, uint32_t track, uint32_t port, tuple to, tuple rtcp_to, *, uint32_t ssrc, uint16_t seq,
                   uint32_t timestamp, bytes cname, uint8_t payload_type=255):
        """Send a track to an address from `port`; returns the egress's id. `seq` and `timestamp` are the offsets
        that RFC 3550 wants random; payload type 255 keeps the source's."""
        if len(cname) > EGRESS_CNAME:
            raise ValueError(f"a CNAME has {EGRESS_CNAME} bytes at most")
        cdef void *of = pointer(self.tracks[track])
        cdef addr rtp_address, rtcp_address
        parse_address(to, &rtp_address)
        parse_address(rtcp_to, &rtcp_address)
        cdef egress *e = <egress *>allocate(sizeof(egress))
        e.to = rtp_address
        e.rtcp_to = rtcp_address
        e.track = track
        e.id = self.new_id()
        e.port = port
        e.cname_len = len(cname)
        memcpy(e.cname, <const uint8_t *>cname, e.cname_len)
        rtp_rewrite_init(&e.rewrite, ssrc, payload_type, seq, timestamp)
        self.egresses[e.id] = <uintptr_t>e
        self.track_of[e.id] = track
        self.send_command(OP_EGRESS_ADD, of, e)
        return e.id

    def remove_egress(self, uint32_t egress_id):
        cdef void *e = pointer(self.egresses.pop(egress_id))
        self.send_command(OP_EGRESS_REMOVE, pointer(self.tracks[self.track_of.pop(egress_id)]), e)

    # ---- hops --------------------------------------------------------------------------------

    def add_hop(self, uint32_t port, uint32_t first_esi=0):
        """A new peer's id; `port` is the socket that it is reached through, until `set_path` says otherwise."""
        cdef uint32_t new_id = self.new_target()
        cdef int i
        cdef hop *h = <hop *>allocate(sizeof(hop))
        if not hop_init(h, self.p.pool, &self.p.wheel, &self.p.tx, first_esi):
            hop_destroy(h)
            free(h)
            raise MemoryError
        h.id = new_id
        for i in range(HOP_PATHS):
            h.paths[i].port = port
        self.hops[new_id] = <uintptr_t>h
        self.places.add(place(new_id))
        self.send_command(OP_HOP_ADD, h, NULL)
        return new_id

    def remove_hop(self, uint32_t hop_id):
        """Remove a peer with its keys, and every feed to it."""
        cdef void *h = pointer(self.hops[hop_id])
        for index, address in list(self.keys.items()):
            if (<session_keys *>pointer(address)).owner == h:
                self.drop_keys(index)
        self.forget(hop_id)
        for standby_track in [t for t, s in self.standbys.items() if hop_id in s[1:]]:
            self.remove_standby(standby_track)
        for route in [r for r in self.far_routes if r[0] == hop_id]:
            self.remove_route(*route)
        del self.hops[hop_id]
        self.places.remove(place(hop_id))
        self.send_command(OP_HOP_REMOVE, h, NULL)

    def forget(self, uint32_t id):
        """Remove the feeds to a hop, or the routes to a track of another shard."""
        for feed_track, feed_hop in [f for f in self.feeds if f[1] == id]:
            self.remove_feed(feed_track, feed_hop)
        for route in [r for r in self.far_routes if r[1] == id]:
            self.remove_route(*route)

    def set_params(self, uint32_t hop_id, *, double proactive, double max_overhead, int64_t send_budget_ns,
                   int64_t receive_budget_ns, double pace_bps=0.0, bint spare_frames=False):
        """What the decision plane wants of a hop's repair and pace; see peer.pxd for the units."""
        cdef void *h = pointer(self.hops[hop_id])
        cdef hop_params *q = <hop_params *>allocate(sizeof(hop_params))
        q.proactive = proactive
        q.max_overhead = max_overhead
        q.send_budget = send_budget_ns
        q.receive_budget = receive_budget_ns
        q.pace = pace_bps / 8
        q.spare_frames = spare_frames
        self.send_command(OP_HOP_PARAMS, h, q)

    def set_orders(self, uint32_t hop_id, tuple source, tuple repair):
        """The order in which paths are tried for source packets, and for repair: path ids, each once."""
        cdef uint8_t orders[2][4]
        cdef uint32_t packed[2]
        cdef int i
        if sorted(source) != list(range(HOP_PATHS)) or sorted(repair) != list(range(HOP_PATHS)):
            raise ValueError(f"an order has each of the {HOP_PATHS} paths once")
        for i in range(HOP_PATHS):
            orders[0][i] = source[i]
            orders[1][i] = repair[i]
        memcpy(packed, orders, sizeof(packed))
        self.send_command(OP_HOP_ORDERS, pointer(self.hops[hop_id]), NULL, packed[0], packed[1])

    def set_path(self, uint32_t hop_id, uint32_t path_id, *, tuple address=None, uint16_t datagram_max=0, port=None):
        """Set a path's address, proven datagram size (bytes of UDP payload) and port, each where given."""
        if path_id >= HOP_PATHS:
            raise ValueError(f"a peer has {HOP_PATHS} paths at most")
        if port is not None and not 0 <= port < PLANE_PORTS:
            raise ValueError(f"there are {PLANE_PORTS} ports at most")
        if datagram_max and not DATAGRAM_MIN <= datagram_max <= DATAGRAM_MAX:
            raise ValueError(f"a path carries datagrams of {DATAGRAM_MIN} to {DATAGRAM_MAX} bytes")
        cdef void *h = pointer(self.hops[hop_id])
        cdef addr to
        if address is not None:
            parse_address(address, &to)
        cdef path_setting *s = <path_setting *>allocate(sizeof(path_setting))
        if address is not None:
            s.to = to
            s.has_address = True
        s.datagram_max = datagram_max
        if port is not None:
            s.has_port = True
            s.port = port
        self.send_command(OP_PATH, h, s, path_id)

    def add_keys(self, uint32_t hop_id, uint32_t path_id, uint32_t local_index, uint32_t remote_index,
                 bytes send_key, bytes receive_key, int cipher, uint32_t generation, uint64_t instance):
        """Keys of a handshake, to receive with at once and to send with after `use_keys`. `generation` counts up;
        the first datagram under keys of another `instance` resets what was received of the old one."""
        if len(send_key) != SEAL_KEY or len(receive_key) != SEAL_KEY:
            raise ValueError("a session key has 32 bytes")
        if path_id >= HOP_PATHS or local_index in self.keys:
            raise ValueError("no such path, or the index is taken")
        if len(self.keys) >= SESSION_SLOTS // 2:
            raise ValueError(f"there are {SESSION_SLOTS // 2} sets of keys at most")
        cdef void *owner = pointer(self.hops[hop_id])
        cdef session_keys *k = <session_keys *>allocate(sizeof(session_keys))
        k.send = seal_key_new(cipher, send_key, True)
        k.receive = seal_key_new(cipher, receive_key, False)
        if k.send == NULL or k.receive == NULL:
            seal_key_free(k.send)
            seal_key_free(k.receive)
            free(k)
            raise ValueError(f"cipher {cipher} cannot be set up")
        k.owner = owner
        k.local_index = local_index
        k.remote_index = remote_index
        k.path = path_id
        k.generation = generation
        k.instance = instance
        replay_init(&k.replay)
        self.keys[local_index] = <uintptr_t>k
        self.send_command(OP_KEYS_ADD, k.owner, k)

    def use_keys(self, uint32_t local_index):
        cdef session_keys *k = <session_keys *>pointer(self.keys[local_index])
        self.send_command(OP_KEYS_USE, k.owner, k)

    def drop_keys(self, uint32_t local_index):
        cdef session_keys *k = <session_keys *>pointer(self.keys.pop(local_index))
        self.send_command(OP_KEYS_DROP, k.owner, k)

    def add_feed(self, uint32_t track, uint32_t hop_id, uint16_t stream_alias, uint8_t track_alias, uint8_t epoch, *,
                 uint64_t age_max_us=INNER_AGE_MAX * 100):
        """Send a track to a peer: of what comes from another peer, packets that have spent no more than `age_max_us` in
        nodes."""
        if (track, hop_id) in self.feeds:
            raise ValueError("the track is sent to that peer already")
        cdef void *k = pointer(self.tracks[track])
        cdef void *to = NULL if self.is_far(hop_id) else pointer(self.hops[hop_id])
        cdef feed *f = <feed *>allocate(sizeof(feed))
        f.to = <hop *>to
        f.far = hop_id
        f.stream = stream_alias
        f.track = &(<plane_track *>k).t
        f.alias = track_alias
        f.epoch = epoch
        f.age_max = age_units(age_max_us)
        self.feeds[track, hop_id] = <uintptr_t>f
        self.send_command(OP_FEED_ADD, k, f)

    def set_feed(self, uint32_t track, uint32_t hop_id, *, uint64_t age_max_us):
        """Change what `add_feed` said of it."""
        self.send_command(OP_FEED_SET, pointer(self.feeds[track, hop_id]), NULL, age_units(age_max_us))

    def remove_feed(self, uint32_t track, uint32_t hop_id):
        cdef void *f = pointer(self.feeds.pop((track, hop_id)))
        self.send_command(OP_FEED_REMOVE, pointer(self.tracks[track]), f)

    def hold_feed(self, uint32_t track, uint32_t hop_id):
        """Send no more of the track to the peer until it asks or `release_feed`, but keep the last half second of it."""
        cdef void *f = pointer(self.feeds[track, hop_id])
        self.send_command(OP_FEED_HOLD, f, allocate(sizeof(replay)))

    def release_feed(self, uint32_t track, uint32_t hop_id, since=None):
        """Send the peer what was kept from that origin sequence on, if one is given, and what comes from now on."""
        self.send_command(OP_FEED_RELEASE, pointer(self.feeds[track, hop_id]), NULL, since or 0, since is not None)

    def resume_feed(self, uint32_t track, uint32_t hop_id, uint32_t period_us):
        """Send the peer what was kept of the last microseconds, and what comes from now on. More stays kept until it
        asks, or `release_feed`."""
        self.send_command(OP_FEED_RESUME, pointer(self.feeds[track, hop_id]), NULL, period_us)

    def add_standby(self, uint32_t track, uint32_t first, uint32_t second, uint16_t stream_alias, uint8_t track_alias,
                    uint8_t epoch):
        """The track, which comes from one peer, is taken from the second one under these aliases as soon as the first,
        which must be watched, is silent."""
        if track in self.standbys:
            raise ValueError("the track has a standby already")
        cdef void *k = pointer(self.tracks[track])
        cdef void *h = pointer(self.hops[first])
        cdef void *g = pointer(self.hops[second])
        cdef standby *s = <standby *>allocate(sizeof(standby))
        s.first = <hop *>h
        s.second = <hop *>g
        s.track = &(<plane_track *>k).t
        s.stream = stream_alias
        s.alias = track_alias
        s.epoch = epoch
        self.standbys[track] = (<uintptr_t>s, first, second)
        self.send_command(OP_STANDBY_ADD, NULL, s)

    def remove_standby(self, uint32_t track):
        """Nothing, if the track has none."""
        if track in self.standbys:
            self.send_command(OP_STANDBY_REMOVE, NULL, pointer(self.standbys.pop(track)[0]))

    def has_standby(self, uint32_t track):
        return track in self.standbys

    def ask_standby(self, uint32_t track):
        """Take the track from its second peer, too, from now on."""
        self.send_command(OP_STANDBY_ASK, NULL, pointer(self.standbys[track][0]))

    def watch_hop(self, uint32_t hop_id, bint watched):
        """Tell of it when nothing comes from the peer any more, and have it send something all the time."""
        self.send_command(OP_HOP_WATCH, pointer(self.hops[hop_id]), NULL, watched, 0)

    def watch_echo(self, uint32_t hop_id, bint watched):
        """Tell of it when nothing gets to the peer any more, as far as it says."""
        self.send_command(OP_HOP_WATCH, pointer(self.hops[hop_id]), NULL, watched, 1)

    def add_route(self, uint32_t hop_id, uint16_t stream_alias, uint8_t track_alias, uint8_t epoch, uint32_t track):
        """What the peer sends under these aliases is that track."""
        cdef void *h = pointer(self.hops[hop_id])
        cdef void *k = self.stand_in(track) if self.is_far(track) else pointer(self.tracks[track])
        self.send_command(OP_ROUTE_ADD, h, k, stream_alias, track_alias, epoch)
        if self.is_far(track):
            self.remove_route(hop_id, track)  # the one before, if any: its place has been taken
            self.far_routes[hop_id, track] = <uintptr_t>k

    cdef void *stand_in(self, uint32_t track) except NULL:
        cdef plane_track *k = <plane_track *>allocate(sizeof(plane_track))
        k.t.id = track
        k.far = True
        return k

    def remove_route(self, uint32_t hop_id, uint32_t track):
        cdef void *h = pointer(self.hops[hop_id])
        cdef void *k
        if not self.is_far(track):
            self.send_command(OP_ROUTE_REMOVE, h, pointer(self.tracks[track]))
        elif (hop_id, track) in self.far_routes:
            k = pointer(self.far_routes.pop((hop_id, track)))
            self.send_command(OP_ROUTE_REMOVE, h, k)
            self.send_command(OP_TRACK_REMOVE, k, NULL)

    # ---- datagrams that Python makes ---------------------------------------------------------

    def send_datagram(self, uint32_t port, tuple address, bytes data):
        """Send a datagram as it is: handshakes."""
        cdef outgoing *o = make_outgoing(address, data)
        o.port = port
        self.send_command(OP_SEND, NULL, o)

    def send_control(self, uint32_t hop_id, uint32_t path_id, tuple address, bytes frame, uint32_t pad_to=0):
        """Seal a control frame and send it to `address`, or to the path's own where that is None."""
        if path_id >= HOP_PATHS or len(frame) + 34 > SLAB_DATA or pad_to > SLAB_DATA:
            raise ValueError("no such path, or the frame is too long")
        cdef void *h = pointer(self.hops[hop_id])
        cdef outgoing *o = make_outgoing(address, frame)
        o.port = path_id
        o.pad_to = pad_to
        self.send_command(OP_CONTROL, h, o)

    def set_cookie_secret(self, bytes secret):
        if len(secret) != 32:
            raise ValueError("a cookie secret has 32 bytes")
        cdef void *copy = allocate(32)
        memcpy(copy, <const uint8_t *>secret, 32)
        self.send_command(OP_COOKIE_SECRET, NULL, copy)

    # ---- events and statistics ---------------------------------------------------------------

    def ping(self, uint32_t number):
        """Ask whether the packet plane takes commands: `pong` becomes `number`."""
        self.send_command(OP_PING, NULL, NULL, number)

    @property
    def pong(self):
        return self.p.pong

    def drain_events(self):
        """Every event that waits, by kind: handshakes, cookie replies, control, notices, sources, asks: list[Event]."""
        return events_of(self.p)

    def stats(self):
        """Counters of the plane: dict[str, int]."""
        return plane_state(self.p)

    def track_stats(self, uint32_t track):
        """Counters of a track, of its source, and what it follows: dict."""
        return track_state(<plane_track *>pointer(self.tracks[track]))

    def track_delays(self, uint32_t track):
        """Histogram of what packets took beyond the least transit time, 1 ms a slot: list[float]; see control.pyi."""
        cdef plane_track *k = <plane_track *>pointer(self.tracks[track])
        return [k.t.delays.mass[i] / max(k.t.delays.weight, 1.0) for i in range(DELAY_BUCKETS)]

    def egress_stats(self, uint32_t egress_id):
        cdef egress *e = <egress *>pointer(self.egresses[egress_id])
        return {"packets": e.packets, "bytes": e.bytes, "reports": e.reports}

    def hop_link(self, uint32_t hop_id):
        """What repair and routing decide on, of the active path: Link."""
        return link_state(<hop *>pointer(self.hops[hop_id]))

    def hop_stats(self, uint32_t hop_id):
        """Counters of a hop and what is known of its paths: dict."""
        return hop_state(<hop *>pointer(self.hops[hop_id]))

    def hop_delays(self, uint32_t hop_id):
        """Histogram of the delay that the hop added beyond propagation, 1 ms a slot: list[int]."""
        cdef hop *h = <hop *>pointer(self.hops[hop_id])
        return [h.delays[i] for i in range(HOP_DELAYS)]

    # ---- driven from Python ------------------------------------------------------------------

    def receive(self, int64_t now_ns, list datagrams):
        """Take datagrams [(port, (host, port), bytes)] at a moment; returns those to be sent, in the same form."""
        cdef list out = []
        cdef addr source
        cdef bytes data
        self.check_driven()
        self.now = now_ns
        plane_wake(self.p, now_ns)
        for port, address, data in datagrams:
            parse_address(address, &source)
            plane_receive(self.p, now_ns, port, &source, data, len(data))
            self.take_tx(out)
        return out

    def poll(self, int64_t now_ns):
        """Run what is due; returns the datagrams to be sent and the next deadline in ns, None without one."""
        cdef list out = []
        cdef int64_t deadline
        self.check_driven()
        self.now = now_ns
        plane_wake(self.p, now_ns)
        deadline = plane_poll(self.p, now_ns)
        self.take_tx(out)
        return out, None if deadline == INT64_MAX else deadline

    cdef int check_driven(self) except -1:
        if self.threaded:
            raise RuntimeError("an engine drives this plane")
        return 0

    cdef int take_tx(self, list out) except -1:
        cdef tx_packet *t
        cdef uint32_t i
        for i in range(self.p.tx.count):
            t = &self.p.tx.packets[i]
            out.append((t.port, format_address(&t.to),
                        t.head[:t.head_len] + t.body.data[t.off:t.off + t.len]))
        tx_clear(&self.p.tx, self.p.pool)
        return 0
