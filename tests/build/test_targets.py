"""Code that is compiled for one instruction set shares no function with the rest: the linker keeps one of equal symbols, and
that must not be one that this processor cannot run."""

import re
import subprocess
from pathlib import Path

import pytest

import native

CPU = native.ROOT / "csrc" / "cpu"


def targets() -> list[tuple[str, str]]:
    """Namespace and compiler flags of each instruction set, as the preprocessor leaves the list on this machine."""
    command = [*native.COMPILER, "-E", "-P", "-x", "c++", str(CPU / "targets.def")]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return re.findall(r'TARGET\((\w+), "[^"]*", "([^"]*)"', lines)


@pytest.mark.long
@pytest.mark.parametrize("source", sorted(CPU.glob("*_target.cpp")), ids=lambda path: path.stem)
@pytest.mark.parametrize(("name", "flags"), targets(), ids=lambda value: value.partition(" ")[0])
def test_no_shared_symbols(name: str, flags: str, source: Path, tmp_path: Path) -> None:
    """Without optimisation, so that nothing is inlined but what always is."""
    output = tmp_path / "target.o"
    command = [*native.COMPILER, "-std=c++20", "-O0", f"-DFASTINIT_TARGET={name}", *flags.split()]
    subprocess.run([*command, f"-I{CPU.parent}", "-c", str(source), "-o", str(output)], check=True)
    listing = subprocess.run(["nm", "-C", str(output)], check=True, capture_output=True, text=True).stdout
    symbols = [line.split(maxsplit=2)[1:] for line in listing.splitlines() if line[0] != " "]
    seen = [symbol for kind, symbol in symbols if kind in "TWVuBD" and not symbol.startswith("DW.ref.")]
    assert seen and all(f"fastinit::{name}::" in symbol for symbol in seen)
