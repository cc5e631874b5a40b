"""The sliding-window code against RFC 8681's vectors and a decoder that eliminates from scratch each time."""

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from relay_ext.rlc import HEAD, MAX_SYMBOL, MAX_WINDOW, Decoder, Encoder, Result, coefficients
from tests.oracle import rfc8681

VECTORS = Path(__file__).parents[1] / "vectors" / "tinymt32_seed1.txt"
WRAP = 1 << 32


def symbol(rng: random.Random, payload: int) -> bytes:
    """A symbol with an honest length field."""
    return payload.to_bytes(2, "big") + rng.randbytes(HEAD - 2 + payload)


def published() -> list[int]:
    lines = VECTORS.read_text().splitlines()[2:]
    return [int(word) for line in lines for word in line.split()]


# --- Coefficients and encoder ---


def test_oracle_generates_the_published_numbers() -> None:
    generator = rfc8681.TinyMT32(1)
    assert [generator.output() for _ in published()] == published()


def test_coefficients_are_the_nonzero_low_bytes_of_the_published_numbers() -> None:
    expected = bytes(n & 0xFF for n in published() if n & 0xFF)
    assert coefficients(1, len(expected)) == expected


@pytest.mark.parametrize("key", [0, 1, 2, 255, 256, 32767, 65534, 65535])
def test_coefficients_of_many_keys(key: int) -> None:
    assert list(coefficients(key, 600)) == rfc8681.coefficients(key, 600)


@pytest.mark.parametrize("seed", range(20))
def test_encoder_agrees_with_the_oracle(seed: int) -> None:
    rng = random.Random(seed)
    first = (WRAP - rng.randrange(60)) % WRAP
    encoder = Encoder(64, first)
    symbols = [symbol(rng, rng.choice([0, 1, 40, 300, 1172, 1964])) for _ in range(100)]
    assert [encoder.add(s) for s in symbols] == [(first + i) % WRAP for i in range(100)]
    for _ in range(20):
        start = rng.randrange(36, 100)
        count = rng.randint(1, 100 - start)
        key = rng.randrange(65536)
        coded = encoder.encode((first + start) % WRAP, count, key)
        assert coded == rfc8681.encode(symbols[start : start + count], key), (seed, start, count, key)


def test_encoder_codes_only_what_it_keeps() -> None:
    rng = random.Random(0)
    encoder = Encoder(1024, WRAP - 2)
    assert encoder.encode(WRAP - 2, 1, 0) is None
    for _ in range(600):
        encoder.add(symbol(rng, 10))
    assert encoder.encode(WRAP - 2, MAX_WINDOW, 0) is not None
    assert encoder.encode(WRAP - 2, MAX_WINDOW + 1, 0) is None
    assert encoder.encode(WRAP - 2, 0, 0) is None
    assert encoder.encode(WRAP - 3, 2, 0) is None
    assert encoder.encode(597, 1, 0) is not None
    assert encoder.encode(597, 2, 0) is None
    encoder.release(3)
    assert encoder.encode(2, 4, 0) is None
    assert encoder.encode(3, 4, 0) is not None


def test_encoder_forgets_the_oldest_when_full_and_leaks_nothing() -> None:
    rng = random.Random(0)
    encoder = Encoder(8, 0)
    for _ in range(20):
        encoder.add(symbol(rng, 10))
    assert encoder.in_use == 8
    assert encoder.encode(11, 2, 0) is None
    assert encoder.encode(12, 8, 0) is not None
    encoder.release(15)
    assert encoder.in_use == 5
    encoder.release(14)
    assert encoder.in_use == 5
    encoder.release(1000)
    assert encoder.in_use == 0
    assert encoder.add(symbol(rng, 10)) == 20


def test_impossible_sizes_are_refused() -> None:
    for capacity in (0, 3, 65536):
        with pytest.raises(ValueError, match="power of two"):
            Encoder(capacity, 0)
    for span, rows in ((0, 1), (4, 1), (24, 1), (65536, 1), (64, 0), (64, 65)):
        with pytest.raises(ValueError, match="power of two"):
            Decoder(span, rows)
    encoder = Encoder(8, 0)
    for length in (0, HEAD - 1, MAX_SYMBOL + 1):
        with pytest.raises(ValueError, match="a symbol has"):
            encoder.add(bytes(length))


# --- Decoder against the oracle ---


