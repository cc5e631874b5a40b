"""Path MTU search: what is found, at what price, under loss, and black holes; in virtual time, seeded."""

import random

import pytest

from relay.core.pmtu import PathMtu, largest_datagram
from relay.wire import hop

MS, SECOND = hop.MS, hop.SECOND
RTT = 50 * MS


class Path:
    """A path that carries `mtu` bytes; `heard` says whether anything at all comes back."""

    def __init__(self, seed: int, mtu: int, loss: float, largest: int = hop.MTU_MAX_IPV4) -> None:
        self.rng, self.mtu, self.loss, self.heard = random.Random(seed), mtu, loss, True
        self.search = PathMtu(0, largest)
        self.now_ns = self.heard_ns = self.probes = 0

    def run(self, until_ns: int) -> None:
        while self.search.deadline() <= until_ns:
            self.now_ns = self.search.deadline()
            if self.heard:
                self.heard_ns = self.now_ns
            probe = self.search.poll(self.now_ns, RTT, self.heard_ns)
            if probe is None:
                continue
            self.probes += 1
            passes = probe.size <= self.mtu and self.rng.random() >= 1 - (1 - self.loss) ** 2
            if passes and self.heard:
                self.search.acknowledged(self.now_ns + RTT, probe.probe, probe.size)


@pytest.mark.parametrize("mtu", [1232, 1271, 1272, 1400, 1451, 1472, 9000])
@pytest.mark.parametrize("loss", [0.0, 0.3])
def test_the_size_is_found(mtu, loss):
    wrong = 0
    for seed in range(100):
        path = Path(seed, mtu, loss)
        path.run(10 * SECOND)
        best = max(size for size in (hop.MTU_BASE, *hop.MTU_SIZES) if size <= max(mtu, hop.MTU_BASE))
        assert path.search.size <= best, f"seed {seed}"
        wrong += path.search.size != best
        assert path.probes <= 4 * hop.MTU_TRIES + 4, f"seed {seed}"
    assert wrong <= 1, "12 tries leave 3e-4 a size"


def test_without_loss_ethernet_is_found_with_one_probe():
    path = Path(1, 1472, 0.0)
    path.run(SECOND)
    assert (path.search.size, path.probes) == (1472, 1)


@pytest.mark.parametrize(
    ("host", "size"), [("192.0.2.1", 1472), ("2001:db8::1", 1452), ("::ffff:192.0.2.1", 1472)]
)
def test_largest_size_by_address_family(host, size):
    assert largest_datagram(host) == size
    path = Path(1, 9000, 0.0, largest_datagram(host))
    path.run(SECOND)
    assert path.search.size == size


def test_a_black_hole_is_noticed_within_the_confirmation_time_and_the_smaller_size_found():
    path = Path(2, 1472, 0.3)
    path.run(20 * SECOND)
    assert path.search.size == 1472
    path.mtu = 1400
    path.run(20 * SECOND + hop.MTU_CONFIRM + 10 * SECOND)
    assert path.search.size == 1392


def test_a_path_that_grew_is_searched_again():
    path = Path(3, 1232, 0.3)
    path.run(20 * SECOND)
    assert path.search.size == 1232
    probes = path.probes
    path.run(hop.MTU_RAISE - SECOND)
    assert path.probes == probes, "the base needs no confirmation"
    path.mtu = 1472
    path.run(hop.MTU_RAISE + 20 * SECOND)
    assert path.search.size == 1472


def test_an_outage_says_nothing_about_sizes():
    path = Path(4, 1472, 0.0)
    path.run(20 * SECOND)
    path.heard = False
    path.run(20 * SECOND + 120 * SECOND)
    assert path.search.size == 1472
    path.heard = True
    path.run(200 * SECOND)
    assert path.search.size == 1472


def test_answers_that_were_not_asked_for_change_nothing():
    search = PathMtu(0, 1472)
    probe = search.poll(0, RTT, 0)
    for number, size in ((probe.probe + 1, 1472), (probe.probe, 1452), (probe.probe, 65535), (0, 0)):
        search.acknowledged(1, number, size)
        assert search.size == hop.MTU_BASE
    search.acknowledged(1, probe.probe, probe.size)
    assert search.size == 1472
    for now_ns in range(0, 10_000 * SECOND, SECOND):
        search.poll(now_ns, RTT, now_ns)
        assert len(search._sizes_sent) <= hop.MTU_TRIES
