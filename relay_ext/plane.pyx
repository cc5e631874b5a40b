# cython: boundscheck=False, wraparound=False, cdivision=True
# Ports are checked against PLANE_PORTS.
"""The packet plane as one machine without a socket: datagrams and commands in, datagrams and events out.

`engine` drives it from sockets, `control.Plane` from Python, in virtual time.
"""
from libc.stdint cimport int32_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from relay_ext.base cimport (
    EVENT_DATA, addr_equal, addr_same_host, command, event, spsc_commit, spsc_destroy, spsc_init, spsc_reserve, tx_clear,
    tx_packet, tx_push)
from relay_ext.egress cimport egress, egress_find
from relay_ext.hop cimport hop_receive, hop_timer
from relay_ext.ingest cimport ingest, ingest_flags
from relay_ext.inner cimport (
    INNER_FIRST, INNER_LAST, INNER_RTCP, INNER_SIZE, INNER_START, INNER_TIME_NS, be32, inner, put16, serial_diff)
from relay_ext.feed cimport feeds_insert, feeds_send
from relay_ext.mailbox cimport mail_post, mail_take
from relay_ext.path cimport path, path_elsewhere, session_keys
from relay_ext.peer cimport (
    HOP_CONTROL, HOP_DELAYS, HOP_OK, TYPE_CONTROL, TYPE_COOKIE, TYPE_INITIATION, TYPE_SOURCE, hop_delivered)
from relay_ext.playout cimport track_insert, track_observe, track_release, track_sender_report
from relay_ext.rtp cimport (
    RTCP_ASKS_MAX, RTCP_OK, RTCP_SR_MAX, RTP_OK, RTP_UNWRAP_HELD, rtcp_build_sr, rtcp_is, rtcp_key_asks, rtcp_parse,
    rtcp_sr, rtp_header, rtp_parse, rtp_unwrap_apply)
from relay_ext.seal cimport (
    GATE_BAD_MAC1, GATE_COOKIE, GATE_PASS, GATE_REPLY, GATE_SHORT, gate_check, gate_free, gate_new)
from relay_ext.sender cimport hop_pace
from relay_ext.sessions cimport session_find
from relay_ext.slab cimport SLAB_DATA, slab, slab_get, slab_pool_free, slab_pool_new, slab_unref
from relay_ext.standby cimport FALLEN_ECHO, FALLEN_SILENCE, FRAME_TAKE_OVER, standby_asked, standby_watch
from relay_ext.timer cimport timer_expire, timer_next, timer_node, timer_schedule, timer_wheel_init

cdef enum:
    COMMANDS = 1024           # waiting for the packet plane, at most
    HANDSHAKES = 128          # events waiting for Python, at most
    COOKIES = 32
    CONTROLS = 256
    NOTICES = 256
    SOURCES = 64
    ASKS = 64

cdef int64_t LATCH_SILENCE = 2000000000    # ns; after it an ingest port takes another source
cdef int64_t NOTICE_INTERVAL = 20000000   # ns between two notices of an address on one path
cdef int64_t AWAY = 20000000               # ns beyond its time, after which a turn finds that this node was away
cdef int64_t ASK_INTERVAL = 100000000     # ns between two notices of what an egress's receiver asks for


# ---- life ------------------------------------------------------------------------------------

cdef plane *plane_new(uint32_t slabs, const uint8_t *public_key, int64_t now) noexcept nogil:
    cdef plane *p = <plane *>calloc(1, sizeof(plane))
    if p == NULL:
        return NULL
    p.pool = slab_pool_new(slabs)
    p.gate = gate_new(public_key)
    timer_wheel_init(&p.wheel, now)
    if (p.pool == NULL or p.gate == NULL
            or not spsc_init(&p.queues.commands, COMMANDS, sizeof(command))
            or not spsc_init(&p.queues.handshakes, HANDSHAKES, sizeof(event))
            or not spsc_init(&p.queues.cookies, COOKIES, sizeof(event))
            or not spsc_init(&p.queues.control, CONTROLS, sizeof(event))
            or not spsc_init(&p.queues.notices, NOTICES, sizeof(event))
            or not spsc_init(&p.queues.sources, SOURCES, sizeof(event))
            or not spsc_init(&p.queues.asks, ASKS, sizeof(event))):
        plane_free(p)
        return NULL
    return p


