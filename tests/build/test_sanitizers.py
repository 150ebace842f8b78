"""The compiled part under AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer.

Under the first two, the tests that fill tensors run again, on every instruction set, with a build of its own below
build/. ThreadSanitizer would take what libtorch does, which was compiled without it, for races: it gets the CPU's loops and
threads in a program without libtorch. What is left is a mutex around each generator.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import toolchain

import fastinit

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
BUILD = ROOT / "build" / "sanitized"
PACKAGE = Path(fastinit.__file__).parent

# Tests that fill tensors: of all layouts, sizes and alignments, by every instruction set. Left out are those that look at
# many values or at the time, and most numbers of threads.
FILES = ["contract", "functions", "fuzz", "keys", "orthogonal", "reproducibility", "threads"]
LEFT_OUT = (
    "large_tensors or uniform_values or normal_values or truncated_values or tails or beyond_the_caches or moments or angle "
    "or determinants or rotation or 4096 or larger or workspace or gil or (what_they_were and not 2])"
)

pytestmark = [
    pytest.mark.long,
    pytest.mark.xdist_group("sanitizers"),  # one build for all of them
    pytest.mark.skipif(shutil.which("g++") is None, reason="no g++, whose sanitizers these are"),
    pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="not in a checkout"),
]


def library(name: str) -> str:
    return subprocess.run(
        ["g++", f"-print-file-name={name}"], check=True, capture_output=True, text=True
    ).stdout.strip()


def environment(folder: Path) -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": str(folder),
        # Before everything else: what it replaces is called by all.
        "LD_PRELOAD": f"{library('libasan.so')} {library('libubsan.so')} {library('libstdc++.so')}",
        "ASAN_OPTIONS": "detect_leaks=0:verify_asan_link_order=0",  # the interpreter leaks by design
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }


@pytest.fixture(scope="module")
def sanitized() -> Path:
    """A copy of the package with a compiled part that watches itself."""
    switches = {"FASTINIT_SANITIZE": "address,undefined", "FASTINIT_CUDA": "0"}
    build = [sys.executable, "setup.py", "-q", "build_ext", "--build-temp", str(BUILD / "objects")]
    subprocess.run([*build, "--build-lib", str(BUILD)], cwd=ROOT, env=os.environ | switches, check=True)
    shutil.copytree(
        PACKAGE,
        BUILD / "fastinit",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
        dirs_exist_ok=True,
    )
    return BUILD


def test_address_and_undefined_behaviour(sanitized: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        "-o",
        f"pythonpath={sanitized} . tests/support",
        "-k",
        f"not ({LEFT_OUT})",
    ]
    files = [str(path) for name in FILES for path in TESTS.glob(f"*/test_{name}.py")]
    done = subprocess.run(
        [*command, *files], cwd=ROOT, env=environment(sanitized), capture_output=True, text=True
    )
    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-8000:]}"
    assert " passed" in done.stdout


def test_the_sanitizer_watches_the_kernels(sanitized: Path) -> None:
    """A fill told that there is more memory than there is: it must not get away with it."""
    program = """
import ctypes
import fastinit
from torch.utils import dlpack

class DLTensor(ctypes.Structure):  # as in dlpack.h
    _fields_ = [("data", ctypes.c_void_p), ("device", ctypes.c_int32 * 2), ("ndim", ctypes.c_int32),
                ("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16),
                ("shape", ctypes.POINTER(ctypes.c_int64)), ("strides", ctypes.c_void_p), ("offset", ctypes.c_uint64),
                ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]

malloc, new = ctypes.CDLL(None).malloc, ctypes.pythonapi.PyCapsule_New
malloc.restype = ctypes.c_void_p
new.restype, new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]

def tensor(elements):  # in 4000 bytes
    shape = (ctypes.c_int64 * 1)(elements)
    made = DLTensor(malloc(4000), (ctypes.c_int32 * 2)(1, 0), 1, 2, 32, 1, shape, None, 0, None, None)
    kept.append((shape, made))
    return dlpack.from_dlpack(new(ctypes.addressof(made), b"dltensor", None))

kept = []
fastinit.normal_(tensor(1000))
print("still here", flush=True)
fastinit.normal_(tensor(1001))
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment(sanitized), capture_output=True, text=True
    )
    assert done.stdout == "still here\n", done.stderr
    assert done.returncode != 0
    assert "AddressSanitizer: heap-buffer-overflow" in done.stderr and "fastinit" in done.stderr, done.stderr


def test_threads(tmp_path: Path) -> None:
    """Many fills and products at once, on threads that help all of them, while the instruction set is changed."""
    flags = ["-O1", "-g1", "-fsanitize=thread", *toolchain.COMMON]
    csrc = toolchain.CSRC
    jobs = [(TESTS / "native" / "concurrent_fills.cpp", [])]
    jobs += [(csrc / "cpu" / f"{name}.cpp", []) for name in ("fill", "parallel", "product", "target")]
    for extra in toolchain.instruction_sets().values():
        jobs += [(source, extra) for source in sorted(csrc.glob("cpu/*_target.cpp"))]
    objects = []
    running = []
    for i, (source, extra) in enumerate(jobs):
        objects.append(str(tmp_path / f"{i}.o"))
        command = ["g++", *flags, *extra, "-c", str(source), "-o", objects[-1]]
        running.append(subprocess.Popen(command))
        if len(running) == (os.cpu_count() or 1):
            assert running.pop(0).wait() == 0
    assert all(compiler.wait() == 0 for compiler in running)
    program = str(tmp_path / "concurrent_fills")
    subprocess.run(["g++", "-fsanitize=thread", "-o", program, *objects, "-pthread"], check=True)
    done = subprocess.run([program], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-8000:]}"
    assert done.stdout == "0 failures\n"

    done = subprocess.run([program, "race"], capture_output=True, text=True, timeout=600)
    assert done.returncode != 0 and "ThreadSanitizer: data race" in done.stderr, "the sanitizer sees nothing"
