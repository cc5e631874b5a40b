"""Errors of the node's own making, by fault: each is also a standard class, so that callers may catch either.

A refused datagram is not an error: it is counted under its reason where it is refused.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar


class RelayError(Exception):
    """What can be said in one sentence to the person who runs the node; `exit_code` is then the command's."""

    exit_code: ClassVar[int] = 1


class UsageError(RelayError, ValueError):
    """A command was given something that it cannot mean."""

    exit_code = 2


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong in a configuration: where (key path, variable, file), what it is, what it should be."""

    path: str
    found: str
    expected: str

    def __str__(self) -> str:
        return f"{self.path}: found {self.found}, expected {self.expected}"


class ConfigError(RelayError, ValueError):
    """A configuration, or a file that it names, is wrong; `problems` holds all that is."""

    exit_code = 2

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))