cdef void plane_free(plane *p) noexcept nogil:
    """Frees the plane; its tracks, hops and keys must have been removed."""
    if p.pool != NULL:
        tx_clear(&p.tx, p.pool)
        slab_pool_free(p.pool)
    gate_free(p.gate)
    spsc_destroy(&p.queues.commands)
    spsc_destroy(&p.queues.handshakes)
    spsc_destroy(&p.queues.cookies)
    spsc_destroy(&p.queues.control)
    spsc_destroy(&p.queues.notices)
    spsc_destroy(&p.queues.sources)
    spsc_destroy(&p.queues.asks)
    free(p)


# ---- events ----------------------------------------------------------------------------------

cdef inline event *new_event(plane *p, spsc_queue *q, uint64_t *dropped, int64_t now, uint16_t kind, uint32_t a,
                             uint32_t b, const addr *source, size_t size) noexcept nogil:
    cdef event *e = <event *>spsc_reserve(q)
    if e == NULL:
        dropped[0] += 1
        return NULL
    e.kind = kind
    e.now = now
    e.a = a
    e.b = b
    e.source = source[0]
    e.size = <uint16_t>size
    e.len = 0
    e.port = 0
    p.events_pending = True
    return e


cdef inline void notify(plane *p, int64_t now, uint16_t kind, uint32_t a, uint32_t b, const addr *source,
                        size_t size) noexcept nogil:
    if new_event(p, &p.queues.notices, &p.stats.notices_dropped, now, kind, a, b, source, size) != NULL:
        spsc_commit(&p.queues.notices)


# ---- receiving -------------------------------------------------------------------------------

cdef void plane_receive(plane *p, int64_t now, uint16_t port, const addr *source,
                        const uint8_t *data, size_t n) noexcept nogil:
    cdef uint8_t kind = p.ports[port].kind if port < PLANE_PORTS else <uint8_t>PORT_CLOSED
    if kind == PORT_RTP:
        if rtcp_is(data, n):
            receive_rtcp(p, now, port, p.ports[port].track, source, data, n)
        else:
            receive_rtp(p, now, p.ports[port].track, source, data, n)
    elif kind == PORT_HOP:
        if n == 0:
            p.stats.short_datagrams += 1
        elif data[0] >= TYPE_SOURCE:
            receive_sealed(p, now, source, data, n)
        else:
            receive_handshake(p, now, port, source, data, n)
    elif kind == PORT_RTCP:
        receive_rtcp(p, now, port, p.ports[port].track, source, data, n)
    elif kind == PORT_EGRESS:
        receive_feedback(p, now, source, data, n)
    else:
        p.stats.unknown_port += 1


cdef inline bint follow(plane *p, int64_t now, plane_track *k, const addr *source, uint32_t ssrc) noexcept nogil:
    """Whether this source is, or becomes, the one that the port follows."""
    cdef ingest *g = &k.source
    if not g.latched or (not addr_equal(&g.source, source) and now - g.last > LATCH_SILENCE):
        g.latched = True
        g.source = source[0]
    elif not addr_equal(&g.source, source):
        return False
    elif g.ssrc == ssrc:
        return True
    g.ssrc = ssrc
    g.credit = 0
    g.report_due = True
    g.stats.sources += 1
    if new_event(p, &p.queues.sources, &p.stats.sources_dropped, now, EVENT_SOURCE, k.t.id, ssrc, source, 0) != NULL:
        spsc_commit(&p.queues.sources)
    return True


cdef void receive_rtp(plane *p, int64_t now, plane_track *k, const addr *source, const uint8_t *data,
                      size_t n) noexcept nogil:
    cdef ingest *g = &k.source
    cdef rtp_header h
    cdef inner header
    cdef int32_t ahead
    if n > SLAB_DATA:
        g.stats.too_long += 1
        return
    if rtp_parse(data, n, &h) != RTP_OK:
        g.stats.not_rtp += 1
        return
    if h.payload_type != g.payload_type:
        g.stats.payload_type += 1
        return
    if not follow(p, now, k, source, h.ssrc):
        g.stats.other_source += 1
        return
    g.last = now
    g.credit += n
    memset(&header, 0, sizeof(header))
    if rtp_unwrap_apply(&g.unwrap, h.ssrc, h.seq, &header.seq) == RTP_UNWRAP_HELD:
        g.stats.held += 1
        return
    if not g.started:
        g.started = True
        header.flags = INNER_START
        g.highest = header.seq
    else:
        ahead = serial_diff(header.seq, g.highest)
        if ahead > 0:
            g.highest = header.seq
            header.gap = <uint8_t>min(ahead - 1, 255)
    header.flags |= ingest_flags(g, data, &h)
    g.stats.packets += 1
    g.stats.bytes += n
    forward(p, now, k, &header, data, <uint16_t>n)
    if g.report_due:
        tell_report(p, now, k)


