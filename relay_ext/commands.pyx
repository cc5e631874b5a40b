# cython: boundscheck=False, wraparound=False
# Ports and paths of a command were checked by `control`.
"""Python's commands, carried out by the packet plane. What a command brings was allocated by Python, and belongs to
the packet plane from here on."""
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from relay_ext.address cimport parse_address
from relay_ext.base cimport addr
from relay_ext.egress cimport egress, egress_table_add, egress_table_remove
from relay_ext.feed cimport feed, feed_add, feed_hold, feed_release, feed_remove, feed_resume
from relay_ext.hop cimport hop_destroy, hop_send_control, hop_timer
from relay_ext.ingest cimport ingest_feedback
from relay_ext.mailbox cimport mail_target, target
from relay_ext.path cimport path_set, path_setting, session_keys
from relay_ext.peer cimport SENDER_INTERVAL, hop, hop_params, hop_watched, wake_within
from relay_ext.plane cimport (
    OP_CONTROL, OP_EGRESS_ADD, OP_EGRESS_REMOVE, OP_FEED_ADD, OP_FEED_HOLD, OP_FEED_RELEASE, OP_FEED_REMOVE,
    OP_FEED_RESUME, OP_FEED_SET, OP_FEEDBACK, OP_HOP_ADD, OP_HOP_ORDERS, OP_HOP_PARAMS, OP_HOP_REMOVE, OP_HOP_WATCH,
    OP_KEYS_ADD, OP_KEYS_DROP, OP_KEYS_USE,
    OP_PATH, OP_PING, OP_PORT, OP_ROUTE_ADD, OP_ROUTE_REMOVE, OP_SEND, OP_STANDBY_ADD, OP_STANDBY_ASK, OP_STANDBY_REMOVE,
    OP_TRACK_ADD, OP_TRACK_HOLD, OP_TRACK_REMOVE, OP_TRACK_RESTART, PORT_RTCP, PORT_RTP, TIMER_HOP, TIMER_PACER,
    TIMER_TRACK, TIMER_WATCH, plane_send, plane_track)
from relay_ext.playout cimport track_destroy, track_restart
from relay_ext.replay cimport replay
from relay_ext.route cimport route_add, route_remove
from relay_ext.seal cimport gate_set_secret, seal_key_free
from relay_ext.sender cimport hop_set_params
from relay_ext.sessions cimport session_find, session_remove
from relay_ext.silence cimport silence, silence_watch
from relay_ext.slab cimport SLAB_DATA, slab, slab_get, slab_unref
from relay_ext.standby cimport standby, standby_add, standby_ask, standby_remove
from relay_ext.system cimport M_MMAP_THRESHOLD, mallopt
from relay_ext.timer cimport timer_schedule
from relay_ext.uplink cimport uplink_choose


# ---- made by Python --------------------------------------------------------------------------

# A peer's memory comes from the kernel, zero and not resident, and goes back there. Left alone glibc stops that with the
# first large piece that is freed, and zeroes 2 MB for each peer.
mallopt(M_MMAP_THRESHOLD, 128 << 10)


cdef void *allocate(size_t n) except NULL:
    cdef void *p = calloc(1, n)
    if p == NULL:
        raise MemoryError
    return p


cdef outgoing *make_outgoing(tuple address, bytes data) except NULL:
    if len(data) > SLAB_DATA:
        raise ValueError(f"a datagram has {SLAB_DATA} bytes at most")
    cdef addr to
    if address is not None:
        parse_address(address, &to)
    cdef outgoing *o = <outgoing *>allocate(sizeof(outgoing))
    if address is not None:
        o.to = to
        o.has_address = True
    o.len = len(data)
    memcpy(o.data, <const uint8_t *>data, o.len)
    return o


# ---- carried out -----------------------------------------------------------------------------

cdef void plane_apply(plane *p, int64_t now, command *c) noexcept nogil:
    if c.op <= OP_EGRESS_REMOVE:
        apply_track(p, c)
    elif c.op <= OP_KEYS_DROP:
        apply_hop(p, now, c)
    else:
        apply_link(p, now, c)


cdef void apply_track(plane *p, command *c) noexcept nogil:
    cdef plane_track *k = <plane_track *>c.target
    cdef egress *e = <egress *>c.ptr
    cdef egress **at
    if c.op == OP_PORT:
        p.ports[c.a].kind = <uint8_t>c.b
        p.ports[c.a].track = k
        if c.b == PORT_RTP:
            k.source.rtp_port = <uint16_t>c.a
        elif c.b == PORT_RTCP:
            k.source.rtcp_port = <uint16_t>c.a
            k.source.has_rtcp_port = True
    elif c.op == OP_TRACK_ADD:
        k.t.timer.kind = TIMER_TRACK
        k.t.timer.owner = &k.t
        mail_target(&p.mail, k.t.id)[0] = target(k.t.id, NULL, k)
    elif c.op == OP_TRACK_REMOVE:
        if not k.far:
            mail_target(&p.mail, k.t.id).id = 0
            track_destroy(&k.t)
        free(k)
    elif c.op == OP_TRACK_RESTART:
        track_restart(&k.t)
    elif c.op == OP_TRACK_HOLD:
        k.t.hold = <int64_t>c.a * 1000
        k.t.rtt_before = <int64_t>c.b * 1000
    elif c.op == OP_EGRESS_ADD:
        e.next = k.t.egresses
        k.t.egresses = e
        egress_table_add(&p.egresses, e)
    else:
        at = &k.t.egresses
        while at[0] != e:
            at = &at[0].next
        at[0] = e.next
        egress_table_remove(&p.egresses, e)
        free(e)


