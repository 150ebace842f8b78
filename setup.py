"""Builds the compiled part for the torch at hand, for `pip install --no-build-isolation .` and `make build`.

Two things are beyond torch's BuildExtension: a source that is compiled once per instruction set, and CUDA kernels
that do not care which torch they are built beside. So the commands are written to a build.ninja (extension.py), and ninja
runs them. The metadata is in pyproject.toml, compilers and flags are in toolchain.py. `python setup.py inplace [FOLDER]`
does what `build_ext --inplace` does, and needs no setuptools; what is built goes into the folder. The switches are
environment variables:

  CXX, CXXFLAGS, LDFLAGS   as everywhere; a CXX that is set is nvcc's host compiler too
  FASTINIT_CUDA=0|1        0: leave the CUDA kernels out; 1: fail where they cannot be built
  CUDA_HOME, CUDA_PATH     where to look for nvcc before PATH and /usr/local/cuda
  FASTINIT_CUDA_ARCHS      such as "8.0;9.0+PTX", "Hopper" or "native"; else TORCH_CUDA_ARCH_LIST, else CUDA_ARCHS
  FASTINIT_DEBUG=1         -O1 -g and assertions
  FASTINIT_SANITIZE=...    with these of the compiler's sanitizers: address,undefined
  FASTINIT_COVERAGE=1      counting which lines run, for gcov (see `make coverage`)
  FASTINIT_WERROR=1        warnings are errors
  FASTINIT_LINK=0          only compile, unoptimised: with a compiler for another processor, for one (see `make compilers`)
  FASTINIT_COMPILED=...    compile nothing, and take what lies in this folder (wheels.py sets it)
  MAX_JOBS                 how many compilers run at a time; by default one per core
"""

import filecmp
import os
import re
import shutil
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
from extension import KERNELS, Module, build_ninja, module_name, run_ninja  # noqa: E402

TORCH = Path(torch.__file__).parent  # torch.utils.cpp_extension, which knows it too, imports setuptools
COMPILED = os.environ.get("FASTINIT_COMPILED")
LINK = os.environ.get("FASTINIT_LINK") != "0"


def python_headers() -> str:
    path = sysconfig.get_path("include")
    if not Path(path, "Python.h").exists():
        raise SystemExit(
            f"fastinit: {path}/Python.h is missing; install Python's headers (Debian: python3-dev)."
        )
    return path


def build(temp: Path, output: Path, version: str) -> list[Path]:
    """Runs ninja, and puts the module and the kernels' library into a folder."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    module = Module(f"torch-{torch.__version__}", TORCH, torch.__version__, python_headers(), suffix)
    built: list[Path] = []

    def put_in_place() -> None:
        for library in (KERNELS, module.output) if LINK else ():
            built.append(output / Path(library).name)
            install(temp / library, built[-1])

    run_ninja(temp, lambda: build_ninja(version, [module], LINK), put_in_place)
    return built


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
    found = re.search(r'^version = "(.+?)"', (ROOT / "pyproject.toml").read_text(), re.M)
    build(ROOT / "build" / place, folder, found[1])
else:
    MODULE = f"fastinit.{module_name(torch.__version__)}"

    class Build(build_ext):
        def run(self) -> None:
            folder = Path(self.get_ext_fullpath(MODULE)).parent
            for old in (
                () if self.inplace else folder.glob("_C_*.so")
            ):  # for another torch, from the same clone
                old.unlink()
            if COMPILED:
                self.made = [folder / path.name for path in sorted(Path(COMPILED).glob("*.so"))]
                for path in self.made:
                    install(Path(COMPILED) / path.name, path)
                return
            self.made = build(Path(self.build_temp).resolve(), folder, self.distribution.get_version())

        def get_outputs(self) -> list[str]:
            return list(map(str, self.made))

    setuptools.setup(ext_modules=[setuptools.Extension(MODULE, sources=[])], cmdclass={"build_ext": Build})
