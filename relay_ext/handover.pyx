# cython: boundscheck=False, wraparound=False
# Ports are checked against PLANE_PORTS, paths are counted against HOP_PATHS.
"""The whole state of a packet plane as bytes, and a new plane that goes on from there (docs/operations.md,
"Upgrade").

Tables are written as lists of ids with what each id stands for; pointers as the ids of what they point at.
"""
from libc.stdint cimport uint8_t, uint16_t, uint32_t
from libc.stdlib cimport free
from libc.string cimport memset

from relay_ext.archive cimport archive, carry, carry_number, carry_pool
from relay_ext.carry cimport carry_egress, carry_feed, carry_hop, carry_keys, carry_track
from relay_ext.commands cimport allocate
from relay_ext.control cimport Plane, place, pointer
from relay_ext.egress cimport egress, egress_table_add
from relay_ext.feed cimport feed, feed_add
from relay_ext.hop cimport hop_destroy, hop_init
from relay_ext.mailbox cimport SHARDS, mail_target, target
from relay_ext.path cimport session_keys
from relay_ext.peer cimport HOP_PATHS, hop, hop_watched
from relay_ext.plane cimport PLANE_PORTS, PORT_CLOSED, PORT_EGRESS, TIMER_HOP, TIMER_PACER, TIMER_TRACK, TIMER_WATCH, plane, plane_track
from relay_ext.playout cimport track_init
from relay_ext.route cimport ROUTE_SLOTS, route, route_add
from relay_ext.seal cimport seal_key_free
from relay_ext.sessions cimport session_find
from relay_ext.standby cimport standby
from relay_ext.timer cimport timer_schedule

FORMAT = 1  # raised with every change of what is carried: tests/unit/test_handover.py says when

cdef enum:
    ID_MAX = 0xFFFFFFFF
    TABLE_MAX = 1 << 20       # entries; more than any table holds


def save(Plane plane not None):
    """What a plane at rest knows; it stays as it is. The bytes hold keys. Raises ValueError for one of several
    shards."""
    cdef archive a
    cdef int i
    plane.check_driven()
    for i in range(SHARDS):
        if plane.p.mail.outbox[i] != NULL:
            raise ValueError("a plane that shares its streams with others cannot be handed over")
    memset(&a, 0, sizeof(a))
    try:
        carry_plane(plane, &a)
        return a.data[:a.at]
    finally:
        free(a.data)


def reserve(Plane plane not None, size_t hops):
    """Makes room for so many peers, most of what `load` takes; it need not be known exactly how many."""
    plane.spare_hops = [<size_t>make_hop(plane) for _ in range(hops)]


def load(Plane plane not None, const uint8_t[::1] state not None):
    """Makes a new plane go on from what `save` gave. Raises ValueError for what is cut short or of another format;
    the plane is of no use then."""
    cdef archive a
    plane.check_driven()
    memset(&a, 0, sizeof(a))
    a.reading = True
    a.room = state.shape[0]
    a.data = <uint8_t *>&state[0] if a.room else NULL
    try:
        carry_plane(plane, &a)
    finally:
        while plane.spare_hops:
            free_hop(<hop *>pointer(plane.spare_hops.pop()))
    if a.at != a.room:
        raise ValueError("the state is longer than what it says")


cdef int check(archive *a) except -1:
    if a.failed:
        raise ValueError("the state is cut short, or of another format")
    return 0


cdef list carry_ids(archive *a, object ids):
    """Those ids, or the ones that are read."""
    cdef list known = list(ids)
    cdef uint32_t i, count = carry_number(a, <uint32_t>len(known), TABLE_MAX)
    check(a)
    if not a.reading:
        return [carry_number(a, known[i], ID_MAX) for i in range(count)]
    return [carry_number(a, 0, ID_MAX) for i in range(count)]


