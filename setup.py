"""Builds the one extension module, fastinit._C, for `pip install --no-build-isolation .` and `make build`.

Two things are beyond torch's BuildExtension: a source that is compiled once per instruction set, and CUDA kernels
that do not care which torch they are built beside. So the commands are written to a build.ninja, and ninja runs them.
The metadata is in pyproject.toml, compilers and flags are in toolchain.py. `python setup.py inplace [FOLDER]` does what
`build_ext --inplace` does, and needs no setuptools; the library goes into the folder. The switches are environment variables:

  CXX, CXXFLAGS, LDFLAGS   as everywhere; a CXX that is set is nvcc's host compiler too
  FASTINIT_CUDA=0|1        0: leave the CUDA kernels out; 1: fail where they cannot be built
  CUDA_HOME, CUDA_PATH     where to look for nvcc before PATH and /usr/local/cuda
  FASTINIT_CUDA_ARCHS      such as "8.0;9.0+PTX", "Hopper" or "native"; else TORCH_CUDA_ARCH_LIST, else CUDA_ARCHS
  FASTINIT_DEBUG=1         -O1 -g and assertions
  FASTINIT_SANITIZE=...    with these of the compiler's sanitizers: address,undefined
  FASTINIT_COVERAGE=1      counting which lines run, for gcov (see `make coverage`)
  FASTINIT_WERROR=1        warnings are errors
  FASTINIT_LINK=0          only compile: with a compiler for another processor than this torch is for (see `make compilers`)
  MAX_JOBS                 how many compilers run at a time; by default one per core
"""

import fcntl
import filecmp
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

INPLACE = sys.argv[1:2] == ["inplace"]
MINIMUM_SETUPTOOLS = 77
if not INPLACE:
    import setuptools
    from setuptools.command.build_ext import build_ext

    if int(setuptools.__version__.split(".")[0]) < MINIMUM_SETUPTOOLS:
        raise SystemExit(
            f"fastinit: the build needs setuptools {MINIMUM_SETUPTOOLS} or newer, and this is {setuptools.__version__}; "
            f'run `python -m pip install "setuptools>={MINIMUM_SETUPTOOLS}"`.'
        )
try:
    import torch
except ImportError:
    # torch is no build requirement in pyproject.toml: pip would download a second torch and build against that.
    raise SystemExit(
        "fastinit: the build needs the torch that fastinit will run with; install torch, then run "
        "`pip install --no-build-isolation .` (or the package's name in place of the dot)."
    ) from None

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # pip does not put it there
from toolchain import CSRC, CUDA_FLAGS, CXX, CXX_FLAGS, LDFLAGS, Cuda, find_cuda, instruction_sets  # noqa: E402

TORCH = Path(torch.__file__).parent  # torch.utils.cpp_extension, which knows it too, imports setuptools
LINK = os.environ.get("FASTINIT_LINK") != "0"
JOBS = os.environ.get("MAX_JOBS") or str(len(os.sched_getaffinity(0)))
RULES = """\
rule compile
  command = $run -MD -MF $out.d -c $in -o $out
  depfile = $out.d
  deps = gcc
  description = $out
rule link
  command = $run -o $out
  description = $out
"""


def find_ninja() -> list[str]:
    if importlib.util.find_spec("ninja"):  # the pip package, whose program need not be on the PATH
        return [sys.executable, "-m", "ninja"]
    if path := shutil.which("ninja"):
        return [path]
    raise SystemExit("fastinit: the build needs ninja; run `python -m pip install ninja`.")


def python_headers() -> str:
    path = sysconfig.get_path("include")
    if not Path(path, "Python.h").exists():
        raise SystemExit(
            f"fastinit: {path}/Python.h is missing; install Python's headers (Debian: python3-dev)."
        )
    return path


def edge(rule: str, output: str, inputs: list[str], command: list[str]) -> str:
    """A build statement of ninja's."""
    names = [name.replace("$", "$$").replace(" ", "$ ").replace(":", "$:") for name in inputs]
    line = shlex.join(command).replace("$", "$$")
    return f"build {output}: {rule} {' '.join(names)}\n  run = {line}\n"


