"""Builds the one extension module, fastinit._C, for `pip install --no-build-isolation .` and `make build`.

Two things here are beyond torch's BuildExtension: a source that is compiled once per instruction set, and CUDA
kernels that do not care which torch they are built beside. So the objects are made by the rules below, and
BuildExtension links them. The metadata is in pyproject.toml. The switches are environment variables:

  CXX, CXXFLAGS, LDFLAGS   as everywhere; a CXX that is set is nvcc's host compiler too
  FASTINIT_CUDA=0|1        0: leave the CUDA kernels out; 1: fail where they cannot be built
  CUDA_HOME, CUDA_PATH     where to look for nvcc before PATH and /usr/local/cuda
  FASTINIT_CUDA_ARCHS      such as "8.0;9.0+PTX"; else TORCH_CUDA_ARCH_LIST, else CUDA_ARCHS below
  FASTINIT_DEBUG=1         -O1 -g and assertions
  FASTINIT_SANITIZE=...    with these of the compiler's sanitizers: address,undefined
  FASTINIT_COVERAGE=1      counting which lines run, for gcov (see `make coverage`)
  FASTINIT_WERROR=1        warnings are errors
  MAX_JOBS                 how many compilers run at a time; by default one per core
"""

import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import setuptools

try:
    import torch
    from torch.utils import cpp_extension
except ImportError:
    # torch is no build requirement in pyproject.toml: pip would download a second torch and build against that.
    raise SystemExit(
        "fastinit: the build needs the torch that fastinit will run with; install torch, then run "
        "`pip install --no-build-isolation .` (or the package's name in place of the dot)."
    ) from None
MINIMUM_SETUPTOOLS = 77
if int(setuptools.__version__.split(".")[0]) < MINIMUM_SETUPTOOLS:
    raise SystemExit(
        f"fastinit: building needs setuptools {MINIMUM_SETUPTOOLS} or newer; this is {setuptools.__version__}."
    )

CSRC = Path(__file__).resolve().parent / "csrc"
KERNELS = set(CSRC.glob("cpu/*_target.cpp"))

DEBUG = os.environ.get("FASTINIT_DEBUG") == "1"
WERROR = os.environ.get("FASTINIT_WERROR") == "1"
JOBS = int(os.environ.get("MAX_JOBS") or len(os.sched_getaffinity(0)))
CXX = shlex.split(os.environ.get("CXX", "")) or [shutil.which("g++") or "c++"]

# Machine code for 8.0 runs on every 8.x, and so on. What is newer than the last (12.0, say) compiles the last
# one's PTX when it first meets a kernel, so +PTX belongs there; an nvcc too old for an entry leaves it out.
CUDA_ARCHS = "8.0;9.0;10.0"

# The contract, every value the same bits everywhere, forbids the compiler to contract a * b + c or to reorder a
# sum, even if CXXFLAGS allows it. Without errno a sqrt is one instruction, and without traps a branch can become
# a select; neither changes a value.
ARITHMETIC = "-fno-fast-math -ffp-contract=off -fno-math-errno -fno-trapping-math"
CUDA_ARITHMETIC = "--fmad=false --ftz=false --prec-div=true --prec-sqrt=true"

OPTIMISE = "-O1 -g" if DEBUG else "-O3 -DNDEBUG"
SANITIZE = os.environ.get("FASTINIT_SANITIZE", "")
if SANITIZE:
    # Calls in the place of inline checks, and line numbers only: else the kernels take a quarter of an hour to compile.
    OPTIMISE = (
        f"-O2 -g1 -fsanitize={SANITIZE} -fno-sanitize=vptr -fno-sanitize-recover=all -fno-omit-frame-pointer "
        "--param=asan-instrumentation-with-call-threshold=0"
    )
COVERAGE = os.environ.get("FASTINIT_COVERAGE") == "1"
if COVERAGE:
    # At -O1 most of the one-line functions are gone before gcc counts lines.
    # Atomic: gcov computes some counts as differences of others, which have to fit although threads count at once.
    OPTIMISE = "-O0 -DNDEBUG --coverage -fprofile-update=atomic"
