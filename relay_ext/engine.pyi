import socket
from typing import Self

from relay_ext.control import Plane

SOCKET_BUFFER: int
"""Bytes that each socket asks for, each way."""
SOL_UDP: int
UDP_SEGMENT: int
UDP_GRO: int

class Engine:
    """The thread that runs a Plane on UDP sockets. It is started once; `stop` ends it and releases what it
    holds.

    Ports may be added and taken away at any time, from any Python thread. Commands that were given to the
    plane before `stop` are carried out.

    `gro` and `gso` allow UDP_GRO and UDP_SEGMENT where the kernel has them. `coalesce_us`: how long the
    thread sleeps after each turn while packets would wake it twice or more in that time, in microseconds (0
    to 1000); 0 waits for each packet instead. It is the delay that saving wake-ups may add.
    """

    def __new__(cls, plane: Plane, *, gro: bool = True, gso: bool = True, coalesce_us: int = 100) -> Self: ...
    @property
    def event_fd(self) -> int:
        """An eventfd that becomes readable when the plane has events, or when the thread has ended.

        -1 once stopped.
        """
    @property
    def alive(self) -> bool:
        """The thread runs.

        False before `start`, after `pause` and `stop`, and when an internal error ended it: see `error`.
        """
    @property
    def error(self) -> str | None:
        """What ended the thread, if anything but `pause` or `stop` did."""
    @property
    def cpu_ns(self) -> int | None:
        """CPU time that the thread has used, in nanoseconds; None before it runs and after it has ended."""
    def start(self) -> None:
        """Raises RuntimeError when the engine runs, or has been stopped."""
    def pause(self) -> None:
        """Ends the thread until the next `start`; what arrives meanwhile waits in the sockets' buffers."""
    def stop(self) -> None:
        """Ends the thread and closes every file; at most a turn (a few ms). May be called again."""
    def add_port(self, port: int, sock: socket.socket, *, probe_mtu: bool = False) -> None:
        """Lets the plane receive and send on a bound UDP socket under the number `port` (0 to 4095).

        The engine works on a duplicate: the caller may close its own. Buffers of 4 MB and UDP_GRO are set on
        it; `probe_mtu` sets IP_PMTUDISC_PROBE (never fragment, heed no ICMP; RFC 8899). Commands that the
        plane was given before have been carried out when this returns. Raises ValueError for a number in use
        or a socket of another kind, OSError as the system says.
        """
    def remove_port(self, port: int) -> None:
        """When it returns the thread no longer uses the socket, which is closed.

        Raises ValueError: no such port.
        """
    def counters(self) -> dict[str, int]:
        """Totals since the start, read without stopping the thread.

        What was refused is counted in datagrams, by reason: `rx_truncated` (longer than a buffer),
        `rx_oversized` (longer than a slab), `rx_kernel_drops` (the socket's buffer was full),
        `tx_would_block`, `tx_unreachable`, `tx_forbidden`, `tx_refused`, `tx_too_long`, `tx_no_buffers`,
        `tx_no_port`, `tx_wrong_family`, `tx_other_errors`.
        """
