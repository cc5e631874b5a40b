"""The documents: configurations pass, commands are ones that there are, links lead somewhere."""

import argparse
import base64
import re
import shlex
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from relay import cli
from relay.config import parse

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SPAN = re.compile(r"(?<!`)`(relay [^`\n]+)`(?!`)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
KEY = base64.b64encode(bytes(range(32))).decode()
PLACE = re.compile(r"\"\$\(.*?\)\"|\"?\$[A-Z_]+\"?|\b(?:BASE64|KEY)…?(?!\S)|\.\.\.")
"""Where a block has something of the reader's own, such as a key."""
ENDS = re.compile(r"\s(?:#.*|\|.*|&&.*|;.*|2?>.*)$")
"""What in a line of shell is not the command."""

name_of = [path.relative_to(ROOT).as_posix() for path in DOCUMENTS]


def blocks(path: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCE.findall(path.read_text()) if language in languages]


def prose(path: Path) -> str:
    return FENCE.sub("", path.read_text())


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_configurations(path: Path) -> None:
    for block in blocks(path, "toml"):
        number = count()

        def key(match: re.Match[str], number: Iterator[int] = number) -> str:
            """Keys are spelled out nowhere but in the reference, and differ in a file."""
            return f'{match[1]} = "{base64.b64encode(bytes([next(number)] * 32)).decode()}"'

        text = re.sub(r'(\w+_key) = "[^"]*"', key, block)
        text = text if "[node]" in text else f'[node]\nname = "node"\n{text}'
        text = text if "[hop]" in text else f"{text}\n[hop]\n"
        if "[[hop.peers]]" not in text and "[fleet]" not in text:  # what leaves may come from a peer
            text += f'[[hop.peers]]\nname = "peer"\npublic_key = "{KEY}"\n'
        parse(text, {})


def commands(path: Path) -> Iterator[str]:
    for block in blocks(path, "sh", ""):
        for line in block.replace("\\\n", " ").splitlines():
            if match := re.search(r"^(?:\$ )?(?:\S*/)?relay (?=\S)(.*)$", line):
                yield PLACE.sub(KEY, ENDS.sub("", " " + match[1]).strip())


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_commands(path: Path) -> None:
    wrong = []
    for command in commands(path):
        if re.match(r"\d", command):
            continue  # what a command has printed: name and version
        try:
            cli._parser().parse_args(shlex.split(command))
        except SystemExit as error:
            if error.code:
                wrong.append(command)
    assert not wrong


def options(words: list[str]) -> set[str]:
    """Of the command that those words begin with."""
    parser: argparse.ArgumentParser = cli._parser()
    known = {"--version", "--debug", "--help"}
    for word in words:
        inner = [a for a in parser._actions if isinstance(a, argparse._SubParsersAction)]
        if not inner:
            break
        assert word in inner[0].choices, f"there is no relay {' '.join(words)}"
        parser = inner[0].choices[word]
    return known | {option for action in parser._actions for option in action.option_strings}


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_commands_in_the_text(path: Path) -> None:
    for span in SPAN.findall(prose(path)):
        words = span.split()[1:]
        names = [word for word in words if re.fullmatch("[a-z][a-z-]*", word)]
        given = {word.strip("[]") for word in words if word.strip("[]").startswith("--")}
        assert given <= options(names), span


def slug(heading: str) -> str:
    """As GitHub makes it."""
    text = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
    return re.sub(r"[^\w\- ]", "", text).replace(" ", "-")


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_links(path: Path) -> None:
    broken = []
    for link in LINK.findall(prose(path)):
        if re.match("[a-z]+:", link):
            continue
        file, _, anchor = link.partition("#")
        target = (path.parent / file) if file else path
        anchors = {slug(heading) for heading in HEADING.findall(prose(target))} if target.is_file() else set()
        if not target.exists() or (anchor and anchor not in anchors):
            broken.append(link)
    assert not broken
