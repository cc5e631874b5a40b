"""What a wheel carries besides the compiled modules: stubs and declarations, but no C; and the page."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_wheel_content(tmp_path: Path) -> None:
    command = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    package = tmp_path / "relay_ext"
    carried = {path.name for path in package.rglob("*") if path.is_file()}
    declared = {path.name for pattern in ("*.pxd", "*.pyi") for path in (ROOT / "relay_ext").glob(pattern)}
    assert carried == declared | {"py.typed", "__init__.py"}
    assert (tmp_path / "relay" / "py.typed").exists()
    pages = {path.name for path in (ROOT / "relay" / "web" / "pages").iterdir()}
    assert {path.name for path in (tmp_path / "relay" / "web" / "pages").iterdir()} == pages
