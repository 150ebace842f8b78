"""What nvcc says about the kernels, GPU or not: they use the registers and nothing but the registers, and only the
arithmetic that the contract allows. And how they are launched, against a CUDA runtime that only takes notes."""

import ctypes
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
ARCHITECTURES = [entry.partition("+")[0].replace(".", "") for entry in toolchain.CUDA_ARCHS.split(";")]

# Registers a thread, of 65536 for all on a multiprocessor. An elementwise fill leaves room for 1024 threads, in float64 and
# of the widest range of quantiles for 768, and a sparse one for 768. Of a rejecting one, shared memory holds 1536 threads on
# 9.0 and 10.0, 1024 on 8.0, 512 on 12.0; registers for a half of them, at least.
MOST_REGISTERS = {"elementwise": 64, "rejection": 64, "sparse": 80}
MOST_REGISTERS_BY_ARCHITECTURE = {("rejection", "80"): 96, ("rejection", "120"): 128}
MOST_REGISTERS_OF_MORE = {r"<double": 80, r"TruncatedNormalIn<\(.*\)2>": 80}
MOST_SHARED_MEMORY = 48 * 1024  # what every device gives without being asked
# For nine pairs of a map and a type (two maps in four types, and float8 in one): normal, and uniform in two ways; but for
# float64, truncated with quantiles in three ranges; four ways to reject; sparse.
KERNELS = {"elementwise": 9 * 3 + 7 * 3, "rejection": 9 * 4, "sparse": 9}


class Kernel(NamedTuple):
    architecture: str
    name: str
    stack: int
    spilled: int
    registers: int
    shared: int


class Build(NamedTuple):
    architectures: list[str]
    kernels: list[Kernel]
    ptx: str
    object: Path


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(["90"], id="sm_90"),
        pytest.param(ARCHITECTURES, id="shipped", marks=pytest.mark.long),
    ],
)
def build(request, tmp_path_factory) -> Build:
    """The kernels, compiled with the extension's flags: half a minute for each architecture. (What spills in another one than
    9.0 is a warning of each build, too.)"""
    folder = tmp_path_factory.mktemp("cuda")
    cuda = toolchain.find_cuda()
    if isinstance(cuda, str):
        pytest.skip(f"without the CUDA compiler: {cuda}")
    targets = [f"-gencode=arch=compute_{number},code=sm_{number}" for number in request.param]
    command = [*cuda.nvcc, *targets, *toolchain.CUDA_FLAGS, "-Werror", "all-warnings"]
    command += ["-Xptxas", "-v", "--keep", "--keep-dir", str(folder)]
    source = ROOT / "csrc" / "cuda" / "fill.cu"
    done = subprocess.run(
        [*command, "-c", str(source), "-o", str(folder / "fill.o")],
        capture_output=True,
        text=True,
        env=os.environ | {"LC_ALL": "C"},
    )
    assert done.returncode == 0, done.stderr
    ptx = "".join(path.read_text() for path in sorted(folder.glob("*.ptx")))
    return Build(request.param, parse(done.stdout + done.stderr), ptx, folder / "fill.o")


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
        architecture = re.search(r"for 'sm_(\w+)'", name)
        assert architecture, name
        shared_bytes = int(shared[1]) if shared else 0
        kernels.append(Kernel(architecture[1], name, stack, stores + loads, int(used[1]), shared_bytes))
    return kernels


def kind(kernel: Kernel) -> str:
    return next(name for name in KERNELS if name in kernel.name)


def most_registers(kernel: Kernel) -> int:
    most = MOST_REGISTERS_BY_ARCHITECTURE.get(
        (kind(kernel), kernel.architecture), MOST_REGISTERS[kind(kernel)]
    )
    return max(
        [most, *(more for name, more in MOST_REGISTERS_OF_MORE.items() if re.search(name, kernel.name))]
    )