def build_ninja(version: str) -> str:
    """How _C.so is made, in the language of ninja."""
    cuda_sources, cuda_libraries = [], []
    defines = {"VERSION": version, "TORCH_VERSION": torch.__version__}
    cuda = find_cuda()
    if isinstance(cuda, Cuda):
        defines |= {"WITH_CUDA": "1", "CUDA_ARCHS": cuda.archs, "CUDA_TOOLKIT": cuda.toolkit}
        cuda_sources = sorted(CSRC.glob("cuda/*.cu"))
        cuda_libraries = [f"-L{path}" for path in cuda.library_dirs]
        cuda_libraries += ["-lcudart_static", "-ldl", "-lrt", "-lpthread"]
    elif os.environ.get("FASTINIT_CUDA") == "1":
        raise SystemExit(f"fastinit: FASTINIT_CUDA=1, but {cuda}.")
    else:
        defines |= {"CUDA_MISSING": cuda}
        hint = "" if "=0" in cuda else " (set CUDA_HOME to build the CUDA kernels)"
        print(f"fastinit: {cuda}: building the CPU part only{hint}", flush=True)

    # -isystem: warnings from other people's headers are not ours to mend.
    headers = [TORCH / "include", TORCH / "include" / "torch" / "csrc" / "api" / "include", python_headers()]
    system = [f"-isystem{path}" for path in headers]
    macros = [f'-DFASTINIT_{name}="{value}"' for name, value in defines.items()]
    host = [*CXX, *CXX_FLAGS, *system, *macros, "-DTORCH_EXTENSION_NAME=_C"]
    kernels = sorted(CSRC.glob("cpu/*_target.cpp"))
    jobs = [(source, "", [*cuda.nvcc, *cuda.gencode, *CUDA_FLAGS]) for source in cuda_sources]
    jobs += [(s, "", host) for s in sorted({*CSRC.glob("torch/*.cpp"), *CSRC.glob("cpu/*.cpp")} - {*kernels})]
    for target, flags in instruction_sets().items():
        jobs += [(source, f"-{target}", [*CXX, *CXX_FLAGS, *flags]) for source in kernels]
    objects = [f"{source.parent.name}.{source.stem}{suffix}.o" for source, suffix, _ in jobs]
    edges = [edge("compile", name, [str(job[0])], job[2]) for name, job in zip(objects, jobs, strict=True)]

    if not LINK:
        return "".join([RULES, *edges])
    # The static CUDA runtime stays ours: no symbol of it is seen by another library, or taken from one.
    link = [*CXX, "-shared", "-pthread", *LDFLAGS, "-Wl,--exclude-libs,ALL", *objects]
    link += [f"-L{TORCH / 'lib'}", "-lc10", "-ltorch", "-ltorch_cpu", "-ltorch_python", *cuda_libraries]
    return "".join([RULES, *edges, edge("link", "_C.so", objects, link)])


def build(temp: Path, output: Path, version: str) -> None:
    """Runs ninja in a folder for this Python and this torch, and puts the library where it belongs."""
    folder = temp / f"torch-{torch.__version__}"
    folder.mkdir(parents=True, exist_ok=True)
    with open(temp / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # for two `make` at a time
        (folder / "build.ninja").write_text(build_ninja(version))
        command = [*find_ninja(), "-C", str(folder), "-j", JOBS]
        status = subprocess.run(command, env=os.environ | {"NINJA_STATUS": "fastinit: [%f/%t] "}).returncode
        if status != 0:
            raise SystemExit("fastinit: could not be built; what failed stands above.")
        if LINK:
            install(folder / "_C.so", output)


def install(library: Path, output: Path) -> None:
    """Copies in one step, and only what has changed: programs may be using the old one, or be about to load it."""
    if output.exists() and filecmp.cmp(library, output, shallow=False):
        return
    output.parent.mkdir(parents=True, exist_ok=True)
    new = output.with_name(f".new-{output.name}")
    shutil.copy(library, new)
    new.replace(output)


if INPLACE:
    place = f"temp.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    folder = Path(*sys.argv[2:3]) if sys.argv[2:3] else ROOT / "python" / "fastinit"
    library = f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    found = re.search(r'^version = "(.+?)"', (ROOT / "pyproject.toml").read_text(), re.M)
    build(ROOT / "build" / place, folder / library, found[1])
else:

    class Build(build_ext):
        def run(self) -> None:
            output = Path(self.get_ext_fullpath("fastinit._C"))
            build(Path(self.build_temp).resolve(), output, self.distribution.get_version())

    setuptools.setup(
        ext_modules=[setuptools.Extension("fastinit._C", sources=[])],
        cmdclass={"build_ext": Build},
    )
