"""The command: what is found, as text or JSON."""

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import asdict

from relay import __version__
from relay.config.shown import shown
from relay.doctor.facts import STATES, Facts, Finding
from relay.doctor.look import look
from relay.doctor.machine import check_machine
from relay.doctor.node import check_node
from relay.doctor.peers import check_peers


def main(args: argparse.Namespace) -> int:
    """1 if anything is an error, else 0."""
    facts = look(args.config, args.url, os.environ)
    findings = examine(facts)
    print(as_json(facts, findings) if args.json else as_text(facts, findings))
    return int(any(finding.state == "error" for finding in findings))


def examine(facts: Facts) -> list[Finding]:
    return [*check_node(facts), *check_peers(facts), *check_machine(facts)]


def as_json(facts: Facts, findings: Sequence[Finding]) -> str:
    """With all that a report of a fault needs, whether or not the node runs."""
    content = {
        "version": __version__,
        "root": facts.root,
        "counts": _counts(findings),
        "findings": [asdict(finding) for finding in findings],
        "kernel": asdict(facts.kernel),
        "config_file": str(facts.config_path),
        "config": shown(facts.config),
        "status": facts.status,
    }
    return json.dumps(content, indent=2)


def as_text(facts: Facts, findings: Sequence[Finding]) -> str:
    """What needs attention last, where a terminal shows it."""
    width = max(len(finding.check) for finding in findings)
    lines = []
    for state in reversed(STATES):
        for finding in findings:
            if finding.state == state:
                lines.append(f"{state:<8} {finding.check:<{width}}  {_line(finding.seen)}")
                lines += [f"{'':<8} {'':<{width}}  -> {_line(finding.do)}"] if finding.do else []
    counts = ", ".join(f"{n} {state}" for state, n in _counts(findings).items())
    root = "" if facts.root else "; root would see more"
    return "\n".join(
        [*lines, "", f"{counts}{root}. What follows -> is run as root where it changes something."]
    )


def _counts(findings: Sequence[Finding]) -> dict[str, int]:
    return {state: sum(finding.state == state for finding in findings) for state in STATES}


def _line(text: str) -> str:
    """What a peer or a file says cannot begin a line of its own, nor control a terminal."""
    return "".join(c if c.isprintable() else " " for c in text)
