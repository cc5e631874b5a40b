"""deploy/ansible: what its files say of each other, and the configurations that it makes of the example."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from relay import cli

ROOT = Path(__file__).parents[2]
ANSIBLE = ROOT / "deploy" / "ansible"
INVENTORY = ANSIBLE / "inventory"
NODE = ANSIBLE / "roles" / "node"
ROLES = sorted(path.name for path in (ANSIBLE / "roles").iterdir())

RENDER = f"""
- hosts: regions:edges
  connection: local
  gather_facts: false
  vars_files: [{NODE}/defaults/main.yml, {NODE}/vars/main.yml]
  tasks:
    - ansible.builtin.copy:
        content: "{{{{ lookup('ansible.builtin.template', '{NODE}/templates/node.toml.j2') }}}}"
        dest: "{{{{ relay_fleet_dir }}}}/{{{{ inventory_hostname }}}}.toml"
        mode: "0644"
"""


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())


def play(*arguments: object) -> str:
    """What ansible-playbook prints; fails with it."""
    command = [Path(sys.executable).with_name("ansible-playbook"), *map(str, arguments)]
    environ = os.environ | {"ANSIBLE_CONFIG": str(ANSIBLE / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def made(content: Any) -> Iterator[str]:
    """Variables that the tasks in `content` set themselves."""
    if isinstance(content, list):
        for item in content:
            yield from made(item)
    elif isinstance(content, dict):
        yield from content.get("vars", {})
        yield from content.get("ansible.builtin.set_fact", {})
        if "register" in content:
            yield content["register"]
        for value in content.values():
            yield from made(value)


@pytest.mark.parametrize("role", ROLES)
def test_the_specification_has_every_variable_and_no_other(role: str) -> None:
    folder = ANSIBLE / "roles" / role
    variable = re.compile(r"(?<!hostvars\[node\]\.)(?<!hostvars\[peer\]\.)\brelay_[a-z_]+\b")
    files = [path for path in folder.rglob("*") if path.is_file() and path.parent.name != "meta"]
    own: set[str] = set()
    used: set[str] = set()
    for path in files:
        used |= set(variable.findall(path.read_text()))
        if path.parent.name in ("tasks", "handlers"):
            own |= set(made(load(path)))
        elif path.parent.name == "vars":
            own |= load(path).keys()
    specified = load(folder / "meta" / "argument_specs.yml")["argument_specs"]
    defaults = load(folder / "defaults" / "main.yml") if (folder / "defaults").exists() else {}
    for entry in specified.values():
        options = entry["options"]
        assert used - own == options.keys()
        stated = {name: option["default"] for name, option in options.items() if "default" in option}
        assert all(defaults[name] == value for name, value in stated.items())
        assert defaults.keys() <= options.keys()


def test_entry_points_are_specified() -> None:
    """Those that a play names, and the one that it need not."""
    named = re.findall(r"name: node\n +tasks_from: (\w+)", (ANSIBLE / "site.yml").read_text())
    assert {"main", *named} == load(NODE / "meta" / "argument_specs.yml")["argument_specs"].keys()


def test_the_example_fits_the_specifications() -> None:
    """Ansible's own check of them has the tag `always`."""
    text = play("-i", INVENTORY, ANSIBLE / "site.yml", "--tags", "none of the tasks", "--connection", "local")
    hosts = [name for group in load(INVENTORY / "hosts.yml").values() for name in group["hosts"]]
    for host in hosts:
        assert re.search(rf"^{host} +: ok=[1-9]", text, re.MULTILINE), text


def test_the_example_makes_configurations_that_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def relay(*arguments: object) -> str:
        code = cli.main([str(argument) for argument in arguments])
        output = capsys.readouterr()
        assert code == 0, output.err
        return output.out.strip()

    groups = load(INVENTORY / "hosts.yml")
    kinds = ("regions", "edges")
    nodes = {name: (kind, of) for kind in kinds for name, of in groups[kind]["hosts"].items()}
    authority = relay("fleet", "init", "--out", tmp_path / "fleet.key")
    for name, (group, of) in nodes.items():
        (tmp_path / name).mkdir()
        key = relay("keygen", "--out", tmp_path / name / "node.key")
        (tmp_path / f"{name}.pub").write_text(key + "\n")
        relay(
            *("fleet", "sign", "--authority", tmp_path / "fleet.key", "--name", name, "--key", key),
            *("--region", of["relay_region"], "--role", group.removesuffix("s")),
            *("--out", tmp_path / name / "node.record"),
        )
    (tmp_path / "render.yml").write_text(RENDER)
    variables = f"relay_fleet_dir={tmp_path} relay_authority_key={authority}"
    play("-i", INVENTORY, tmp_path / "render.yml", "-e", variables)
    for name, (group, _) in nodes.items():
        text = (tmp_path / f"{name}.toml").read_text()
        assert text.count("[[hop.peers]]") == (1 if group == "regions" else 2)
        config = tmp_path / name / "node.toml"
        config.write_text(text.replace("/etc/relay/", f"{tmp_path / name}/"))
        monkeypatch.setenv("RELAY_NODE_STATE_DIR", str(tmp_path))
        monkeypatch.setenv("RELAY_HOP_KEY_FILE", str(tmp_path / name / "node.key"))
        assert relay("check-config", config) == f"{config}: ok"
