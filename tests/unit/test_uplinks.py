"""Which uplinks a node has, which paths to a peer follow, and what each carries."""

import random

import pytest

from relay.config import UplinkConfig, parse
from relay.core.path import Way
from relay.core.uplinks import Correlation, Measured, Preference, Uplink, ways
from relay.errors import ConfigError
from relay.services.uplinks import Binding, Uplinks, default_routes
from relay.wire.hop import MS, SECOND

A, B, C, D = (("203.0.113.1", 7400), ("203.0.113.2", 7400), ("203.0.113.3", 7400), ("2001:db8::1", 7400))
DEFAULT, LTE = Uplink(0, "default"), Uplink(1, "wwan0")

# ---- the configuration ------------------------------------------------------------------------

HOP = '[node]\nname = "a"\n[hop]\n'


def uplink(*lines: str) -> str:
    return "[[hop.uplinks]]\n" + "".join(f"{line}\n" for line in lines)


def test_uplinks_are_configured_by_interface_or_by_address() -> None:
    text = (
        HOP + uplink('interface = "wwan0"', 'name = "lte"') + uplink('address = "192.0.2.5"', "port = 7401")
    )
    config = parse(text, {}).hop
    assert config is not None
    assert config.uplinks == (
        UplinkConfig(interface="wwan0", name="lte"),
        UplinkConfig(address="192.0.2.5", port=7401),
    )