class Sender:
    """An encoder, and the packets that it gives off in the order that a link delivers them."""

    def __init__(self, rng: random.Random, first: int) -> None:
        self.rng, self.first = rng, first
        self.symbols: list[bytes] = []
        self.encoder = Encoder(256, first)
        self.loss = rng.choice([0.05, 0.3, 0.5, 0.8])
        self.ratio = rng.choice([0.3, 0.8, 1.5])
        self.window = rng.choice([3, 12, 40])
        self.reorder = rng.choice([0, 3, 20])
        self.sizes = rng.choice([[30], [0, 7, 30, 80]])

    def _repair(self) -> tuple[int, int, int, bytes]:
        count = self.rng.randint(1, min(self.window, len(self.symbols)))
        start = max(0, len(self.symbols) - count - self.rng.choice([0, 0, 0, 5, 60]))
        key = self.rng.randrange(65536)
        coded = self.encoder.encode((self.first + start) % WRAP, count, key)
        assert coded is not None
        return start, count, key, coded

    def packets(self, n: int) -> Iterator[int | tuple[int, int, int, bytes]]:
        """Positions of source packets and (position, count, key, bytes) of repair packets."""
        late: list[tuple[float, int | tuple[int, int, int, bytes]]] = []
        for now in range(n):
            self.symbols.append(symbol(self.rng, self.rng.choice(self.sizes)))
            self.encoder.add(self.symbols[-1])
            sent: list[int | tuple[int, int, int, bytes]] = [now]
            sent += [self._repair() for _ in range(int(self.ratio + self.rng.random()))]
            for packet in sent:
                copies = (self.rng.random() > self.loss) + (self.rng.random() < 0.05)
                late += [(now + self.rng.uniform(0, self.reorder), packet) for _ in range(copies)]
            late.sort(key=lambda entry: entry[0])
            while late and late[0][0] <= now:
                yield late.pop(0)[1]
        yield from (packet for _, packet in late)


@pytest.mark.parametrize("seed", range(60))
def test_decoder_recovers_exactly_what_is_determined(seed: int) -> None:
    rng = random.Random(seed)
    first = (WRAP - rng.choice([0, 1, 5, 40])) % WRAP
    sender = Sender(rng, first)
    span = rng.choice([16, 64, 128])
    sender.window = min(sender.window, span)
    decoder, receiver = Decoder(span, span), rfc8681.Receiver(span)
    for step, packet in enumerate(sender.packets(70)):
        where = f"seed {seed}, step {step}, span {span}"
        if isinstance(packet, int):
            result, got = decoder.source((first + packet) % WRAP, sender.symbols[packet])
            was_known = packet in receiver.known and packet >= receiver.base
            expected = receiver.source(packet, sender.symbols[packet])
            assert (result == Result.DUPLICATE) == was_known, where
            assert (result == Result.OLD) == (packet < receiver.base), where
        else:
            start, count, key, coded = packet
            rank = receiver.rank()
            result, got = decoder.repair((first + start) % WRAP, count, key, coded)
            expected = receiver.repair(start, count, key, coded)
            if result == Result.REDUNDANT:
                assert receiver.rank() == rank and not expected, where
            assert (result == Result.OLD) == (start < receiver.base), where
        assert got == [((first + p) % WRAP, s) for p, s in sorted(expected.items())], where
        assert all(s == sender.symbols[p] for p, s in expected.items()), where
        if rng.random() < 0.1:
            live = receiver.highest - rng.randrange(span)
            decoder.expire((first + live) % WRAP)
            receiver.expire(live)
        if rng.random() < 0.05:
            before = receiver.highest - rng.randrange(span)
            decoder.forget((first + before) % WRAP)
            receiver.forget(before)
        state = decoder.state()
        window = (receiver.base, receiver.live, receiver.highest)
        assert (state.base, state.live, state.highest) == tuple((first + p) % WRAP for p in window), where
        assert decoder.deficit == receiver.deficit(), where
        missing = [
            p
            for p in range(receiver.base - 2, receiver.highest + 3)
            if decoder.is_missing((first + p) % WRAP)
        ]
        assert missing == [
            p for p in range(receiver.base, receiver.highest + 1) if p not in receiver.known
        ], where
        assert decoder.in_use <= span + state.rows, where
    assert decoder.state().malformed == 0
    decoder.reset()
    assert decoder.in_use == 0


# --- Decoder: the rules one by one ---


def stream(n: int, first: int = 0, payload: int = 20) -> tuple[Encoder, list[bytes]]:
    rng = random.Random(n)
    encoder = Encoder(2048, first)
    symbols = [symbol(rng, payload) for _ in range(n)]
    for s in symbols:
        encoder.add(s)
    return encoder, symbols


def repair(encoder: Encoder, first: int, count: int, key: int) -> tuple[int, int, int, bytes]:
    coded = encoder.encode(first, count, key)
    assert coded is not None
    return first, count, key, coded


