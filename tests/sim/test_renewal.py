"""Records that are signed anew, between whole nodes: they reach the nodes that they are of, and neither
sessions nor packets notice. What records say of roles, too."""

from dataclasses import replace
from typing import Any

import pytest

from relay.core.noise import public_key
from relay.core.record import Record, decode_record, sign
from relay.lab.link import LinkConfig
from relay.wire.messages import Announce, Catalogue, CatalogueEntry, ListVersion
from tests.sim.fleet import EDGE, REGION, REGION_2, VIDEO, Encoder, NodeSpec, Player
from tests.sim.test_trust import LOSSY, PER_SECOND, SIGNED_S, Trusting

LIFE_S = 600


class Renewing(Trusting):
    """Two regions that have each other in their configurations, and an edge that neither has. Records last
    for ten minutes."""

    def __init__(self, seed: int, link: LinkConfig = LOSSY) -> None:
        super().__init__(
            seed,
            NodeSpec("region", REGION, called_by=("region-2",), egress=(VIDEO,), role="region"),
            NodeSpec("region-2", REGION_2, calls=("region",), role="region"),
            NodeSpec("edge", EDGE, calls=("region",), ingest=(VIDEO,)),
            days=LIFE_S / 86400,
        )
        for a, b in ((EDGE, REGION), (REGION, REGION_2)):
            self.link(a, b, link)
        self.start_all()

    def hand(self, at: str, *records: bytes) -> None:
        """Give records to a node, as `relay fleet renew` does."""
        node = self.nodes[at]
        found = node.machine.hand_records(self.now_ns, records)
        assert found == {"taken": len(records)}
        self.network.wake(node)

    def shown(self, name: str) -> int:
        """When the record that a node shows was signed, after SIGNED_S."""
        members = self.nodes[name].machine.members
        assert members is not None
        return decode_record(members._identity.record).issued_s - SIGNED_S

    def status(self, name: str) -> dict[str, Any]:
        found = self.nodes[name].machine.fleet_status(self.now_ns)
        assert found is not None
        return found


@pytest.mark.seeds(1, 2, 3)
def test_a_record_that_is_handed_to_any_node_reaches_its_own_while_media_flows(seed: int) -> None:
    fleet = Renewing(seed)
    player = Player(fleet.network, VIDEO)
    fleet.run_until(lambda: fleet.state("region", "edge") == "connected", 10)
    fleet.run(5)
    Encoder(fleet.network, VIDEO, start_ns=fleet.now_ns, count=20 * PER_SECOND)
    fleet.run(2)
    # The node beside the authority's key is the region that the edge does not call.
    fleet.hand("region-2", fleet.record("edge", issued_s=SIGNED_S + 400))
    took = fleet.run_until(lambda: fleet.shown("edge") == 400, 5)
    assert took < 4
    assert '"record": ""' not in fleet.stores["edge"].text
    fleet.run(20)
    assert len(player.missing(range(20 * PER_SECOND))) <= 8  # 30 % loss, a budget of 200 ms
    assert fleet.state("region", "edge") == "connected"
    for name in ("region", "region-2"):
        assert fleet.status(name)["renewals"] == {"kept": 1, "untold": 0}
    assert fleet.status("edge")["renewals"] == {"kept": 0, "untold": 0}


def test_sessions_outlive_the_records_that_they_began_with(seed: int) -> None:
    fleet = Renewing(seed, LinkConfig(delay_ms=20))
    player = Player(fleet.network, VIDEO)
    fleet.run_until(lambda: fleet.state("region", "edge") == "connected", 10)
    fleet.run(400)
    renewed = [fleet.record(name, issued_s=SIGNED_S + 400) for name in ("edge", "region", "region-2")]
    fleet.hand("region-2", *renewed)
    fleet.run(190)
    Encoder(fleet.network, VIDEO, start_ns=fleet.now_ns, count=20 * PER_SECOND)
    fleet.run(25)
    assert player.missing(range(20 * PER_SECOND)) == []
    assert {name: fleet.shown(name) for name in fleet.nodes} == dict.fromkeys(fleet.nodes, 400)