@pytest.mark.parametrize(
    ("text", "path", "found"),
    [
        (uplink('name = "lte"'), "hop.uplinks[0]", "neither"),
        (uplink('interface = "a"', 'address = "192.0.2.5"'), "hop.uplinks[0]", "interface and address"),
        (uplink('interface = ""'), "hop.uplinks[0].interface", '""'),
        (uplink('interface = ".."'), "hop.uplinks[0].interface", '".."'),
        (uplink('interface = "a-name-of-16-byt"'), "hop.uplinks[0].interface", '"a-name-of-16-byt"'),
        (uplink('address = "0.0.0.0"'), "hop.uplinks[0].address", '"0.0.0.0"'),
        (uplink('address = "::"'), "hop.uplinks[0].address", '"::"'),
        (uplink('address = "here.example"'), "hop.uplinks[0].address", '"here.example"'),
        (uplink('address = "192.0.2.5:7400"'), "hop.uplinks[0].address", '"192.0.2.5:7400"'),
        (uplink('interface = "a"', "port = 0"), "hop.uplinks[0].port", "0"),
        (uplink('interface = "a"', "metric = 1"), "hop.uplinks[0].metric", "an unknown key"),
        (
            uplink('interface = "a"') * 2,
            "hop.uplinks[1].interface",
            "the interface of hop.uplinks[0].interface again",
        ),
        (
            uplink('interface = "a"', "port = 7400"),
            "hop.uplinks[0].port",
            "UDP port 7400 of hop.listen again",
        ),
        ("".join(uplink(f'interface = "e{i}"') for i in range(5)), "hop.uplinks", "an array of 5"),
    ],
)
def test_what_is_wrong_with_an_uplink_is_said(text: str, path: str, found: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(HOP + text, {})
    assert [(problem.path, problem.found) for problem in caught.value.problems] == [(path, found)]


def test_a_port_on_another_address_than_the_listeners_is_no_conflict() -> None:
    text = HOP + 'listen = "192.0.2.4:7400"\n' + uplink('address = "192.0.2.5"', "port = 7400")
    assert parse(text, {}).hop is not None


# ---- the system's routes ----------------------------------------------------------------------

ROUTE = """\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
wwan0\t00000000\t0100000A\t0003\t0\t0\t700\t00000000\t0\t0\t0
eth0\t00000000\tFE01A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0
eth0\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0
dead0\t00000000\t00000000\t0201\t0\t0\t1\t00000000\t0\t0\t0
tun0\t00000000\t00000000\t0001\t0\t0\t50\t00000080\t0\t0\t0
"""
ZEROS = "0" * 32
ROUTE_6 = f"""\
{ZEROS} 00 {ZEROS} 00 fe800000000000000000000000000001 00000400 00000001 00000000 00000003 wwan1
{ZEROS} 00 {ZEROS} 00 fe800000000000000000000000000001 00000064 00000001 00000000 00000003     eth0
fe800000000000000000000000000000 40 {ZEROS} 00 {ZEROS} 00000100 00000001 00000000 00000001     eth1
{ZEROS} 00 {ZEROS} 00 {ZEROS} ffffffff 00000001 00000000 00200200       lo
"""


def test_default_routes_by_metric_those_of_ipv4_first() -> None:
    assert default_routes(ROUTE, "") == ("eth0", "wwan0")
    assert default_routes(ROUTE, ROUTE_6) == ("eth0", "wwan0", "wwan1")
    assert default_routes("", ROUTE_6) == ("eth0", "wwan1")
    assert default_routes("", "") == ()
    assert default_routes("head\n\n \nx 00000000\n", "garbage\n\n") == ()


# ---- which uplinks there are ------------------------------------------------------------------


class System:
    """Interfaces by name, default routes, and the sockets that were opened."""

    def __init__(self, **interfaces: int) -> None:
        self.interfaces = interfaces
        self.default: tuple[str, ...] = ()
        self.refused = ""
        self.open: dict[int, Binding] = {}
        self.closed: list[int] = []

    def uplinks(self, *configured: UplinkConfig) -> Uplinks:
        return Uplinks(configured, self, index_of=self.interfaces.get, routes=lambda: self.default)

    def open_uplink(self, number: int, binding: Binding) -> None:
        if self.refused:
            raise OSError(self.refused)
        assert number not in self.open
        self.open[number] = binding

    def close_uplink(self, number: int) -> None:
        del self.open[number]
        self.closed.append(number)


def test_one_default_route_is_the_socket_that_listens() -> None:
    system = System(eth0=2)
    system.default = ("eth0",)
    assert system.uplinks().look() == (DEFAULT,)
    assert system.open == {}


def test_a_second_default_route_is_an_uplink_as_long_as_it_is_there() -> None:
    system = System(eth0=2, wwan0=3)
    uplinks = system.uplinks()
    system.default = ("eth0", "wwan0")
    assert uplinks.look() == uplinks.look() == (DEFAULT, LTE)
    assert system.open == {1: Binding("wwan0", "wwan0", 3)}
    system.interfaces["wwan0"] = 9  # taken out and put back between two looks
    assert uplinks.look() == (DEFAULT, LTE)
    assert system.open == {1: Binding("wwan0", "wwan0", 9)} and system.closed == [1]
    system.default = ("eth0",)
    assert uplinks.look() == (DEFAULT,)
    assert system.open == {}


def test_what_is_configured_is_all_that_is_used() -> None:
    system = System(eth0=2)
    system.default = ("eth0", "wwan0")
    uplinks = system.uplinks(
        UplinkConfig(interface="wwan1", name="lte"), UplinkConfig(address="192.0.2.5", port=7401)
    )
    assert uplinks.look() == (Uplink(1, "192.0.2.5", "192.0.2.5"),)
    system.interfaces["wwan1"] = 4
    assert uplinks.look() == (Uplink(2, "lte"), Uplink(1, "192.0.2.5", "192.0.2.5"))
    assert system.open[1] == Binding("192.0.2.5", host="192.0.2.5", port=7401)


def test_an_uplink_that_cannot_be_opened_is_said_once_and_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    system = System()
    uplinks = system.uplinks(UplinkConfig(address="192.0.2.5"))
    system.refused = "this machine does not have that address"
    with caplog.at_level("WARNING"):
        assert [uplinks.look() for _ in range(5)] == [()] * 5
    assert len(caplog.records) == 1
    system.refused = ""
    assert len(uplinks.look()) == 1


def test_more_uplinks_than_paths_are_left_out() -> None:
    system = System(**{f"eth{i}": i + 1 for i in range(9)})
    system.default = tuple(system.interfaces)
    there = system.uplinks().look()
    assert len(there) == 5  # the one that listens, and four
    assert len(ways({}, [A], there)) == 4


# ---- which paths there are --------------------------------------------------------------------


def test_one_uplink_has_a_path_to_each_of_two_addresses() -> None:
    assert ways({}, [], [DEFAULT]) == {}
    assert ways({}, [A], [DEFAULT]) == {0: Way((A,))}
    assert ways({}, [A, B], [DEFAULT]) == {0: Way((A,)), 1: Way((B,))}
    assert ways({}, [A, B, C], [DEFAULT]) == {0: Way((A, C)), 1: Way((B,))}


def test_further_uplinks_have_one_path_each() -> None:
    assert ways({}, [A], [DEFAULT, LTE]) == {0: Way((A,)), 1: Way((A,), 1)}
    assert ways({}, [A, B], [DEFAULT, LTE]) == {0: Way((A,)), 1: Way((B,)), 2: Way((A, B), 1)}


def test_paths_keep_their_numbers_while_others_come_and_go() -> None:
    taken = ways({}, [A], [DEFAULT, LTE, Uplink(2, "wlan0")])
    assert taken == {0: Way((A,)), 1: Way((A,), 1), 2: Way((A,), 2)}
    fewer = ways(taken, [A], [DEFAULT, Uplink(2, "wlan0")])
    assert fewer == {0: Way((A,)), 2: Way((A,), 2)}
    assert ways(fewer, [A], [DEFAULT, Uplink(2, "wlan0"), Uplink(3, "eth1")])[1] == Way((A,), 3)


def test_a_socket_of_one_family_calls_addresses_of_that() -> None:
    bound = Uplink(1, "here", "192.0.2.5"), Uplink(2, "there", "2001:db8::5")
    assert ways({}, [A, D], bound) == {0: Way((A,), 1), 1: Way((D,), 2)}
    assert ways({}, [A], bound) == {0: Way((A,), 1)}


# ---- what each carries ------------------------------------------------------------------------


def path(
    number: int, rtt_ms: float = 80, loss: float = 0.0, *, alive: bool = True, socket: int | None = None
) -> Measured:
    return Measured(
        id=number,
        socket=number if socket is None else socket,
        alive=alive,
        rtt_ns=int(rtt_ms * MS),
        rtt_min_ns=int(rtt_ms * MS),
        queue_ns=0,
        jitter_ns=0,
        loss_ratio=loss,
        reported_highest=0,
        reported_received=0,
    )


def orders(*paths: Measured, budget_ms: int = 200) -> tuple[int, int]:
    """The paths for source packets and for repair, at a first look."""
    source, repair = Preference().look(0, paths, budget_ms * MS)
    assert sorted(source) == sorted(repair) == [0, 1, 2, 3]
    return source[0], repair[0]


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        ([path(0)], (0, 0)),
        ([path(0), path(1)], (0, 1)),
        ([path(0, 80, 0.3), path(1, 80, 0.1)], (1, 0)),
        ([path(0, 150), path(1, 20)], (1, 0)),
        ([path(0, 80), path(1, 80, alive=False)], (0, 0)),
        ([path(0, 80, alive=False), path(1)], (1, 1)),
        ([path(0, 80, 0.1), path(1, 80, 0.6)], (0, 0)),  # useless: it loses more than half
        ([path(0, 20, 0.1), path(1, 400)], (0, 0)),  # useless: it comes too late
        ([path(0, 20, 0.3), path(1, 30, 0.3), path(2, 30, 0.1, socket=1)], (2, 0)),
        ([path(0, 20, 0.0), path(1, 20, 0.1, socket=0), path(2, 20, 0.2)], (0, 2)),  # another uplink first
    ],
)
def test_the_cheapest_for_source_packets_and_another_for_repair(
    paths: list[Measured], expected: tuple[int, int]
) -> None:
    assert orders(*paths) == expected


