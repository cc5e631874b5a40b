"""The C c_programs of c_loop, compiled."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def c_programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler: apt-get install gcc")
    target = tmp_path_factory.mktemp("c_loop")
    for source in (HERE / "c_loop").glob("*.c"):
        command = [
            compiler,
            "-O2",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-pthread",
            "-o",
            str(target / source.stem),
            str(source),
        ]
        subprocess.run(command, check=True)
    yield target
