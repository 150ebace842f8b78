"""The compilers and their flags: setup.py builds the extension with them, and the tests their own programs.

The switches are environment variables; setup.py lists them.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

CSRC = Path(__file__).resolve().parent / "csrc"
CXX = shlex.split(os.environ.get("CXX", "")) or [shutil.which("g++") or "c++"]

# Machine code for 8.0 runs on every 8.x, and so on. Any other device newer than the entry with +PTX, 11.0 or 13.0, say,
# compiles that when it first meets a kernel. An nvcc too old for an entry leaves it out.
CUDA_ARCHS = "8.0;9.0;10.0+PTX;12.0"

# The names that torch knows, and what it compiles for them.
NAMED_ARCHS = {
    "Maxwell": "5.0;5.2+PTX",
    "Maxwell+Tegra": "5.3",
    "Pascal": "6.0;6.1+PTX",
    "Volta": "7.0+PTX",
    "Volta+Tegra": "7.2",
    "Turing": "7.5+PTX",
    "Ampere": "8.0;8.6+PTX",
    "Ampere+Tegra": "8.7",
    "Ada": "8.9+PTX",
    "Hopper": "9.0+PTX",
    "Blackwell": "10.0;10.3;12.0;12.1+PTX",
    "Blackwell+Tegra": "11.0",
}

# The contract, every value the same bits everywhere, forbids the compiler to contract a * b + c or to reorder a
# sum, even if CXXFLAGS allows it. Without errno a sqrt is one instruction, and without traps a branch can become
# a select; neither changes a value.
ARITHMETIC = ["-fno-fast-math", "-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math"]
CUDA_ARITHMETIC = ["--fmad=false", "--ftz=false", "--prec-div=true", "--prec-sqrt=true"]

# What every C++ source is compiled with, those of the tests included.
COMMON = ["-std=c++20", "-Wall", "-Wextra", *ARITHMETIC, f"-I{CSRC}"]

# At -O1 most of the one-line functions are gone before gcc counts lines.
# Atomic: gcov computes some counts as differences of others, which have to fit although threads count at once.
COUNT_LINES = ["-O0", "--coverage", "-fprofile-update=atomic"]

SANITIZE = os.environ.get("FASTINIT_SANITIZE")
WERROR = os.environ.get("FASTINIT_WERROR") == "1"
LDFLAGS = shlex.split(os.environ.get("LDFLAGS", ""))
if SANITIZE:
    # Calls in the place of inline checks, and line numbers only: else the kernels take a quarter of an hour to compile.
    OPTIMISE = ["-O2", "-g1", f"-fsanitize={SANITIZE}", "-fno-sanitize=vptr", "-fno-sanitize-recover=all"]
    OPTIMISE += ["-fno-omit-frame-pointer", "--param=asan-instrumentation-with-call-threshold=0"]
    LDFLAGS.append(f"-fsanitize={SANITIZE}")
elif os.environ.get("FASTINIT_COVERAGE") == "1":
    OPTIMISE = ["-DNDEBUG", *COUNT_LINES]
    LDFLAGS.append("--coverage")
elif os.environ.get("FASTINIT_DEBUG") == "1":
    OPTIMISE = ["-O1", "-g"]
elif os.environ.get("FASTINIT_LINK") == "0":
    OPTIMISE = ["-O0"]  # nothing is going to run
else:
    OPTIMISE = ["-O3", "-DNDEBUG"]

VISIBILITY = ["-fPIC", "-fvisibility=hidden"]
CXX_FLAGS = [
    *shlex.split(os.environ.get("CXXFLAGS", "")),
    *OPTIMISE,
    *COMMON,
    *VISIBILITY,
    "-fvisibility-inlines-hidden",
    *(["-Werror"] if WERROR else []),
]
CUDA_FLAGS = [
    *["-std=c++20", *OPTIMISE, *CUDA_ARITHMETIC, "-Xptxas", "-warn-spills", "--threads", "4", f"-I{CSRC}"],
    *["-Xcompiler", ",".join([*VISIBILITY, "-Wall", "-Wextra", *ARITHMETIC])],
    *(["-Werror", "all-warnings"] if WERROR else []),
]


class Cuda(NamedTuple):
    nvcc: list[str]
    library_dirs: list[str]
    gencode: list[str]
    archs: str
    toolkit: str


def output_of(command: list[str]) -> tuple[int, str]:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.returncode, done.stdout


def instruction_sets(cxx: Sequence[str] = CXX) -> dict[str, list[str]]:
    """The namespaces of cpu/targets.def, for this compiler, and the flags that compile csrc/cpu/*_target.cpp for each."""
    status, lines = output_of([*cxx, "-E", "-P", "-x", "c++", str(CSRC / "cpu" / "targets.def")])
    if status != 0:
        raise SystemExit(f"fastinit: the C++ compiler {shlex.join(cxx)} does not work: {lines}")
    found = re.findall(r'TARGET\((\w+), "[^"]*", "([^"]*)"', lines)
    return {target: [f"-DFASTINIT_TARGET={target}", *flags.split()] for target, flags in found}


def cuda_archs(nvcc: str) -> list[str] | str:
    """What to compile for, such as ["8.0", "9.0+PTX"], or the reason why there is nothing."""
    wanted = os.environ.get("FASTINIT_CUDA_ARCHS") or os.environ.get("TORCH_CUDA_ARCH_LIST")
    known = output_of([nvcc, "--list-gpu-arch"])[1].split()

    def compiles(entry: str) -> bool:
        return f"compute_{entry.partition('+')[0].replace('.', '')}" in known

    if not wanted:
        entries = list(filter(compiles, CUDA_ARCHS.split(";")))
        if not entries:
            return f"{nvcc} knows none of the architectures {CUDA_ARCHS}"
        return entries if any("+" in entry for entry in entries) else [*entries[:-1], f"{entries[-1]}+PTX"]
    entries = []
    for entry in re.split(r"[;, ]+", wanted.strip(";, ")):
        if entry in NAMED_ARCHS:  # as torch does, except that what this nvcc cannot compile is left out
            entries += filter(compiles, NAMED_ARCHS[entry].split(";"))
        elif entry.lower() == "native":
            entries += native_archs()
        elif re.fullmatch(r"\d+\.\d+[af]?(\+PTX)?", entry):
            entries.append(entry)
        else:
            names = ", ".join([*NAMED_ARCHS, "native"])
            raise SystemExit(
                f'fastinit: "{entry}" is no CUDA architecture; write them like "8.0;9.0+PTX", or by name: {names}.'
            )
    return list(dict.fromkeys(entries)) or f"{nvcc} knows no architecture of {wanted}"


def code_for(archs: list[str]) -> tuple[list[str], list[str]]:
    """The flags of nvcc, and what they make: machine code and PTX."""
    flags, names = [], []
    for arch in archs:
        number, _, ptx = arch.replace(".", "").partition("+")
        for kind, code in [("sm", "sm"), ("ptx", "compute")][: 2 if ptx else 1]:
            flags.append(f"-gencode=arch=compute_{number},code={code}_{number}")
            names.append(f"{kind}_{number}")
    return flags, names


def native_archs() -> list[str]:
    """Those of the devices of this machine."""
    import torch

    devices = [torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())]
    if not devices:
        raise SystemExit('fastinit: there is no CUDA device here that "native" could mean.')
    return sorted({f"{major}.{minor}" for major, minor in devices})


def find_cuda() -> Cuda | str:
    """The CUDA compiler, or the reason why the CUDA kernels are left out."""
    if os.environ.get("FASTINIT_CUDA") == "0":
        return "FASTINIT_CUDA=0"
    homes = filter(None, (os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")))
    places = [*(f"{home}/bin/nvcc" for home in homes), "nvcc", "/usr/local/cuda/bin/nvcc"]
    path = next(filter(None, map(shutil.which, places)), None)
    if path is None:
        return "nvcc not found"

    # Preprocessing nothing shows whether nvcc accepts the host compiler, where set-ups usually break, and where
    # the toolkit's libraries are, which the path does not tell: bin/nvcc may be a link or a script.
    nvcc = [path, "-ccbin", CXX[-1]] if "CXX" in os.environ else [path]
    status, log = output_of([*nvcc, "-v", "-x", "cu", "-E", os.devnull])
    if status != 0:
        lines = log.splitlines() or ["it does not say why"]
        problem = next((line for line in lines if "error" in line or "fatal" in line), lines[-1])
        problem = problem.strip().replace('"', "'")  # a C++ string literal holds it
        return f"{shlex.join(nvcc)} does not work: {problem}"
    library_dirs = re.findall(r'-L([^"\s]+)', "".join(re.findall(r"^#\$ LIBRARIES=.*$", log, re.M)))

    entries = cuda_archs(path)
    if isinstance(entries, str):
        return entries
    gencode, names = code_for(entries)
    release = re.search(r"release ([\d.]+)", output_of([path, "--version"])[1])
    return Cuda(nvcc, library_dirs, gencode, " ".join(names), release[1] if release else "unknown")