def test_where_no_request_is_answered_in_time_the_other_path_still_repairs_unasked() -> None:
    assert orders(path(0, 300), path(1, 320), budget_ms=100) == (0, 1)
    assert orders(path(0, 300), path(1, 900), budget_ms=100) == (0, 0)


def test_source_packets_stay_until_another_path_is_clearly_better_for_long_enough() -> None:
    preference = Preference()
    source = [
        preference.look(at * SECOND // 4, [path(0, 80), path(1, rtt)], 200 * MS)[0][0]
        for at, rtt in enumerate([90] * 4 + [78] * 20 + [40] * 7 + [90] + [40] * 20)
    ]
    assert source == [0] * (4 + 20 + 7 + 1 + 8) + [1] * 12


def test_a_path_that_died_is_left_at_once_and_is_not_returned_to_for_nothing() -> None:
    preference = Preference()
    for at in range(10):
        assert preference.look(at * SECOND, [path(0, 80), path(1, 90)], 200 * MS)[0][0] == 0
    assert preference.look(10 * SECOND, [path(0, 80, alive=False), path(1, 90)], 200 * MS)[0][0] == 1
    assert preference.look(20 * SECOND, [path(0, 80), path(1, 90)], 200 * MS) == ((1, 0, 2, 3), (0, 1, 2, 3))


def losing(seed: int, shared: float) -> Correlation:
    """Three paths that lose 10 % each: 0 and 1 share that part of their losses, 2 loses by itself."""
    rng, correlation = random.Random(seed), Correlation()
    sent, received = [0] * 3, [0] * 3
    for at in range(400):
        common = rng.random() < 0.1
        for i in range(3):
            lost = common if i < 2 and rng.random() < shared else rng.random() < 0.1
            sent[i] += 20
            received[i] += 2 if lost else 20
        paths = [
            Measured(i, i, True, 0, 0, 0, 0, 0.1, (2**32 - 900 + sent[i]) & 0xFFFFFFFF, received[i])
            for i in range(3)
        ]
        correlation.look(at * 50 * MS, paths)
    return correlation


@pytest.mark.parametrize("seed", range(10))
def test_losses_that_come_together_are_seen(seed: int) -> None:
    together = losing(seed, 0.9)
    assert together.between(0, 1) == together.between(1, 0) > 0.5, f"seed {seed}"
    assert together.between(0, 2) < 0.3, f"seed {seed}"
    assert losing(seed, 0.0).between(0, 1) < 0.3, f"seed {seed}"


def test_repair_takes_the_path_whose_losses_have_least_to_do_with_the_sources() -> None:
    preference = Preference()
    preference._correlation = losing(1, 0.9)
    _, repair = preference.look(
        21 * SECOND, [path(0, 80, 0.1), path(1, 80, 0.1), path(2, 80, 0.15)], 200 * MS
    )
    assert repair[:2] == (2, 1)


def test_nothing_is_known_of_paths_that_sent_nothing() -> None:
    correlation = Correlation()
    for at in range(5):
        correlation.look(at * MS, [path(0), path(1)])
    assert correlation.between(0, 1) == 0.0
