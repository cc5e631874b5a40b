"""Builds relay_ext: one extension a `.pyx`, C kernels from `relay_ext/csrc`.

Everything else is in pyproject.toml. `RELAY_EXT_ASAN=1` builds under AddressSanitizer,
`RELAY_EXT_CFLAGS` has more flags for the compiler.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent
EXT = HERE / "relay_ext"
IN_SDIST = (HERE / "PKG-INFO").exists()  # an sdist ships the generated C, a checkout the .pyx
SUFFIX = ".c" if IN_SDIST else ".pyx"

# What a header needs, and the Debian package that brings it.
HEADERS = {"Python.h": "python3-dev", "openssl/evp.h": "libssl-dev"}

CFLAGS = ["-O3", "-g1", "-std=gnu11", "-Wall", "-Wextra", "-fno-strict-aliasing", "-pthread"]
LDFLAGS = ["-pthread"]
if os.environ.get("CI"):
    CFLAGS += ["-Werror"]
if os.environ.get("RELAY_EXT_ASAN"):
    CFLAGS += ["-fsanitize=address,undefined", "-fno-omit-frame-pointer", "-O1"]
    LDFLAGS += ["-fsanitize=address,undefined"]

CFLAGS += os.environ.get("RELAY_EXT_CFLAGS", "").split()

EXTRA_SOURCES = {"gf256": ["relay_ext/csrc/gf256.c"]}
LIBRARIES = {"seal": ["crypto"], "crypto": ["crypto"]}


def extensions() -> list[Extension]:
    return [
        Extension(
            f"relay_ext.{path.stem}",
            [f"relay_ext/{path.name}", *EXTRA_SOURCES.get(path.stem, [])],
            include_dirs=["relay_ext/csrc"],
            libraries=LIBRARIES.get(path.stem, []),
            depends=[str(p) for p in [*EXT.glob("*.pxd"), *EXT.glob("csrc/*.h")]],
            extra_compile_args=CFLAGS,
            extra_link_args=LDFLAGS,
        )
        for path in sorted(EXT.glob(f"*{SUFFIX}"))
    ]


class Build(build_ext):
    """Says which Debian package is missing before the compiler says which header is."""

    def finalize_options(self) -> None:
        super().finalize_options()
        self.parallel = self.parallel or os.cpu_count()

    def build_extensions(self) -> None:
        compiler = self.compiler.compiler_so
        if shutil.which(compiler[0]) is None:
            sys.exit(f"no C compiler ({compiler[0]}): apt-get install gcc")
        includes = [f"-I{d}" for d in self.compiler.include_dirs]
        with tempfile.TemporaryDirectory() as tmp:
            for header, package in HEADERS.items():
                source = Path(tmp, "probe.c")
                source.write_text(f"#include <{header}>\n")
                done = subprocess.run(
                    [*compiler, *includes, "-fsyntax-only", str(source)], capture_output=True, check=False
                )
                if done.returncode:
                    sys.exit(f"the C header {header} is missing: apt-get install {package}")
        super().build_extensions()


def modules() -> list[Extension]:
    if IN_SDIST:
        return extensions()
    from Cython.Build import cythonize  # noqa: PLC0415 - an sdist builds without it

    return cythonize(extensions(), language_level=3, nthreads=os.cpu_count() or 1, build_dir="build/cython")


setup(ext_modules=modules(), cmdclass={"build_ext": Build})