def test_a_burst_is_mended_across_the_wrap() -> None:
    first = WRAP - 5
    encoder, symbols = stream(20, first)
    decoder = Decoder(64, 64)
    lost = range(2, 10)
    for i in (i for i in range(20) if i not in lost):
        assert decoder.source((first + i) % WRAP, symbols[i]) == (Result.NEW, [])
    assert decoder.deficit == 8
    for key in range(7):
        assert decoder.repair(*repair(encoder, first, 20, key)) == (Result.NEW, [])
    assert decoder.deficit == 1
    result, recovered = decoder.repair(*repair(encoder, first, 20, 7))
    assert (result, recovered) == (Result.NEW, [((first + i) % WRAP, symbols[i]) for i in lost])
    assert decoder.deficit == 0
    assert decoder.repair(*repair(encoder, first, 20, 8)) == (Result.REDUNDANT, [])
    assert decoder.source((first + 4) % WRAP, symbols[4]) == (Result.DUPLICATE, [])


def test_the_first_packets_may_be_lost_or_late() -> None:
    encoder, symbols = stream(6)
    decoder = Decoder(64, 64)
    decoder.source(2, symbols[2])
    assert (decoder.state().base, decoder.deficit) == (2, 0)
    assert decoder.repair(*repair(encoder, 0, 4, 1)) == (Result.NEW, [])
    assert (decoder.state().base, decoder.deficit) == (0, 2)
    assert decoder.source(1, symbols[1]) == (Result.NEW, [])
    assert decoder.repair(*repair(encoder, 0, 3, 2)) == (Result.NEW, [(0, symbols[0]), (3, symbols[3])])


@pytest.mark.parametrize("move", ["expire", "forget"])
def test_the_base_does_not_move_back_once_something_was_given_up(move: str) -> None:
    encoder, symbols = stream(6)
    decoder = Decoder(64, 64)
    decoder.source(2, symbols[2])
    getattr(decoder, move)(3)
    assert decoder.source(1, symbols[1]) == (Result.OLD, [])
    assert decoder.repair(*repair(encoder, 1, 3, 1)) == (Result.OLD, [])
    assert decoder.state().highest == 3  # an old repair packet still tells what was sent


def test_a_far_jump_moves_the_window_and_drops_what_was_there() -> None:
    encoder, symbols = stream(4)
    decoder = Decoder(64, 64)
    decoder.source(0, symbols[0])
    decoder.repair(*repair(encoder, 0, 4, 1))
    assert decoder.in_use == 2
    assert decoder.source(1 << 30, symbols[1]) == (Result.NEW, [])
    state = decoder.state()
    assert (state.base, state.live, state.highest, state.rows) == ((1 << 30) - 63, (1 << 30) - 63, 1 << 30, 0)
    assert (decoder.in_use, decoder.deficit) == (1, 63)
    assert decoder.source(3, symbols[3]) == (Result.OLD, [])
    decoder.expire(1 << 30)
    assert decoder.deficit == 0


def test_the_sender_may_tell_what_it_has_sent() -> None:
    encoder, symbols = stream(4)
    decoder = Decoder(64, 64)
    decoder.seen(3)
    assert not decoder.state().started
    decoder.source(0, symbols[0])
    decoder.seen(3)  # the tail was lost
    assert (decoder.state().highest, decoder.deficit, decoder.is_missing(3)) == (3, 3, True)
    decoder.seen(1)
    decoder.source(1, symbols[1])
    decoder.source(3, symbols[3])
    assert decoder.repair(*repair(encoder, 0, 4, 1)) == (Result.NEW, [(2, symbols[2])])
    decoder.seen(1000)
    assert (decoder.state().base, decoder.state().highest, decoder.in_use) == (937, 1000, 0)


def test_expired_symbols_stay_variables() -> None:
    encoder, symbols = stream(4)
    decoder = Decoder(64, 64)
    decoder.source(0, symbols[0])
    decoder.source(3, symbols[3])
    decoder.repair(*repair(encoder, 0, 4, 1))
    assert decoder.deficit == 1
    decoder.expire(2)
    assert decoder.deficit == 1  # the equation needs symbol 1, which is expired
    assert decoder.repair(*repair(encoder, 0, 4, 2)) == (Result.NEW, [(1, symbols[1]), (2, symbols[2])])
    assert decoder.deficit == 0


def test_forgetting_keeps_what_does_not_need_the_forgotten() -> None:
    encoder, symbols = stream(4)
    decoder = Decoder(64, 64)
    decoder.source(0, symbols[0])
    for key in (1, 2):
        decoder.repair(*repair(encoder, 0, 4, key))
    assert (decoder.state().rows, decoder.deficit) == (2, 1)
    decoder.forget(2)  # of two equations in symbols 1 to 3, one in 2 and 3 is left
    assert (decoder.state().rows, decoder.deficit) == (1, 1)
    assert decoder.source(3, symbols[3]) == (Result.NEW, [(2, symbols[2])])
    decoder.forget(1000)
    assert (decoder.state().base, decoder.in_use, decoder.deficit) == (4, 0, 0)
    assert decoder.source(5, symbols[1]) == (Result.NEW, [])
    assert decoder.deficit == 1


