"""The reliable channel: messages in order, once, over control frames that get lost.

Every message has a number and is sent again until it is acknowledged: after max(RESEND_MIN, RTT / 2), so
that it is usually under way twice before an acknowledgement could be back. That is cheap for small, rare
messages, and fast at 30 % loss. Acknowledgements name the next number expected and the 32 after it, so
in-flight messages are limited to what one can name.
"""

from collections import deque
from dataclasses import dataclass

from relay.seq import add, distance
from relay.wire import hop
from relay.wire.hop import Acknowledgement, Reliable
from relay.wire.messages import MESSAGE_BYTES_MAX


class ChannelError(RuntimeError):
    """The channel cannot take a message now."""


class ChannelFull(ChannelError):
    """CHANNEL_QUEUE_MAX messages are unacknowledged."""


class NotConnected(ChannelError):
    """The peer has not been heard of yet, so that there is nobody whose channel this could be."""


@dataclass(slots=True)
class _Outgoing:
    number: int
    message: bytes
    due_ns: int = 0
    interval_ns: int = 0
    acknowledged: bool = False


class Channel:
    """One direction's sender and the other one's receiver. `poll` after every call, and at its
    `deadline`."""

    def __init__(self, first_number: int = 0) -> None:
        """`first_number` is 0 on the wire; tests start elsewhere."""
        self._outgoing: deque[_Outgoing] = deque()
        self._next_number = first_number
        self._expected = first_number
        self._early: dict[int, bytes] = {}
        self._acknowledge = False

    def send(self, message: bytes) -> None:
        """Queues a message. Raises ChannelFull, ValueError when it is longer than MESSAGE_BYTES_MAX."""
        if len(message) > MESSAGE_BYTES_MAX:
            raise ValueError(f"a control message of {len(message)} bytes, {MESSAGE_BYTES_MAX} allowed")
        if len(self._outgoing) >= hop.CHANNEL_QUEUE_MAX:
            raise ChannelFull(f"{hop.CHANNEL_QUEUE_MAX} control messages are unacknowledged")
        self._outgoing.append(_Outgoing(self._next_number, message))
        self._next_number = add(self._next_number, 1)

    def receive(self, frame: Reliable) -> list[bytes]:
        """Takes a peer's message and acknowledgement; the messages that are now in order."""
        self.acknowledged(frame.ack)
        ahead = distance(self._expected, frame.number)
        if ahead >= hop.CHANNEL_FLIGHT_MAX:
            return []  # no sender that keeps to the rules is so far ahead of our acknowledgements
        self._acknowledge = True
        if ahead >= 0:
            self._early[frame.number] = frame.message
        ready = []
        while self._expected in self._early:
            ready.append(self._early.pop(self._expected))
            self._expected = add(self._expected, 1)
        return ready

    def acknowledged(self, ack: Acknowledgement) -> None:
        """Forgets what has arrived. An acknowledgement of what was never sent, or an old one, changes
        nothing."""
        sent = [outgoing for outgoing in self._flight() if outgoing.interval_ns]
        arrived = distance(sent[0].number, ack.next) if sent else -1
        if not 0 <= arrived <= len(sent):
            return
        for i, outgoing in enumerate(sent):
            behind = i - arrived
            if behind < 0 or (behind > 0 and ack.bitmap >> (behind - 1) & 1):
                outgoing.acknowledged = True
        while self._outgoing and self._outgoing[0].acknowledged:
            self._outgoing.popleft()

    def poll(self, now_ns: int, rtt_ns: int) -> list[Reliable | Acknowledgement]:
        """The frames to send now."""
        ack = self._acknowledgement()
        frames: list[Reliable | Acknowledgement] = []
        first_ns = max(hop.RESEND_MIN, rtt_ns // 2)
        last_ns = max(hop.RESEND_MAX, first_ns)
        for outgoing in self._flight():
            if outgoing.acknowledged or now_ns < outgoing.due_ns:
                continue
            grown_ns = int(outgoing.interval_ns * hop.RESEND_BACKOFF)
            outgoing.interval_ns = min(max(first_ns, grown_ns), last_ns)
            outgoing.due_ns = now_ns + outgoing.interval_ns
            frames.append(Reliable(outgoing.number, ack, outgoing.message))
        if self._acknowledge and not frames:
            frames.append(ack)
        self._acknowledge = False
        return frames

    def deadline(self) -> int | None:
        """When a message is due again, in nanoseconds; 0 for one that has not been sent."""
        return min((o.due_ns for o in self._flight() if not o.acknowledged), default=None)

    @property
    def unacknowledged(self) -> int:
        """Messages sent or waiting."""
        return len(self._outgoing)

    def _flight(self) -> list[_Outgoing]:
        return [self._outgoing[i] for i in range(min(len(self._outgoing), hop.CHANNEL_FLIGHT_MAX))]

    def _acknowledgement(self) -> Acknowledgement:
        bitmap = sum(1 << (distance(self._expected, number) - 1) for number in self._early)
        return Acknowledgement(self._expected, bitmap)
