"""What nvcc says about the kernels, GPU or not: they use the registers and nothing but the registers, and only the
arithmetic that the contract allows."""

import os
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest
import toolchain

ROOT = Path(__file__).parents[2]
ARCHITECTURE = "90"

# Registers that leave room for half of the threads an H100 holds; a sparse fill keeps more at hand, and holds a third.
MOST_REGISTERS = {"elementwise": 64, "rejection": 64, "sparse": 80}
MOST_SHARED_MEMORY = 48 * 1024  # what every device gives without being asked
# Each of two maps, in four dtypes: uniform and normal; three proposals; sparse.
KERNELS = {"elementwise": 2 * 4 * 2, "rejection": 2 * 4 * 3, "sparse": 2 * 4}


class Kernel(NamedTuple):
    name: str
    stack: int
    spilled: int
    registers: int
    shared: int


class Build(NamedTuple):
    kernels: list[Kernel]
    ptx: str


@pytest.fixture(scope="module")
def build(tmp_path_factory) -> Build:
    """The kernels for one architecture, compiled with the extension's flags: half a minute."""
    folder = tmp_path_factory.mktemp("cuda")
    cuda = toolchain.find_cuda()
    if isinstance(cuda, str):
        pytest.skip(f"without the CUDA compiler: {cuda}")
    target = f"-gencode=arch=compute_{ARCHITECTURE},code=sm_{ARCHITECTURE}"
    command = [*cuda.nvcc, target, *toolchain.CUDA_FLAGS, "-Werror", "all-warnings"]
    command += ["-cubin", "-Xptxas", "-v", "--keep", "--keep-dir", str(folder)]
    source = ROOT / "csrc" / "cuda" / "fill.cu"
    done = subprocess.run(
        [*command, str(source), "-o", str(folder / "fill.cubin")],
        capture_output=True,
        text=True,
        env=os.environ | {"LC_ALL": "C"},
    )
    assert done.returncode == 0, done.stderr
    return Build(parse(done.stdout + done.stderr), (folder / "fill.ptx").read_text())


def parse(report: str) -> list[Kernel]:
    if shutil.which("c++filt"):
        report = subprocess.run(["c++filt"], input=report, capture_output=True, text=True, check=True).stdout
    kernels = []
    for part in report.split("Compiling entry function ")[1:]:
        used = re.search(r"Used (\d+) registers", part)
        memory = re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", part
        )
        shared = re.search(r"(\d+) bytes smem", part)
        assert used and memory, part
        stack, stores, loads = map(int, memory.groups())
        name = part.splitlines()[0]
        kernels.append(Kernel(name, stack, stores + loads, int(used[1]), int(shared[1]) if shared else 0))
    return kernels


def kind(kernel: Kernel) -> str:
    return next(name for name in KERNELS if name in kernel.name)


def test_every_kernel_is_there(build):
    assert Counter(map(kind, build.kernels)) == KERNELS


def test_nothing_is_spilled_and_nothing_is_on_a_stack(build):
    assert [k for k in build.kernels if k.stack or k.spilled] == []


def test_registers_and_shared_memory(build):
    assert [k for k in build.kernels if k.registers > MOST_REGISTERS[kind(k)]] == []
    assert [k for k in build.kernels if k.shared > MOST_SHARED_MEMORY] == []


def test_arithmetic_is_ieee_s(build):
    """No approximation but the one that a square root begins with (lanes_thread.h), nothing flushed to zero, and no fma
    that core/ does not ask for: all of those come as fma.rn, and a contracted one would come as mad or fma without."""
    operations = set(re.findall(r"^\s*(?:@!?%p\d+\s+)?([a-z]\w*(?:\.\w+)+)", build.ptx, re.M))
    assert {op for op in operations if ".approx" in op or ".ftz" in op} == {"rsqrt.approx.ftz.f32"}
    floating = {op for op in operations if re.search(r"\.f(32|64)$", op)}
    assert {op for op in floating if op.startswith(("add", "sub", "mul", "fma", "div", "sqrt", "mad"))} <= {
        f"{op}.rn.f{bits}" for op in ("add", "sub", "mul", "fma", "div", "sqrt") for bits in (32, 64)
    }