cdef inline void forward(plane *p, int64_t now, plane_track *k, inner *header, const uint8_t *data,
                         uint16_t n) noexcept nogil:
    """Send what came from a source to the peers and egresses of its track."""
    cdef slab *body = slab_get(p.pool)
    if body == NULL:
        k.t.stats.no_memory += 1
        return
    memcpy(body.data, data, n)
    body.len = n
    header.length = n
    header.time = <uint32_t>(now // INNER_TIME_NS)
    header.priority = k.priority
    if feeds_send(k.feeds, &p.mail, &k.t, now, header, body, 0):
        k.source.report_due = True
    if not header.flags & INNER_RTCP:
        header.flags |= INNER_FIRST | INNER_LAST
        track_insert(&k.t, now, header, body, 0)
        track_release(&k.t, now)
    slab_unref(p.pool, body)


cdef void receive_rtcp(plane *p, int64_t now, uint16_t port, plane_track *k, const addr *source,
                       const uint8_t *data, size_t n) noexcept nogil:
    """Keeps the sender report. An encoder's first one comes before its first packet, when nobody is followed yet, and
    without it players cannot align the tracks for the next 5 s."""
    cdef ingest *g = &k.source
    cdef rtcp_sr report
    cdef bint has_report = False, bye = False
    # RTCP may come from another port of the source than its RTP does.
    if g.latched and not addr_same_host(&g.source, source):
        g.stats.other_source += 1
        return
    if n > SLAB_DATA or rtcp_parse(data, n, &report, &has_report, &bye) != RTP_OK:
        g.stats.not_rtcp += 1
        return
    if not has_report:
        return
    g.stats.reports += 1
    g.report = report
    g.reporter = source[0]
    g.reporter_port = port
    g.reported = True
    if g.latched:
        tell_report(p, now, k)


cdef void tell_report(plane *p, int64_t now, plane_track *k) noexcept nogil:
    """Give the source's last sender report, if there is one, to the egresses and the peers of its track."""
    cdef ingest *g = &k.source
    cdef uint8_t data[RTCP_SR_MAX]
    cdef uint16_t n
    cdef inner header
    g.report_due = False
    if not g.reported or g.report.ssrc != g.ssrc or not addr_same_host(&g.reporter, &g.source):
        return
    n = <uint16_t>rtcp_build_sr(data, &g.report, <const uint8_t *>b"", 0)
    track_sender_report(&k.t, data, n)
    memset(&header, 0, sizeof(header))
    header.flags = INNER_RTCP
    header.seq = g.highest
    forward(p, now, k, &header, data, n)


cdef void receive_feedback(plane *p, int64_t now, const addr *source, const uint8_t *data, size_t n) noexcept nogil:
    """Receivers' RTCP ends here; what it asks of a key frame is passed on if it comes from where the egress sends to."""
    cdef uint32_t ssrcs[RTCP_ASKS_MAX]
    cdef rtcp_sr report
    cdef bint has_report, bye
    cdef egress *e
    cdef int i
    if rtcp_parse(data, n, &report, &has_report, &bye) != RTCP_OK:
        p.stats.receiver_not_rtcp += 1
        return
    p.stats.receiver_reports += 1
    for i in range(rtcp_key_asks(data, n, ssrcs)):
        e = egress_find(&p.egresses, ssrcs[i])
        if e == NULL or not (addr_same_host(&e.to, source) or addr_same_host(&e.rtcp_to, source)):
            p.stats.receiver_unknown += 1
            continue
        p.stats.receiver_asks += 1
        if e.asked == 0 or now - e.asked >= ASK_INTERVAL:
            e.asked = now
            if new_event(p, &p.queues.asks, &p.stats.asks_dropped, now, EVENT_KEY_ASKED, e.track, 0, source, n) != NULL:
                spsc_commit(&p.queues.asks)


cdef void receive_handshake(plane *p, int64_t now, uint16_t port, const addr *source, const uint8_t *data,
                            size_t n) noexcept nogil:
    cdef uint8_t address[18]
    cdef size_t reply_len = 0
    cdef int verdict
    cdef slab *reply
    if data[0] < TYPE_INITIATION or data[0] > TYPE_COOKIE:
        p.stats.bad_type += 1
        return
    if n > EVENT_DATA:
        p.stats.handshake_too_long += 1
        return
    if data[0] == TYPE_COOKIE:  # authenticated by the key that the asker alone can derive
        if n == GATE_REPLY:
            queue_handshake(p, &p.queues.cookies, &p.stats.cookies_dropped, now, port, source, data, n)
        else:
            p.stats.bad_cookie += 1
        return
    memcpy(address, source.ip, 16)
    put16(address + 16, source.port)
    reply = slab_get(p.pool)
    if reply == NULL:
        p.stats.handshake_no_memory += 1
        return
    verdict = gate_check(p.gate, now, address, data, n, reply.data, &reply_len)
    if verdict == GATE_COOKIE:
        reply.len = <uint16_t>reply_len
        plane_send(p, port, source, reply)
        p.stats.cookies_sent += 1
    slab_unref(p.pool, reply)
    if verdict == GATE_PASS:
        queue_handshake(p, &p.queues.handshakes, &p.stats.handshakes_dropped, now, port, source, data, n)
    elif verdict == GATE_BAD_MAC1:
        p.stats.bad_mac1 += 1
    elif verdict == GATE_SHORT:
        p.stats.short_datagrams += 1
    elif verdict != GATE_COOKIE:
        p.stats.handshake_limited += 1


cdef inline void queue_handshake(plane *p, spsc_queue *q, uint64_t *dropped, int64_t now, uint16_t port,
                                 const addr *source, const uint8_t *data, size_t n) noexcept nogil:
    cdef event *e = new_event(p, q, dropped, now, EVENT_HANDSHAKE, 0, 0, source, n)
    if e != NULL:
        e.port = port
        e.len = <uint16_t>n
        memcpy(e.data, data, n)
        spsc_commit(q)


cdef void plane_send(plane *p, uint16_t port, const addr *to, slab *body) noexcept nogil:
    cdef tx_packet *packet = tx_push(&p.tx, body, 0, body.len)
    if packet != NULL:
        packet.port = port
        packet.to = to[0]


cdef void receive_sealed(plane *p, int64_t now, const addr *source, const uint8_t *data, size_t n) noexcept nogil:
    cdef session_keys *k
    cdef hop *h
    cdef path *way
    cdef event *e
    cdef bint confirmed
    cdef int status
    if data[0] > TYPE_CONTROL:
        p.stats.bad_type += 1
        return
    if n < 16:
        p.stats.short_datagrams += 1
        return
    k = session_find(&p.sessions, be32(data + 4))[0]
    if k == NULL:
        p.stats.unknown_index += 1
        return
    h = <hop *>k.owner
    way = &h.paths[k.path]
    confirmed = k.confirmed
    status = hop_receive(h, k, now, data, n)
    if status != HOP_OK and status != HOP_CONTROL:
        return
    if k.confirmed and not confirmed:
        notify(p, now, EVENT_CONFIRMED, h.id, k.local_index, source, n)
    if way.rx_highest_at == now:
        if addr_equal(&way.to, source):
            way.newest_credit = 0
        elif now - way.address_notice >= NOTICE_INTERVAL:
            way.address_notice = now
            notify(p, now, EVENT_ADDRESS, h.id, k.path, source, n)  # challenges may spend its bytes
        elif status == HOP_OK:  # reports those of the others; control frames pay for what answers them
            path_elsewhere(way, source, n)
    if status == HOP_CONTROL and h.control.data[0] == FRAME_TAKE_OVER:
        standby_asked(h, &p.mail, &p.takeovers, now)
    elif status == HOP_CONTROL:
        e = new_event(p, &p.queues.control, &p.stats.control_dropped, now, EVENT_CONTROL, h.id, k.local_index, source,
                      n)
        if e != NULL:
            e.len = <uint16_t>min(h.control.len, EVENT_DATA)
            memcpy(e.data, h.control.data, e.len)
            spsc_commit(&p.queues.control)
    take_delivered(p, now, h)


cdef inline void take_delivered(plane *p, int64_t now, hop *h) noexcept nogil:
    cdef uint32_t i
    cdef hop_delivered *d
    cdef track *t
    for i in range(h.delivered_count):
        d = &h.delivered[i]
        t = &(<plane_track *>d.track).t
        t.rtt = h.rtt_longest
        t.by = h.id
        if (<plane_track *>d.track).far:
            post_delivered(p, now, h, d)
        elif feeds_insert((<plane_track *>d.track).feeds, &p.mail, t, now, now, &d.header, d.symbol, INNER_SIZE):
            note_delay(h, t)
        slab_unref(p.pool, d.symbol)
    for i in range(h.delivered_count):
        if not (<plane_track *>h.delivered[i].track).far:
            track_release(&(<plane_track *>h.delivered[i].track).t, now)
    h.delivered_count = 0


cdef void insert_mail(void *p, int64_t now, int64_t arrival, void *k, const inner *header, slab *body) noexcept nogil:
    cdef track *t = &(<plane_track *>k).t
    feeds_insert((<plane_track *>k).feeds, &(<plane *>p).mail, t, now, arrival, header, body, 0)
    timer_schedule(t.wheel, &t.timer, now)  # plane_poll releases after the last of them


cdef inline void note_delay(hop *h, const track *t) noexcept nogil:
    h.delays[max(min(t.added_delay // 1000000, HOP_DELAYS - 1), 0)] += 1


cdef void post_delivered(plane *p, int64_t now, hop *h, const hop_delivered *d) noexcept nogil:
    cdef track *t = &(<plane_track *>d.track).t
    if not d.header.flags & INNER_RTCP:
        track_observe(t, now, d.header.time)
        note_delay(h, t)
    mail_post(&p.mail, now, t.id, &d.header, d.symbol.data + INNER_SIZE)


cdef inline void pace(plane *p, int64_t now, hop *h) noexcept nogil:
    """Send what waits, and tell whose encoder should make a key frame because of what was dropped."""
    cdef uint32_t i, wanted
    hop_pace(h, now)
    wanted = h.pacer.wanted_count
    h.pacer.wanted_count = 0
    for i in range(wanted):
        notify(p, now, EVENT_KEY_WANTED, h.id, h.pacer.wanted[i], &h.paths[h.active].to, 0)


cdef inline void watch(plane *p, int64_t now, hop *h) noexcept nogil:
    cdef const addr *to = &h.paths[h.active].to
    cdef uint8_t fallen = standby_watch(h, &p.takeovers, now)
    if fallen & FALLEN_SILENCE:
        notify(p, now, EVENT_SILENT, h.id, <uint32_t>((now - h.silence.last) // 1000000), to, 0)
    if fallen & FALLEN_ECHO:
        notify(p, now, EVENT_UNREACHED, h.id, <uint32_t>((now - h.echo.last) // 1000000), to, 0)


cdef void plane_wake(plane *p, int64_t now) noexcept nogil:
    """What a node did not hear while it was stopped, or had no processor, is nobody's silence: what has come meanwhile
    is read first."""
    cdef hop *h = p.watched
    if now - p.due <= AWAY:
        return
    while h != NULL:
        h.silence.last = h.echo.last = now
        h = h.next_watched


cdef int64_t plane_poll(plane *p, int64_t now) noexcept nogil:
    cdef bint more = mail_take(&p.mail, p.pool, &p.tx, now, p, insert_mail)
    cdef timer_node *node = timer_expire(&p.wheel, now)
    while node != NULL:
        if node.kind == TIMER_TRACK:
            track_release(<track *>node.owner, now)
        elif node.kind == TIMER_HOP:
            hop_timer(<hop *>node.owner, now)
        elif node.kind == TIMER_WATCH:
            watch(p, now, <hop *>node.owner)
        else:
            pace(p, now, <hop *>node.owner)
        node = timer_expire(&p.wheel, now)
    p.due = now if more else timer_next(&p.wheel, now)
    return p.due