cdef int carry_plane(Plane of, archive *a) except -1:
    cdef plane *p = of.p
    if carry_number(a, FORMAT, ID_MAX) != <uint32_t>FORMAT or carry_number(a, p.pool.capacity, ID_MAX) != p.pool.capacity:
        raise ValueError("the state is of another format")
    carry_pool(a, p.pool)
    carry(a, &p.stats, sizeof(p.stats))
    of.last_id = carry_number(a, of.last_id, ID_MAX)
    for track in carry_ids(a, of.tracks):
        carry_track(a, new_track(of, track) if a.reading else <plane_track *>pointer(of.tracks[track]))
        check(a)
    for hop_id in carry_ids(a, of.hops):
        carry_peer(of, a, new_hop(of, hop_id) if a.reading else <hop *>pointer(of.hops[hop_id]))
    for index in carry_ids(a, of.keys):
        carry_key(of, a, index)
    for hop_id in of.hops:
        carry_senders(of, a, <hop *>pointer(of.hops[hop_id]))
    for egress_id in carry_ids(a, of.egresses):
        carry_way_out(of, a, egress_id)
    carry_feeds(of, a)
    carry_standbys(of, a)
    return carry_ports(of, a)


cdef plane_track *new_track(Plane of, uint32_t id) except NULL:
    cdef plane_track *k = <plane_track *>allocate(sizeof(plane_track))
    of.tracks[id] = <size_t>k
    of.places.add(place(id))
    if not track_init(&k.t, of.p.pool, &of.p.wheel, &of.p.tx):
        raise MemoryError
    k.t.timer.kind = TIMER_TRACK
    k.t.timer.owner = &k.t
    mail_target(&of.p.mail, id)[0] = target(id, NULL, k)
    return k


cdef hop *make_hop(Plane of) except NULL:
    cdef hop *h = <hop *>allocate(sizeof(hop))
    if not hop_init(h, of.p.pool, &of.p.wheel, &of.p.tx, 0):
        free_hop(h)
        raise MemoryError
    return h


cdef void free_hop(hop *h) noexcept:
    hop_destroy(h)
    free(h)


cdef hop *new_hop(Plane of, uint32_t id) except NULL:
    cdef hop *h = <hop *>pointer(of.spare_hops.pop()) if of.spare_hops else make_hop(of)
    of.hops[id] = <size_t>h
    of.places.add(place(id))
    h.timer.kind = TIMER_HOP
    h.pace_timer.kind = TIMER_PACER
    h.watch_timer.kind = TIMER_WATCH
    h.timer.owner = h.pace_timer.owner = h.watch_timer.owner = h
    mail_target(&of.p.mail, id)[0] = target(id, h, NULL)
    return h


cdef int carry_peer(Plane of, archive *a, hop *h) except -1:
    """A hop, and the tracks that its packets go to."""
    cdef uint32_t count = 0
    cdef route r
    cdef int i
    carry_hop(a, h)
    if a.reading:
        for _ in range(carry_number(a, 0, ROUTE_SLOTS)):
            carry_route(of, a, h, &r)
        return check(a)
    for i in range(ROUTE_SLOTS):
        count += h.routes.slots[i].track != NULL
    carry_number(a, count, ROUTE_SLOTS)
    for i in range(ROUTE_SLOTS):
        if h.routes.slots[i].track != NULL:
            carry_route(of, a, h, &h.routes.slots[i])
    return check(a)


cdef int carry_route(Plane of, archive *a, hop *h, route *r) except -1:
    cdef uint32_t track = carry_number(a, 0 if a.reading else (<plane_track *>r.track).t.id, ID_MAX)
    carry(a, &r.key, sizeof(r.key))
    carry(a, &r.epoch, sizeof(r.epoch))
    check(a)
    if a.reading:
        route_add(&h.routes, <uint16_t>(r.key >> 8), <uint8_t>r.key, r.epoch, pointer(of.tracks[track]))
    return 0