def test_sizes_that_no_encoder_sends_are_refused() -> None:
    decoder = Decoder(1024, 16)
    for length in (0, HEAD - 1, MAX_SYMBOL + 1):
        assert decoder.source(0, bytes(length)) == (Result.REFUSED, [])
        assert decoder.repair(0, 3, 0, bytes(length)) == (Result.REFUSED, [])
    assert decoder.repair(0, 0, 0, bytes(100)) == (Result.REFUSED, [])
    assert decoder.repair(0, MAX_WINDOW + 1, 0, bytes(100)) == (Result.REFUSED, [])
    assert not decoder.state().started
    assert Decoder(8, 8).repair(0, 9, 0, bytes(100)) == (Result.REFUSED, [])
    decoder.source(1, (100).to_bytes(2, "big") + bytes(118))
    assert decoder.repair(0, 3, 0, bytes(119)) == (Result.REFUSED, [])  # shorter than a symbol that it covers


def test_a_symbol_longer_than_its_equation_is_not_delivered() -> None:
    rng = random.Random(5)
    lying, honest = (50).to_bytes(2, "big") + rng.randbytes(30), symbol(rng, 12)
    encoder = Encoder(8, 0)
    encoder.add(lying)
    encoder.add(honest)
    decoder = Decoder(8, 8)
    assert decoder.repair(*repair(encoder, 0, 2, 1)) == (Result.NEW, [])
    assert decoder.repair(*repair(encoder, 0, 2, 2)) == (Result.NEW, [(1, honest)])
    assert (decoder.state().malformed, decoder.deficit) == (1, 0)
    decoder.reset()
    assert (decoder.in_use, decoder.state().malformed) == (0, 1)


def test_without_slabs_a_repair_packet_is_dropped() -> None:
    encoder, symbols = stream(3)
    decoder = Decoder(8, 8, slabs=2)
    decoder.source(0, symbols[0])
    assert decoder.repair(*repair(encoder, 0, 3, 1)) == (Result.NEW, [])
    assert decoder.repair(*repair(encoder, 0, 3, 2)) == (Result.NO_MEMORY, [])
    assert (decoder.state().rows, decoder.in_use, decoder.deficit) == (1, 2, 1)
    decoder.forget(1)
    assert decoder.source(1, symbols[1]) == (Result.NEW, [(2, symbols[2])])


def test_a_full_table_gives_up_equations_that_no_longer_matter() -> None:
    encoder, symbols = stream(12)
    decoder = Decoder(64, 2)
    decoder.source(0, symbols[0])
    assert decoder.repair(*repair(encoder, 0, 4, 1)) == (Result.NEW, [])
    assert decoder.repair(*repair(encoder, 0, 4, 2)) == (Result.NEW, [])
    assert decoder.repair(*repair(encoder, 4, 3, 3)) == (Result.NO_MEMORY, [])
    assert decoder.repair(*repair(encoder, 0, 4, 1)) == (Result.REDUNDANT, [])
    decoder.expire(4)
    assert decoder.repair(*repair(encoder, 4, 3, 3)) == (Result.NEW, [])
    assert (decoder.state().rows, decoder.in_use, decoder.deficit) == (2, 3, 2)
    assert decoder.source(6, symbols[6]) == (Result.NEW, [])
    assert decoder.source(5, symbols[5]) == (Result.NEW, [(4, symbols[4])])
    assert decoder.source(3, symbols[3]) == (Result.NEW, [(2, symbols[2])])  # the newer one was kept


def test_the_largest_symbols_and_window() -> None:
    encoder, symbols = stream(MAX_WINDOW, payload=MAX_SYMBOL - HEAD)
    decoder = Decoder(1024, 1)
    for i in range(1, MAX_WINDOW):
        decoder.source(i, symbols[i])
    assert decoder.repair(*repair(encoder, 0, MAX_WINDOW, 65535)) == (Result.NEW, [(0, symbols[0])])


@pytest.mark.parametrize("lost", [0, 3])
@pytest.mark.parametrize("back", [10, 20, 38])
def test_a_span_half_the_number_space_away_is_outside(lost: int, back: int) -> None:
    """There the first ESI is ahead of the window while the last is behind it."""
    encoder, symbols = stream(100, 1000)
    decoder = Decoder(64, 64)
    for i in range(100 - lost):
        decoder.source(1000 + i, symbols[i])
    if lost == 0:
        decoder.forget(1100)
    state = decoder.state()
    coded = encoder.encode(1040, 40, 7)
    assert coded is not None
    result, recovered = decoder.repair(1099 + 2**31 - back, 40, 7, coded)
    assert (result, recovered) == (Result.OLD, [])
    assert decoder.state() == state
    decoder.reset()
    assert decoder.in_use == 0
