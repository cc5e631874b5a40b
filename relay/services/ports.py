"""The numbers by which the packet planes know their sockets."""

from relay.config import Address
from relay.services.engine import EngineService, Ports
from relay.services.shards import Shards
from relay.services.uplinks import HOP_PORT, UPLINK_PORTS, Binding
from relay_ext import control


class SocketPorts:
    """Numbers the packet planes' sockets, for each plane; the first numbers are those that they share, for
    traffic with peers."""

    def __init__(self, service: EngineService, shards: Shards) -> None:
        self._service = service
        self._shards = shards
        self._used = [{HOP_PORT, *UPLINK_PORTS} for _ in service.engines]

    def take(self, ports: Ports) -> None:
        """Go on with those that the one plane of another process had."""
        self._service.take(ports)
        self._used[0].update(ports)

    def open(self, address: Address, shard: int) -> int:
        used = self._used[shard]
        port = next(n for n in range(1, len(used) + 1) if n not in used)
        self._service.open_port(port, address, shard=shard)
        used.add(port)
        return port

    def close(self, port: int, shard: int) -> None:
        self._service.close_port(port, shard=shard)
        self._used[shard].remove(port)

    def open_hop(self, number: int, address: Address, interface: str | None = None) -> None:
        """A socket that every plane has, for traffic with peers. Raises PortError."""
        self._service.open_hop_port(number, address, interface)
        for plane in self._shards.planes:
            plane.set_port(number, control.PORT_HOP)

    def open_uplink(self, number: int, binding: Binding) -> None:
        self.open_hop(number, Address(binding.host or "::", binding.port), binding.interface)

    def close_uplink(self, number: int) -> None:
        for plane in self._shards.planes:
            plane.close_port(number)
        self._service.close_hop_port(number)