cdef int carry_key(Plane of, archive *a, uint32_t index) except -1:
    cdef session_keys *k
    cdef uint32_t hop_id
    if not a.reading:
        k = <session_keys *>pointer(of.keys[index])
        carry_number(a, (<hop *>k.owner).id, ID_MAX)
        carry_keys(a, k)
        return check(a)
    hop_id = carry_number(a, 0, ID_MAX)
    k = <session_keys *>allocate(sizeof(session_keys))
    carry_keys(a, k)
    if a.failed:
        seal_key_free(k.send)
        seal_key_free(k.receive)
        free(k)
        return check(a)
    k.owner = pointer(of.hops[hop_id])
    of.keys[index] = <size_t>k
    session_find(&of.p.sessions, index)[0] = k
    return 0


cdef int carry_senders(Plane of, archive *a, hop *h) except -1:
    """Which keys each path sends on."""
    cdef uint32_t index
    cdef int i
    for i in range(HOP_PATHS):
        index = carry_number(a, 0 if h.paths[i].keys == NULL else h.paths[i].keys.local_index, ID_MAX)
        if a.reading and index:  # which is never 0
            h.paths[i].keys = <session_keys *>pointer(of.keys[index])
    return check(a)


cdef int carry_way_out(Plane of, archive *a, uint32_t id) except -1:
    cdef egress *e = <egress *>allocate(sizeof(egress)) if a.reading else <egress *>pointer(of.egresses[id])
    cdef plane_track *k
    of.egresses[id] = <size_t>e
    carry_egress(a, e)
    check(a)
    if a.reading:
        k = <plane_track *>pointer(of.tracks[e.track])
        of.track_of[id] = e.track
        e.next = k.t.egresses
        k.t.egresses = e
        egress_table_add(&of.p.egresses, e)
    return 0


cdef int carry_feeds(Plane of, archive *a) except -1:
    cdef list hops = carry_ids(a, [hop_id for _, hop_id in of.feeds])
    cdef list tracks = carry_ids(a, [track for track, _ in of.feeds])
    cdef plane_track *k
    cdef feed *f
    for track, hop_id in zip(tracks, hops, strict=True):
        f = <feed *>allocate(sizeof(feed)) if a.reading else <feed *>pointer(of.feeds[track, hop_id])
        of.feeds[track, hop_id] = <size_t>f
        carry_feed(a, f)
        check(a)
        if a.reading:
            k = <plane_track *>pointer(of.tracks[track])
            f.track = &k.t
            f.to = <hop *>pointer(of.hops[hop_id])
            feed_add(&k.feeds, f)
            if f.kept and k.t.replay == NULL:
                raise ValueError("the state is of another format")
    return 0


cdef int carry_standbys(Plane of, archive *a) except -1:
    cdef standby *s
    cdef list numbers
    for track in carry_ids(a, of.standbys):
        if not a.reading:
            s = <standby *>pointer(of.standbys[track][0])
            carry_ids(a, (s.first.id, s.second.id, s.stream, s.alias, s.epoch))
            continue
        numbers = carry_ids(a, ())
        check(a)
        of.add_standby(track, *numbers)
    for hop_id in of.hops if a.reading else ():
        take_up_watch(of.p, <hop *>pointer(of.hops[hop_id]))
    return check(a)


cdef int take_up_watch(plane *p, hop *h) except -1:
    """Of a peer that the process before has watched."""
    if hop_watched(h):
        h.next_watched = p.watched
        p.watched = h
        timer_schedule(h.wheel, &h.watch_timer, max(h.silence.last, h.echo.last))
    return 0


cdef int carry_ports(Plane of, archive *a) except -1:
    """What each port is for."""
    cdef uint32_t port, kind, track
    cdef bint has_track
    for port in carry_ids(a, [i for i in range(PLANE_PORTS) if of.p.ports[i].kind != PORT_CLOSED]):
        if port >= PLANE_PORTS:
            raise ValueError("the state is of another format")
        kind = carry_number(a, of.p.ports[port].kind, PORT_EGRESS)
        has_track = carry_number(a, of.p.ports[port].track != NULL, 1)
        track = carry_number(a, of.ports.get(port, 0), ID_MAX)
        check(a)
        if a.reading:
            of.p.ports[port].kind = <uint8_t>kind
            if has_track:
                of.p.ports[port].track = <plane_track *>pointer(of.tracks[track])
                of.ports[port] = track
    return 0