def test_every_kernel_is_there(build):
    every = {(number, name): count for number in build.architectures for name, count in KERNELS.items()}
    assert Counter((kernel.architecture, kind(kernel)) for kernel in build.kernels) == every


def test_nothing_is_spilled_and_nothing_is_on_a_stack(build):
    assert [k for k in build.kernels if k.stack or k.spilled] == []


def test_registers_and_shared_memory(build):
    assert [k for k in build.kernels if k.registers > most_registers(k)] == []
    assert [k for k in build.kernels if k.shared > MOST_SHARED_MEMORY] == []


def test_arithmetic_is_ieee_s(build):
    """No approximation but those that a square root and a division begin with (lanes_thread.h), nothing flushed to zero, and no
    fma that core/ does not ask for: all of those come as fma.rn, and a contracted one would come as mad or fma without."""
    operations = set(re.findall(r"^\s*(?:@!?%p\d+\s+)?([a-z]\w*(?:\.\w+)+)", build.ptx, re.M))
    assert {op for op in operations if ".approx" in op or ".ftz" in op} == {
        "rsqrt.approx.ftz.f32",
        "rcp.approx.ftz.f32",
    }
    floating = {op for op in operations if re.search(r"\.f(32|64)$", op)}
    assert {op for op in floating if op.startswith(("add", "sub", "mul", "fma", "div", "sqrt", "mad"))} <= {
        f"{op}.rn.f{bits}" for op in ("add", "sub", "mul", "fma", "div", "sqrt") for bits in (32, 64)
    }


def test_instructions_are_counted_along_the_path_that_stores():
    """What docs/gpu.md counts: the loop from one round to the next, without the branch for rare cases."""
    instructions = pytest.importorskip("benchmarks.instructions", reason="run from the repository's root")
    lines = [
        "/*0000*/ MOV R1, R2 ;",
        ".L_x_1:",
        "/*0010*/ LOP3.LUT R1, R2, R3, RZ, 0x3c, !PT ;",
        "/*0020*/ @!P0 BRA `(.L_x_2) ;",
        "/*0030*/ FADD R4, R4, R1 ;",
        "/*0040*/ FADD R4, R4, R1 ;",
        ".L_x_2:",
        "/*0050*/ STG.E.128 desc[UR8][R2.64], R4 ;",
        "/*0060*/ @P1 BRA `(.L_x_1) ;",
        "/*0070*/ EXIT ;",
    ]
    counted = instructions.count("11elementwiseINS0_10ContiguousIfLi1EEENS_6NormalIfEEE", lines)
    assert (counted.op, counted.dtype, counted.values) == ("normal_", "float32", 4)
    assert counted.instructions == {"LOP3.LUT": 1, "BRA": 2, "STG.E.128": 1}
    assert counted.a_value == 1 and counted.integers == 0.25
    lines[3] = "/*0020*/ NOP ;"
    counted = instructions.count("11elementwiseINS0_10ContiguousIfLi1EEENS_6NormalIfEEE", lines)
    assert counted.instructions["FADD"] == 2


# ---------------------------------------------------------------------------------------------------------------
# Launches


