"""Code that is compiled for one instruction set shares no function with the rest: the linker keeps one of equal symbols, and
that must not be one that this processor cannot run."""

import subprocess
from pathlib import Path

import pytest
import toolchain

from native import AARCH64, HERE, Machine

TARGETS = [(HERE, "nm", name) for name in toolchain.instruction_sets()]
if not AARCH64.missing():
    TARGETS += [(AARCH64, "aarch64-linux-gnu-nm", name) for name in toolchain.instruction_sets(AARCH64.cxx)]


@pytest.mark.long
@pytest.mark.parametrize(
    "source", sorted(toolchain.CSRC.glob("cpu/*_target.cpp")), ids=lambda path: path.stem
)
@pytest.mark.parametrize(("machine", "nm", "name"), TARGETS, ids=[name for _, _, name in TARGETS])
def test_no_shared_symbols(machine: Machine, nm: str, name: str, source: Path, tmp_path: Path) -> None:
    """Without optimisation, so that nothing is inlined but what always is."""
    output = tmp_path / "target.o"
    flags = ["-O0", *toolchain.COMMON, *toolchain.instruction_sets(machine.cxx)[name]]
    subprocess.run([*machine.cxx, *flags, "-c", str(source), "-o", str(output)], check=True)
    listing = subprocess.run([nm, "-C", str(output)], check=True, capture_output=True, text=True).stdout
    symbols = [line.split(maxsplit=2)[1:] for line in listing.splitlines() if line[0] != " "]
    seen = [symbol for kind, symbol in symbols if kind in "TWVuBD" and not symbol.startswith("DW.ref.")]
    assert seen and all(f"fastinit::{name}::" in symbol for symbol in seen)