@pytest.mark.seeds(1, 2, 3)
def test_a_node_that_was_off_is_let_in_and_learns_its_record(seed: int) -> None:
    """Its own has expired meanwhile, everywhere."""
    fleet = Renewing(seed)
    fleet.run_until(lambda: fleet.state("region", "edge") == "connected", 10)
    fleet.stop("edge")
    fleet.run(450)
    everyone = [fleet.record(name, issued_s=SIGNED_S + 450) for name in ("edge", "region", "region-2")]
    fleet.hand("region-2", *everyone)
    fleet.run(200)
    assert fleet.state("region", "edge") is None
    # The region that heard of it is restarted, too: it hears again from the other.
    fleet.stop("region")
    fleet.start("region")
    fleet.run_until(lambda: fleet.status("region")["renewals"]["kept"] > 0, 15)
    fleet.start("edge")
    assert fleet.shown("edge") == 0
    fleet.run_until(lambda: fleet.shown("edge") == 450, 15)
    assert fleet.state("region", "edge") == "connected"
    # It knows over a restart, whatever its file says.
    fleet.stop("edge")
    fleet.start("edge")
    assert fleet.shown("edge") == 450


def test_a_revoked_key_is_not_renewed(seed: int) -> None:
    fleet = Renewing(seed, LinkConfig(delay_ms=20))
    fleet.run_until(lambda: fleet.state("region", "edge") == "connected", 10)
    renewed = fleet.record("edge", issued_s=SIGNED_S + 400)
    fleet.hand("region-2", renewed)
    fleet.run_until(lambda: fleet.shown("edge") == 400, 5)
    fleet.revoke("region-2", "edge")
    fleet.run_until(lambda: fleet.state("region", "edge") is None, 5)
    machine = fleet.nodes["region-2"].machine
    later = fleet.record("edge", issued_s=SIGNED_S + 500)
    assert machine.hand_records(fleet.now_ns, [later]) == {"record revoked": 1}
    fleet.run(20)
    assert fleet.state("region", "edge") is None
    assert fleet.refused("region", "record_revoked") > 0


def test_a_member_whose_record_says_edge_is_no_region_whatever_it_says(seed: int) -> None:
    fleet = Renewing(seed, LinkConfig(delay_ms=20))
    fleet.run_until(lambda: fleet.state("region", "edge") == "connected", 10)
    fleet.run(1)
    hops = fleet.nodes["edge"].machine.hops
    assert hops is not None
    lies = (ListVersion(1, 9), Announce("studio", 1, 9), Catalogue(1, 0, True, (CatalogueEntry("x", 1),)))
    for lie in lies:
        assert hops.send(fleet.now_ns, fleet.hop("edge", "region"), lie)
    fleet.network.wake(fleet.nodes["edge"])
    fleet.run(1)
    assert not fleet.hop("region", "edge").is_region
    assert fleet.hop("region", "edge").drops["no region"] == len(lies)
    # A record that says otherwise makes it one.
    fleet.stop("edge")
    of = decode_record(fleet.record("edge", issued_s=SIGNED_S + 5))
    fleet.records["edge"] = sign(fleet.authority, replace(of, role="region"))
    fleet.start("edge", role="region")
    fleet.run_until(lambda: fleet.hop("region", "edge").is_region, 10)


def test_a_region_that_turns_edge_is_forgotten_as_a_region(seed: int) -> None:
    fleet = Renewing(seed, LinkConfig(delay_ms=20))
    key = public_key(fleet.key("edge"))
    of = Record("edge", "default", key, SIGNED_S + 1, SIGNED_S + LIFE_S, (), "region")
    fleet.stop("edge")
    fleet.records["edge"] = sign(fleet.authority, of)
    fleet.start("edge", role="region")
    fleet.run_until(lambda: fleet.state("region", "edge") == "connected", 10)
    fleet.run_until(lambda: fleet.hop("region", "edge").is_region, 10)
    fleet.hand("region-2", sign(fleet.authority, replace(of, issued_s=SIGNED_S + 2, role="edge")))
    fleet.run(150)  # until the keys are renewed
    assert not fleet.hop("region", "edge").is_region
    edge = fleet.hop_status("edge", "region")
    assert edge["drops"]["record_of_another_name_or_role"] >= 1
