"""Whether a node does what its files say."""

from pathlib import Path

from relay.config import parse
from relay.config.applied import Applied

CONFIG = """
[node]
name = "edge-1"

[log]
level = "info"

[[ingest.rtp]]
stream = "studio"
sdp = "{sdp}"
"""


def test_a_file_that_became_another_is_not_applied(tmp_path: Path) -> None:
    path, sdp = tmp_path / "node.toml", tmp_path / "studio.sdp"
    sdp.write_text("v=0\n")
    path.write_text(CONFIG.format(sdp=sdp))
    config = parse(path.read_text(), {})
    applied = Applied(path, config)
    assert applied.complete
    for file in (path, sdp):
        new = tmp_path / "new"
        new.write_text(file.read_text())
        new.rename(file)  # as ansible writes
        assert not applied.complete
        applied.take(config)
        assert applied.complete
    sdp.unlink()
    assert not applied.complete and applied.waiting == []


def test_a_section_waits_for_a_restart_until_it_is_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "node.toml"
    path.write_text(CONFIG.format(sdp=tmp_path / "studio.sdp"))
    began = parse(path.read_text(), {})
    changed = parse(path.read_text().replace("info", "warning"), {})
    applied = Applied(path, began)
    for _ in range(2):
        applied.take(changed)
        assert applied.waiting == ["log"] and not applied.complete
    applied.take(began)
    assert applied.waiting == [] and applied.complete