cdef inline void apply_hop(plane *p, int64_t now, command *c) noexcept nogil:
    cdef hop *h = <hop *>c.target
    cdef session_keys *k = <session_keys *>c.ptr
    if c.op == OP_HOP_ADD:
        h.timer.kind = TIMER_HOP
        h.timer.owner = h
        h.pace_timer.kind = TIMER_PACER
        h.pace_timer.owner = h
        h.watch_timer.kind = TIMER_WATCH
        h.watch_timer.owner = h
        mail_target(&p.mail, h.id)[0] = target(h.id, h, NULL)
        hop_timer(h, now)
    elif c.op == OP_HOP_REMOVE:
        mail_target(&p.mail, h.id).id = 0
        watch(p, now, h, &h.silence, False)
        watch(p, now, h, &h.echo, False)
        hop_destroy(h)
        free(h)
    elif c.op == OP_HOP_PARAMS:
        hop_set_params(h, now, <hop_params *>c.ptr)
        free(c.ptr)
    elif c.op == OP_HOP_ORDERS:
        memcpy(h.source_order, &c.a, 4)
        memcpy(h.repair_order, &c.b, 4)
        uplink_choose(h)
    elif c.op == OP_HOP_WATCH:
        watch(p, now, h, &h.echo if c.b else &h.silence, c.a)
    elif c.op == OP_PATH:
        path_set(&h.paths[c.a], <path_setting *>c.ptr)
        free(c.ptr)
    elif c.op == OP_KEYS_ADD:
        session_find(&p.sessions, k.local_index)[0] = k
    elif c.op == OP_KEYS_USE:
        h.paths[k.path].keys = k
        hop_timer(h, now)
    else:
        drop_keys(p, h, k)
        uplink_choose(h)


cdef void watch(plane *p, int64_t now, hop *h, silence *of, bint watched) noexcept nogil:
    cdef hop **at = &p.watched
    cdef bint listed = hop_watched(h)
    if watched == of.watched:
        return
    silence_watch(of, now, watched)
    if watched:
        timer_schedule(h.wheel, &h.watch_timer, now)
        wake_within(h, now, SENDER_INTERVAL)  # the peer is to be asked to be heard all the time
    if listed == hop_watched(h):
        return
    if watched:
        h.next_watched = p.watched
        p.watched = h
        return
    while at[0] != h:
        at = &at[0].next_watched
    at[0] = h.next_watched


cdef inline void drop_keys(plane *p, hop *h, session_keys *k) noexcept nogil:
    session_remove(&p.sessions, k)
    if h.paths[k.path].keys == k:
        h.paths[k.path].keys = NULL
    seal_key_free(k.send)
    seal_key_free(k.receive)
    free(k)


cdef inline void apply_link(plane *p, int64_t now, command *c) noexcept nogil:
    cdef plane_track *k = <plane_track *>c.target
    cdef feed *f = <feed *>c.ptr
    cdef outgoing *o = <outgoing *>c.ptr
    cdef slab *s
    if c.op == OP_FEED_ADD:
        feed_add(&k.feeds, f)
    elif c.op == OP_FEED_REMOVE:
        feed_remove(&k.feeds, f)
    elif c.op == OP_FEED_HOLD:
        feed_hold(<feed *>c.target, <replay *>c.ptr)
    elif c.op == OP_FEED_RELEASE:
        feed_release(<feed *>c.target, &p.mail, now, &c.a if c.b else NULL)
    elif c.op == OP_FEED_SET:
        (<feed *>c.target).age_max = <uint16_t>c.a
    elif c.op == OP_FEED_RESUME:
        feed_resume(<feed *>c.target, &p.mail, now, <int64_t>c.a * 1000)
    elif c.op == OP_STANDBY_ADD:
        standby_add(<standby *>c.ptr)
    elif c.op == OP_STANDBY_REMOVE:
        standby_remove(<standby *>c.ptr)
    elif c.op == OP_STANDBY_ASK:
        standby_ask(<standby *>c.ptr, now)
    elif c.op == OP_ROUTE_ADD:
        route_add(&(<hop *>c.target).routes, <uint16_t>c.a, <uint8_t>c.b, <uint8_t>c.c, c.ptr)
    elif c.op == OP_ROUTE_REMOVE:
        route_remove(&(<hop *>c.target).routes, c.ptr)
    elif c.op == OP_SEND:
        s = slab_get(p.pool)
        if s != NULL:
            s.len = o.len
            memcpy(s.data, o.data, o.len)
            plane_send(p, o.port, &o.to, s)
            slab_unref(p.pool, s)
        free(o)
    elif c.op == OP_CONTROL:
        hop_send_control(<hop *>c.target, now, <uint8_t>o.port, &o.to if o.has_address else NULL, o.data, o.len,
                         o.pad_to)
        free(o)
    elif c.op == OP_FEEDBACK:
        ingest_feedback(&k.source, &p.tx, p.pool, <int>c.a, <uint64_t>c.b << 32 | c.c)
    elif c.op == OP_PING:
        p.pong = c.a
    else:
        gate_set_secret(p.gate, <const uint8_t *>c.ptr)
        free(c.ptr)
