"""The decisions of a node as bytes, for the process after this one: everything that its Machine holds.

What belongs to a process (packet planes, sockets, clocks, files) stays; each such object has a name in a
`World` and is replaced by the other process's own. The rest is plain data and instances of this program's
classes, which pickle writes attribute by attribute. It is read in one place only, from the process that
started this one over a socket pair that no other has (services/handover.py), and makes no object but of these
classes.

FORMAT is that of the packet plane and of this, in one number: another set of classes or attributes is another
format, and then an upgrade takes a restart. tests/sim/test_handover.py says when.
"""

import io
import pickle
from collections.abc import Mapping
from typing import Any

from relay_ext import handover

FORMAT = handover.FORMAT
World = Mapping[str, object]
PLAIN = {
    "builtins": ("getattr", "set", "frozenset", "bytearray"),
    "collections": ("Counter", "deque", "defaultdict", "OrderedDict"),
    "copyreg": ("__newobj__", "_reconstructor"),
    "functools": ("partial",),
    "pathlib": ("PosixPath",),
}
"""What is made besides our own classes. `getattr` is how pickle names a method of an object."""


class Writer(pickle.Pickler):
    def __init__(self, file: io.BytesIO, world: World) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self._names = {id(thing): name for name, thing in world.items()}

    def persistent_id(self, obj: object) -> str | None:
        return self._names.get(id(obj))


class Reader(pickle.Unpickler):
    def __init__(self, state: bytes | bytearray, world: World) -> None:
        super().__init__(io.BytesIO(state))
        self._world = world

    def persistent_load(self, name: str) -> object:
        return self._world[name]

    def find_class(self, module: str, name: str) -> Any:
        ours = module.startswith("relay.") or module == "relay_ext.state"
        if not ours and name not in PLAIN.get(module, ()):
            raise pickle.UnpicklingError(f"{module}.{name} is no part of the state of a node")
        return super().find_class(module, name)


def save(machine: object, world: World) -> bytes:
    """What a Machine holds, keys included; it stays as it is. Raises ValueError for what cannot leave the
    process."""
    file = io.BytesIO()
    try:
        Writer(file, world).dump(machine)
    except Exception as error:  # by its kind: PicklingError, TypeError, AttributeError
        raise ValueError(f"this state cannot leave the process: {error}") from error
    return file.getvalue()


def load(state: bytes | bytearray, world: World) -> Any:
    """The Machine, in a world with the same names. Raises ValueError for what is no such state."""
    try:
        return Reader(state, world).load()
    except Exception as error:  # pickle raises whatever the bytes provoke
        raise ValueError(f"not the state of a node: {error}") from error