INSTRUMENT = [*([f"-fsanitize={SANITIZE}"] if SANITIZE else []), *(["--coverage"] if COVERAGE else [])]
CXX_FLAGS = [
    *shlex.split(os.environ.get("CXXFLAGS", "")),
    *f"-std=c++20 -fPIC -fvisibility=hidden -fvisibility-inlines-hidden {OPTIMISE} {ARITHMETIC}".split(),
    *f"-Wall -Wextra {'-Werror' if WERROR else ''}".split(),
    f"-I{CSRC}",
]
HOST_FLAGS = f"-fPIC,-fvisibility=hidden,-Wall,-Wextra,{ARITHMETIC.replace(' ', ',')}"
CUDA_FLAGS = [
    *f"-std=c++20 {OPTIMISE} {CUDA_ARITHMETIC} --threads 4 -Xcompiler {HOST_FLAGS}".split(),
    *(["-Werror", "all-warnings"] if WERROR else []),
    f"-I{CSRC}",
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


def targets() -> dict[str, str]:
    """The instruction sets, for each of which KERNELS are compiled once, and their flags; the list is C++."""
    lines = output_of([*CXX, "-E", "-P", "-x", "c++", str(CSRC / "cpu" / "targets.def")])[1]
    return dict(re.findall(r'TARGET\((\w+), "[^"]*", "([^"]*)"', lines))


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

    wanted = os.environ.get("FASTINIT_CUDA_ARCHS") or os.environ.get("TORCH_CUDA_ARCH_LIST")
    entries = re.split(r"[;, ]+", (wanted or CUDA_ARCHS).strip(";, "))
    if not wanted:
        known = output_of([path, "--list-gpu-arch"])[1].split()
        entries = [entry for entry in entries if f"compute_{entry.replace('.', '')}" in known]
        if not entries:
            return f"{path} knows none of the architectures {CUDA_ARCHS}"
        entries[-1] += "+PTX"
    gencode, names = [], []
    for entry in entries:
        match = re.fullmatch(r"(\d+)\.(\d+[af]?)(\+PTX)?", entry)
        if match is None:
            raise SystemExit(f'fastinit: "{entry}" is no CUDA architecture; write them like "8.0;9.0+PTX".')
        number = match[1] + match[2]
        for kind, code in [("sm", "sm"), ("ptx", "compute")][: 2 if match[3] else 1]:
            gencode.append(f"-gencode=arch=compute_{number},code={code}_{number}")
            names.append(f"{kind}_{number}")
    release = re.search(r"release ([\d.]+)", output_of([path, "--version"])[1])
    return Cuda(nvcc, library_dirs, gencode, " ".join(names), release[1] if release else "unknown")


def compile_object(command: list[str], source: Path, output: Path) -> Path:
    """Compiles where the command, the source or a header it includes has changed; returns the object's path."""
    depfile, stamp = output.with_suffix(".d"), output.with_suffix(".cmd")
    command = [*command, "-MMD", "-MF", str(depfile), "-c", str(source), "-o", str(output)]
    line = shlex.join(command)
    try:
        made = output.stat().st_mtime
        inputs = shlex.split(depfile.read_text().partition(":")[2].replace("\\\n", " "))
        if stamp.read_text() == line and all(Path(name).stat().st_mtime < made for name in inputs):
            return output
    except FileNotFoundError:  # never compiled, or a header has gone
        pass
    print(f"fastinit: {Path(command[0]).name} {output.stem}\n", end="", flush=True)  # one write: threads
    stamp.unlink(missing_ok=True)
    started = time.time()
    status, log = output_of(command)
    print(log, end="", flush=True)
    if status != 0:
        raise SystemExit(f"fastinit: could not compile {source}; the command was\n{line}")
    os.utime(output, (started, started))  # so that a file saved while the compiler ran counts as newer
    stamp.write_text(line)
    return output


class Build(cpp_extension.BuildExtension):
    def run(self) -> None:
        Path(self.build_temp).mkdir(parents=True, exist_ok=True)
        with open(Path(self.build_temp, "lock"), "w") as lock:  # for two `make` at a time
            fcntl.flock(lock, fcntl.LOCK_EX)
            super().run()

    def build_extension(self, ext: setuptools.Extension) -> None:
        ext.extra_objects = [str(path) for path in self.objects(ext)]
        self.force = True  # always link: that takes no time, and the list of objects may have changed
        super().build_extension(ext)

    def objects(self, ext: setuptools.Extension) -> list[Path]:
        # torch's version is there for the rebuild it causes: changes in system headers go unnoticed.
        defines = {"VERSION": self.distribution.get_version(), "TORCH_VERSION": torch.__version__}
        jobs = []  # command, source, the object's name

        cuda = find_cuda()
        if isinstance(cuda, Cuda):
            defines |= {"WITH_CUDA": "1", "CUDA_ARCHS": cuda.archs, "CUDA_TOOLKIT": cuda.toolkit}
            ext.libraries += ["cudart_static", "dl", "rt", "pthread"]
            ext.library_dirs += cuda.library_dirs
            for source in sorted(CSRC.glob("cuda/*.cu")):
                jobs.append(([*cuda.nvcc, *cuda.gencode, *CUDA_FLAGS], source, f"cuda.{source.stem}"))
        elif os.environ.get("FASTINIT_CUDA") == "1":
            raise SystemExit(f"fastinit: FASTINIT_CUDA=1, but {cuda}.")
        else:
            defines |= {"CUDA_MISSING": cuda}
            hint = "" if "=0" in cuda else " (set CUDA_HOME to build the CUDA kernels)"
            print(f"fastinit: {cuda}: building the CPU part only{hint}", flush=True)

        python_headers = sysconfig.get_paths()["include"]
        if not Path(python_headers, "Python.h").exists():
            raise SystemExit(
                f"fastinit: {python_headers}/Python.h is missing; install Python's headers (Debian: python3-dev)."
            )
        # -isystem: warnings from other people's headers are not ours to mend.
        system = [f"-isystem{path}" for path in [*cpp_extension.include_paths(), python_headers]]
        macros = [f'-DFASTINIT_{name}="{value}"' for name, value in defines.items()]
        for source in sorted({*CSRC.glob("torch/*.cpp"), *CSRC.glob("cpu/*.cpp")} - KERNELS):
            command = [*CXX, *CXX_FLAGS, *system, *macros, "-DTORCH_EXTENSION_NAME=_C"]
            jobs.append((command, source, ".".join(source.relative_to(CSRC).with_suffix("").parts)))
        for target, flags in targets().items():
            command = [*CXX, *CXX_FLAGS, f"-DFASTINIT_TARGET={target}", *flags.split()]
            jobs += [(command, source, f"cpu.{source.stem}-{target}") for source in sorted(KERNELS)]

        folder = Path(self.build_temp).resolve()
        with ThreadPoolExecutor(JOBS) as pool:
            return list(pool.map(lambda job: compile_object(job[0], job[1], folder / f"{job[2]}.o"), jobs))


setuptools.setup(
    ext_modules=[
        cpp_extension.CppExtension(
            "fastinit._C",
            sources=[],
            # The static CUDA runtime stays ours: no symbol of it is seen by another library, or taken from one.
            extra_link_args=["-Wl,--exclude-libs,ALL", *INSTRUMENT],
        )
    ],
    cmdclass={"build_ext": Build.with_options(use_ninja=False)},
)
