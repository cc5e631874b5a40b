"""What a node asks its regions for, and what they answer."""

from relay.services.hops import Hop
from relay.services.machine import Machine
from relay.wire.messages import Message, Subscribe, Unavailable


class Ear:
    """Hears both from now on: (ns, peer, message)."""

    def __init__(self, machine: Machine) -> None:
        self.asked: list[tuple[int, str, Message]] = []
        self.told: list[tuple[int, str, Message]] = []
        hops, streams = machine.hops, machine.streams
        assert hops is not None
        send, take = hops.send, streams.on_message

        def on_send(now_ns: int, hop: Hop, message: Message) -> bool:
            self.asked.append((now_ns, hop.name, message))
            return send(now_ns, hop, message)

        def on_message(now_ns: int, hop: Hop, message: Message) -> None:
            self.told.append((now_ns, hop.name, message))
            take(now_ns, hop, message)

        hops.send, streams.on_message = on_send, on_message  # type: ignore[method-assign]

    def waits_ns(self) -> list[int]:
        """How long each refusal took, from asking to hearing it."""
        return [
            min(
                at_ns - ns
                for ns, to, m in self.asked
                if (to, m) == (peer, Subscribe(message.stream)) and ns <= at_ns
            )
            for at_ns, peer, message in self.told
            if isinstance(message, Unavailable) and not message.kept
        ]
