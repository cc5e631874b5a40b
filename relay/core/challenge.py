"""Proof that a peer is at a new address (as RFC 9000 section 8.2): it must echo a random token from there.

Until then an address gets no more bytes than came from it, so that a packet with a forged source cannot
turn a node against others.
"""

from collections.abc import Callable
from dataclasses import dataclass

from relay.core.actions import Address
from relay.wire import hop
from relay.wire.hop import PathChallenge


@dataclass(slots=True)
class _Candidate:
    address: Address
    token: bytes
    credit_bytes: int
    due_ns: int
    interval_ns: int = hop.CHALLENGE_FIRST
    tries: int = 0


class Challenges:
    """The unproven addresses of one peer. `poll` after `saw`, and at its `deadline`."""

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._candidates: dict[Address, _Candidate] = {}

    def saw(self, now_ns: int, address: Address, size: int) -> None:
        """An authentic datagram of `size` bytes came from this address. The address that has waited
        longest makes room."""
        candidate = self._candidates.get(address)
        if candidate is None:
            if len(self._candidates) == hop.CHALLENGE_ADDRESSES_MAX:
                del self._candidates[next(iter(self._candidates))]
            token = self._random_bytes(hop.CHALLENGE_BYTES)
            candidate = self._candidates[address] = _Candidate(address, token, 0, now_ns)
        candidate.credit_bytes += size

    def poll(self, now_ns: int, rtt_ns: int) -> list[tuple[Address, PathChallenge]]:
        """The challenges to send now. An address that has not answered CHALLENGE_TRIES of them is
        forgotten."""
        due = [c for c in self._candidates.values() if now_ns >= c.due_ns]
        challenges = []
        for candidate in due:
            if candidate.tries == hop.CHALLENGE_TRIES:
                del self._candidates[candidate.address]
                continue
            candidate.tries += 1
            candidate.due_ns = now_ns + candidate.interval_ns
            grown_ns = int(candidate.interval_ns * hop.CHALLENGE_BACKOFF)
            candidate.interval_ns = min(grown_ns, max(hop.CHALLENGE_RETRY, rtt_ns))
            if candidate.credit_bytes >= hop.CONTROL_BYTES_MIN:
                candidate.credit_bytes -= hop.CONTROL_BYTES_MIN
                challenges.append((candidate.address, PathChallenge(candidate.token)))
        return challenges

    def answered(self, address: Address, token: bytes) -> bool:
        """Whether this echo proves the address; all other candidates are forgotten then."""
        candidate = self._candidates.get(address)
        if candidate is None or candidate.token != token:
            return False
        self._candidates.clear()
        return True

    def deadline(self) -> int | None:
        return min((c.due_ns for c in self._candidates.values()), default=None)
