"""The reliable channel: order, once, bounds, wrap-around, and its speed at 30 % loss in virtual time."""

import heapq
import random

import pytest

from relay.core.channel import Channel, ChannelFull
from relay.wire import hop
from relay.wire.hop import Acknowledgement, Reliable
from relay.wire.messages import MESSAGE_BYTES_MAX

MS = hop.MS
RTT = 100 * MS


def transfer(seed: int, count: int, loss: float, first: int = 0) -> tuple[int, int, int]:
    """Both ends send `count` messages as fast as they are taken.

    Nanoseconds until all have been delivered, until all are acknowledged, and the frames that this took.
    """
    rng = random.Random(seed)
    ends = (Channel(first), Channel(first))
    to_send = [[f"{end}:{i}".encode() for i in range(count)] for end in (0, 1)]
    got: list[list[bytes]] = [[], []]
    wire: list[tuple[int, int, int, Reliable | Acknowledgement]] = []
    now_ns = frames = delivered_ns = 0

    def pump(end: int) -> None:
        nonlocal frames
        channel = ends[end]
        while to_send[end] and channel.unacknowledged < hop.CHANNEL_QUEUE_MAX:
            channel.send(to_send[end].pop(0))
        for frame in channel.poll(now_ns, RTT):
            frames += 1
            if rng.random() >= loss:
                heapq.heappush(wire, (now_ns + RTT // 2, frames, 1 - end, frame))

    pump(0)
    pump(1)
    while any(end.unacknowledged for end in ends):
        deadlines = [d for d in (end.deadline() for end in ends) if d is not None]
        now_ns = min(deadlines + [w[0] for w in wire[:1]])
        assert now_ns < 600_000 * MS, f"seed {seed}"
        if wire and wire[0][0] <= now_ns:
            _, _, end, frame = heapq.heappop(wire)
            if isinstance(frame, Reliable):
                ready = ends[end].receive(frame)
                got[end] += ready
                delivered_ns = now_ns if ready else delivered_ns
            else:
                ends[end].acknowledged(frame)
        pump(0)
        pump(1)
    assert got[1] == [f"0:{i}".encode() for i in range(count)], f"seed {seed}"
    assert got[0] == [f"1:{i}".encode() for i in range(count)], f"seed {seed}"
    return delivered_ns, now_ns, frames


def test_100_messages_each_way_at_30_percent_loss():
    runs = [transfer(seed, 100, 0.3) for seed in range(100)]
    delivered, acknowledged, frames = (sorted(column) for column in zip(*runs, strict=True))
    for name, values in (("delivered", delivered), ("acknowledged", acknowledged)):
        print(f"100 messages each way {name}: p50 {values[50] / MS:.0f} ms, worst {values[99] / MS:.0f} ms")
    print(f"frames p50 {frames[50]}")
    assert delivered[50] < 900 * MS
    assert delivered[99] < 1800 * MS
    assert acknowledged[99] < 2500 * MS


def test_without_loss_a_burst_takes_few_round_trips():
    _, acknowledged_ns, frames = transfer(1, 100, 0.0)
    assert acknowledged_ns <= 4 * RTT
    assert frames <= 5 * 200, "at half an RTT each message is sent about twice"


@pytest.mark.parametrize("first", [2**32 - 1, 2**32 - 50, 2**31 - 3])
def test_message_numbers_wrap(first):
    transfer(2, 100, 0.3, first)


def deliver(channel: Channel, number: int, message: bytes = b"m") -> list[bytes]:
    return channel.receive(Reliable(number, Acknowledgement(0, 0), message))


def test_out_of_order_duplicates_and_gaps():
    channel = Channel()
    assert deliver(channel, 2, b"c") == []
    assert deliver(channel, 1, b"b") == []
    assert channel.poll(0, RTT) == [Acknowledgement(0, 0b11)]
    assert deliver(channel, 0, b"a") == [b"a", b"b", b"c"]
    assert deliver(channel, 1, b"b") == []
    assert channel.poll(0, RTT) == [Acknowledgement(3, 0)], (
        "a duplicate is acknowledged: the first answer was lost"
    )
    assert channel.poll(0, RTT) == []


def test_the_receive_window_is_bounded():
    channel = Channel()
    for number in range(1, 1000):
        deliver(channel, number)
    assert len(channel._early) == hop.CHANNEL_FLIGHT_MAX - 1
    [ack] = channel.poll(0, RTT)
    assert ack == Acknowledgement(0, 2**32 - 1)


def test_the_queue_is_bounded_and_messages_too():
    channel = Channel()
    for i in range(hop.CHANNEL_QUEUE_MAX):
        channel.send(bytes([i]))
    with pytest.raises(ChannelFull):
        channel.send(b"")
    with pytest.raises(ValueError, match="1025 bytes"):
        Channel().send(bytes(MESSAGE_BYTES_MAX + 1))
    assert len(channel.poll(0, RTT)) == hop.CHANNEL_FLIGHT_MAX


@pytest.mark.parametrize("number", [5, 6, 1000, 2**31, 2**32 - 1])
def test_acknowledgements_of_what_was_not_sent_change_nothing(number):
    channel = Channel()
    for _ in range(4):
        channel.send(b"m")
    channel.poll(0, RTT)
    channel.acknowledged(Acknowledgement(number, 2**32 - 1))
    assert channel.unacknowledged == 4
    channel.acknowledged(Acknowledgement(4, 2**32 - 1))
    assert channel.unacknowledged == 0
    channel.acknowledged(Acknowledgement(0, 0))


def test_the_bitmap_stops_what_has_arrived_from_being_sent_again():
    channel = Channel()
    for i in range(4):
        channel.send(bytes([i]))
    channel.poll(0, RTT)
    channel.acknowledged(Acknowledgement(1, 0b010))
    assert [f.number for f in channel.poll(60 * MS, RTT)] == [1, 2]
    assert channel.deadline() == 60 * MS + 62.5 * MS


@pytest.mark.parametrize(("rtt_ms", "expected_ms"), [(0, 20), (40, 20), (100, 50), (600, 300)])
def test_when_a_message_is_sent_again(rtt_ms, expected_ms):
    channel = Channel()
    channel.send(b"m")
    channel.poll(0, rtt_ms * MS)
    assert channel.deadline() == expected_ms * MS
    now_ns = 0
    for _ in range(20):
        now_ns = channel.deadline()
        channel.poll(now_ns, rtt_ms * MS)
    assert channel.deadline() - now_ns == max(hop.RESEND_MAX, expected_ms * MS)