@pytest.fixture(scope="module")
def host(build) -> ctypes.CDLL:
    """fill.cu, linked with a CUDA runtime that takes notes."""
    library = build.object.parent / "launches.so"
    source = ROOT / "tests" / "native" / "launches.cpp"
    flags = ["-O1", *toolchain.COMMON, "-Werror", "-fPIC", "-shared"]
    subprocess.run([*toolchain.CXX, *flags, str(source), str(build.object), "-o", str(library)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.notes.restype = ctypes.c_char_p
    loaded.fill.argtypes = [ctypes.c_char_p, ctypes.c_int64, ctypes.c_int]
    return loaded


def notes(host: ctypes.CDLL, op: str, elements: int, device: int = 0) -> list[str]:
    host.fill(op.encode(), elements, device)
    return host.notes().decode().split()


def test_shared_memory_is_asked_for_before_the_occupancy(host):
    for op, shared in (("trunc_normal_", True), ("sparse_", True), ("normal_", False)):
        found = notes(host, op, 1 << 20)
        assert found[:-1] == [*(["carveout:100"] if shared else []), "occupancy"]
        assert notes(host, op, 1 << 20) == found[-1:], "asked once"


def test_thread_blocks(host):
    """As many as the device holds, 400, or as are needed: fewer for small maps, more for large ones."""
    for elements, blocks in (
        (1, 1),
        (5000, 5),  # a pack a thread
        (400 * 1024, 400),
        (400 * 1024 + 1, 101),  # a tile, 16 values a thread
        (400 * 4096, 400),
        (8 * 400 * 4096, 400),  # 8 tiles a block
        (16 * 400 * 4096, 800),
    ):
        assert notes(host, "normal_", elements)[-1] == f"launch:{blocks}"
    assert notes(host, "trunc_normal_", 64 * 400 * 4096)[-1] == "launch:400"
    assert notes(host, "trunc_normal_", 128 * 400 * 4096)[-1] == "launch:800"
    assert notes(host, "sparse_", 1 << 24)[-1] == "launch:400"


def test_the_current_device_is_put_back(host):
    assert notes(host, "normal_", 5000, device=3) == ["device:3", "occupancy", "launch:5", "device:0"]


def test_a_failed_call_does_not_fail_the_next_one(host):
    host.fail_next(b"occupancy")
    assert notes(host, "uniform_", 5000) == ["occupancy", "error:fastinit.uniform_:_CUDA:_it_failed"]
    assert notes(host, "uniform_", 5000) == ["occupancy", "launch:5"]
    host.fail_next(b"launch")
    assert notes(host, "uniform_", 5000) == ["launch:5", "error:fastinit.uniform_:_CUDA:_it_failed"]
    assert notes(host, "uniform_", 5000) == ["launch:5"]


# ---------------------------------------------------------------------------------------------------------------
# Architectures


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ("", "sm_80 sm_90 sm_100 ptx_100 sm_120"),
        ("Ampere", "sm_80 sm_86 ptx_86"),
        ("8.0;Hopper", "sm_80 sm_90 ptx_90"),
        ("9.0a 12.0+PTX", "sm_90a sm_120 ptx_120"),
        ("Volta;8.0", "sm_80"),
        ("native", "sm_80 sm_90"),
        ("Volta", "/nvcc knows no architecture of Volta"),
    ],
)
@pytest.mark.parametrize("variable", ["FASTINIT_CUDA_ARCHS", "TORCH_CUDA_ARCH_LIST"])
def test_architectures(variable, wanted, expected, monkeypatch):
    known = [80, 86, 90, 100, 103, 120]
    monkeypatch.setattr(
        toolchain,
        "output_of",
        lambda command: (0, "\n".join(f"compute_{n}" for n in known) if "--list-gpu-arch" in command else ""),
    )
    for name in ("FASTINIT_CUDA_ARCHS", "TORCH_CUDA_ARCH_LIST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(variable, wanted)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda i: [(9, 0), (8, 0), (9, 0)][i])
    found = toolchain.cuda_archs("/nvcc")
    if isinstance(found, list):
        found = " ".join(toolchain.code_for(found)[1])
    assert found == expected


def test_what_is_no_architecture(monkeypatch):
    monkeypatch.setenv("FASTINIT_CUDA_ARCHS", "8.0;Amper")
    monkeypatch.setattr(toolchain, "output_of", lambda command: (0, "compute_80"))
    with pytest.raises(SystemExit, match='"Amper" is no CUDA architecture'):
        toolchain.cuda_archs("/nvcc")
    monkeypatch.setenv("FASTINIT_CUDA_ARCHS", "native")
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    with pytest.raises(SystemExit, match="no CUDA device"):
        toolchain.cuda_archs("/nvcc")
