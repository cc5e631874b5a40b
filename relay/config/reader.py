"""Turns a TOML document into the dataclasses of a schema and collects everything that is wrong with it.

While errors are collected, a value that was refused stands as None in its dataclass, so that one mistake
does not hide another. Whoever uses a `Reader` throws such objects away: they are whole only when `problems`
is empty.
"""

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, get_type_hints

from relay.config.checks import Array, Check, Scalar, Table, as_written
from relay.errors import Problem


@cache
def checks_of(of: type) -> dict[str, Check]:
    return {name: hint.__metadata__[0] for name, hint in get_type_hints(of, include_extras=True).items()}


class Reader:
    """Turns a document into dataclasses and collects what is wrong with it."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self.variables: dict[str, str] = {}  # key path -> the environment variable that set it
        self._first: dict[tuple[str, object], str] = {}  # (scope, value) -> where it stood first

    def wrong(self, path: str, found: str, expected: str) -> None:
        self.problems.append(Problem(self.variables.get(path, path), found, expected))

    def override(self, schema: type, document: dict[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
        """The document with `RELAY_<SECTION>_<KEY>` put into its single tables; it ignores other sections."""
        document = {key: dict(value) if isinstance(value, dict) else value for key, value in document.items()}
        for variable, text in sorted(environ.items()):
            for section, table in checks_of(schema).items():
                prefix = f"RELAY_{section.upper()}_"
                if not variable.startswith(prefix) or not isinstance(table, Table):
                    continue
                known = {key: c for key, c in checks_of(table.of).items() if isinstance(c, Scalar)}
                key = variable.removeprefix(prefix).lower()
                if key not in known:
                    variables = [prefix + name.upper() for name in known]
                    self.wrong(variable, "an unknown variable", _nearest(variable, variables))
                elif isinstance(values := document.setdefault(section, {}), dict):
                    self.variables[f"{section}.{key}"] = variable
                    values[key] = _from_text(known[key], text)
        return document

    def value(self, check: Check, path: str, found: Any) -> Any:
        if isinstance(check, Table):
            return self.table(check, path, found)
        if isinstance(check, Array):
            return self._array(check, path, found)
        try:
            value = check.convert(found)
        except ValueError:
            hide = check.hidden and isinstance(found, str)
            shown = f"{len(found)} characters that are none" if hide else as_written(found)
            self.wrong(path, shown, check.expected)
            return None
        if check.scope and (first := self._first.setdefault((check.scope, value), path)) != path:
            self.wrong(path, f"the {check.scope} of {first} again", f"a {check.scope} of its own")
        return value

    def table(self, check: Table, path: str, found: Any) -> Any:
        """An instance of `check.of`, with None for what was refused; None for what is no table."""
        if not isinstance(found, dict):
            self.wrong(path, as_written(found), "a table")
            return None
        prefix = path and path + "."
        known = checks_of(check.of)
        singles = {c.single: (name, c.item) for name, c in known.items() if isinstance(c, Array) and c.single}
        for key in found:
            if key not in known and key not in singles:
                shown = key if re.fullmatch("[A-Za-z0-9_-]+", key) else json.dumps(key)
                self.wrong(prefix + shown, "an unknown key", _nearest(key, [*known, *singles]))
        values: dict[str, Any] = {}
        for field in dataclasses.fields(check.of):
            if field.name in found:
                values[field.name] = self.value(known[field.name], prefix + field.name, found[field.name])
            elif field.default is dataclasses.MISSING:
                values[field.name] = None
                self._missing(prefix + field.name, known[field.name])
        for single, (name, item) in singles.items():
            if single in found and name in found:
                self.wrong(path, f"both {single} and {name}", "one of them")
            elif single in found:
                values[name] = (self.value(item, prefix + single, found[single]),)
        given = [key for key in check.exactly_one if key in found]
        if check.exactly_one and len(given) != 1:
            self.wrong(path, " and ".join(given) or "neither", "either " + " or ".join(check.exactly_one))
        return check.of(**values)

    def _missing(self, path: str, check: Check) -> None:
        if isinstance(check, Table):  # name the keys that such a table must have
            for field in dataclasses.fields(check.of):
                if field.default is dataclasses.MISSING:
                    self._missing(f"{path}.{field.name}", checks_of(check.of)[field.name])
        else:
            expected = check.expected if isinstance(check, Scalar) else "an array"
            self.wrong(path, "nothing", expected)

    def _array(self, check: Array, path: str, found: Any) -> Any:
        if not isinstance(found, list) or not check.at_least <= len(found) <= check.at_most:
            of = "tables" if isinstance(check.item, Table) else "values"
            self.wrong(path, as_written(found), f"an array of {check.at_least} to {check.at_most} {of}")
            return None
        return tuple(self.value(check.item, f"{path}[{i}]", item) for i, item in enumerate(found))


def _from_text(check: Scalar, text: str) -> Any:
    try:
        return check.from_text(text)
    except ValueError:
        return text  # which its check refuses, and shows


def _nearest(key: str, known: Sequence[str]) -> str:
    import difflib  # noqa: PLC0415 - of no use to a node whose configuration is right

    near = difflib.get_close_matches(key, known, n=1)
    return near[0] if near else f"one of {', '.join(sorted(known))}"
