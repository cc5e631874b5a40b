# cython: boundscheck=False, wraparound=False
# Nothing is indexed but arrays of a fixed size, by constants.
"""What Python is shown of the packet plane: its events, and its state as dictionaries and named tuples."""
from typing import NamedTuple

from relay_ext.address cimport format_address
from relay_ext.base cimport event, spsc_consume, spsc_peek, spsc_queue
from relay_ext.path cimport IP_UDP, path
from relay_ext.peer cimport HOP_PATHS, hop
from relay_ext.plane cimport plane, plane_track
from relay_ext.playout cimport track_target
from relay_ext.ring cimport ring_missing
from relay_ext.uplink cimport uplink_gets_through, uplink_is_up


class Event(NamedTuple):
    """What the packet plane leaves to Python; which fields mean something depends on `kind`."""

    kind: int
    now_ns: int
    a: int
    b: int
    port: int
    size: int
    address: tuple
    data: bytes


class PathState(NamedTuple):
    """One path, and what the peer has said of it; see control.pyi."""

    id: int
    role: str
    heard_ns: int
    rtt_ns: int
    rtt_min_ns: int
    jitter_ns: int
    queue_delay_ns: int
    loss_ratio: float
    loss_burst: float
    loss_settled: bool
    reported_highest: int
    reported_received: int
    queue_ns: int
    passed_bps: float
    loss_recent: float
    progress_ns: int
    sent_bytes: int


class Link(NamedTuple):
    """The state of the path that a hop sends source packets on, and of the hop. Times in ns of the plane's clock, 0 for never; delays in ns."""

    rtt_ns: int
    rtt_min_ns: int
    jitter_ns: int
    queue_delay_ns: int
    loss_ratio: float
    loss_assumed: float
    loss_burst: float
    loss_settled: bool
    heard_ns: int
    source_at_ns: int
    media_at_ns: int
    source_sent: int
    queue_ns: int
    waiting: int
    repair_loss_assumed: float
    repair_round_ns: int
    paths: tuple


cdef list events_of(plane *p):
    cdef list out = []
    drain(&p.queues.handshakes, out)
    drain(&p.queues.cookies, out)
    drain(&p.queues.control, out)
    drain(&p.queues.notices, out)
    drain(&p.queues.sources, out)
    drain(&p.queues.asks, out)
    return out


cdef int drain(spsc_queue *q, list out) except -1:
    cdef event *e = <event *>spsc_peek(q)
    while e != NULL:
        out.append(Event(e.kind, e.now, e.a, e.b, e.port, e.size, format_address(&e.source), e.data[:e.len]))
        spsc_consume(q)
        e = <event *>spsc_peek(q)
    return 0


cdef dict plane_state(plane *p):
    out = {**p.stats, **p.takeovers, **p.mail.stats}
    out["slabs_in_use"] = p.pool.in_use
    out["slabs_exhausted"] = p.pool.exhausted
    out["tx_overflow"] = p.tx.overflow
    return out


cdef dict track_state(plane_track *k):
    out = dict(k.t.stats)
    out["held"] = k.t.ring.held
    out["missing"] = ring_missing(&k.t.ring) if k.t.ring.occupied else None
    out["broken"] = bool(k.t.broken)
    out["ssrc"] = k.t.ssrc
    out["added_delay_ns"] = k.t.added_delay
    out["target_ns"] = track_target(&k.t)
    out["drift"] = k.t.line.slope if k.t.line.known else None
    out["ingest"] = dict(k.source.stats)
    out["source"] = format_address(&k.source.source) if k.source.latched else None
    out["last_ns"] = k.source.last
    return out


cdef object link_state(hop *h):
    cdef path *p = &h.paths[h.active]
    cdef int i
    return Link(p.rtt, p.rtt_min, p.jitter, p.queue_delay, p.loss.ratio, p.loss.assumed, p.loss.burst,
                p.loss.settled, p.heard, h.source_at, h.media_at, h.stats.source_sent, p.queue, h.pacer.waiting,
                h.paths[h.mending].loss.assumed, h.repair_round,
                tuple([path_state(h, &h.paths[i]) for i in range(HOP_PATHS) if uplink_is_up(&h.paths[i])]))


cdef str role_of(hop *h, path *p):
    """What a path carries; see control.pyi."""
    if p.id == h.active:
        return "source+repair" if p.id == h.mending else "source"
    if not uplink_gets_through(p):
        return "dead"
    return "repair" if p.id == h.mending else "standby"


cdef object path_state(hop *h, path *p):
    return PathState(p.id, role_of(h, p), p.heard, p.rtt, p.rtt_min, p.jitter, p.queue_delay, p.loss.ratio,
                     p.loss.burst, p.loss.settled, p.report_highest, p.report_received, p.queue, 8 * p.passed,
                     p.loss_recent, p.progress_at, p.tx_bytes + p.tx_datagrams * IP_UDP)


cdef dict hop_state(hop *h):
    cdef path *p = &h.paths[h.active]
    cdef int i
    out = {**h.stats, **h.pacer.stats}
    out["deficit_rows"] = h.decoder.rows
    out["paths"] = [path_dict(&h.paths[i]) for i in range(HOP_PATHS) if h.paths[i].has_address]
    out["receive_loss_ratio"] = receive_loss(p)
    return out


cdef double receive_loss(const path *p):
    """Of the datagrams that were sent to us on this path since the peer's process or ours began."""
    if not p.rx_started:
        return 0.0
    return max(1 - p.rx_packets / <double>(p.rx_highest - p.rx_first + 1), 0.0)


cdef dict path_dict(path *p):
    return {
        "id": p.id, "address": format_address(&p.to), "datagram_max": p.datagram_max, "rtt_ns": p.rtt,
        "loss_ratio": p.loss.ratio, "sent_packets": p.tx_datagrams, "sent_bytes": p.tx_bytes,
        "received_packets": p.rx_datagrams, "received_bytes": p.rx_bytes, "heard_ns": p.heard,
        "reports_invalid": p.reports_invalid, "port": p.port, "receive_loss_ratio": receive_loss(p),
        "receive_highest": p.rx_highest, "receive_count": p.rx_packets,
    }
