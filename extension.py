"""The compiled part, in the language of ninja: one library of kernels, and a thin module for each Python and torch.

The kernels (csrc/core, cpu, cuda, kernels) know neither torch nor Python. The module (csrc/torch) reaches them by the C
interface csrc/kernels/interface.h, and finds the library beside itself. setup.py builds one module, for the Python that
runs it and the torch that this has; wheels.py builds many.
"""

import fcntl
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from toolchain import (
    CSRC,
    CUDA_FLAGS,
    CXX,
    CXX_FLAGS,
    LDFLAGS,
    SANITIZE,
    Cuda,
    find_cuda,
    instruction_sets,
)

KERNELS = "libfastinit_kernels.so"
KNOW_PYTHON = ("enabled", "log", "python")  # of csrc/torch: the sources that include Python.h
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


def module_name(torch_version: str) -> str:
    """The module for a torch, by the part of its version between whose values C++ interfaces change: _C_2_13."""
    return "_C_" + "_".join(torch_version.split(".")[:2])


class Module(NamedTuple):
    """What a module is compiled against. Its objects and itself go into a folder of their own."""

    folder: str
    torch: Path  # with include/ and lib/
    torch_version: str
    python_headers: str
    suffix: str  # of the file's name, which tells Python's version

    @property
    def file(self) -> str:
        return module_name(self.torch_version) + self.suffix

    @property
    def output(self) -> str:
        return f"{self.folder}/{self.file}"


def find_ninja() -> list[str]:
    if importlib.util.find_spec("ninja"):  # the pip package, whose program need not be on the PATH
        return [sys.executable, "-m", "ninja"]
    if path := shutil.which("ninja"):
        return [path]
    raise SystemExit("fastinit: the build needs ninja; run `python -m pip install ninja`.")


def run_ninja(folder: Path, build_ninja: Callable[[], str], then: Callable[[], None] = lambda: None) -> None:
    """Builds in that folder, which one process at a time does; ninja makes the folders of its outputs."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "build.ninja").write_text(build_ninja())
        jobs = os.environ.get("MAX_JOBS") or str(len(os.sched_getaffinity(0)))
        command = [*find_ninja(), "-C", str(folder), "-j", jobs]
        status = subprocess.run(command, env=os.environ | {"NINJA_STATUS": "fastinit: [%f/%t] "}).returncode
        if status != 0:
            raise SystemExit("fastinit: could not be built; what failed stands above.")
        then()


def edge(rule: str, output: str, inputs: Sequence[str], command: Sequence[str], after: str = "") -> str:
    """A build statement of ninja's; `after`: what has to be there, and may be newer."""
    names = " ".join(name.replace("$", "$$").replace(" ", "$ ").replace(":", "$:") for name in inputs)
    line = shlex.join(command).replace("$", "$$")
    return f"build {output}: {rule} {names}{after and f' || {after}'}\n  run = {line}\n"


def files(link_inputs: Sequence[str]) -> list[str]:
    return [name for name in link_inputs if not name.startswith("-")]


def macros(defines: dict[str, str]) -> list[str]:
    return [f'-DFASTINIT_{name}="{value}"' for name, value in defines.items()]


def shared_library(*inputs: str) -> list[str]:
    # What is linked statically stays ours: no symbol of it is seen by another library, or taken from one.
    return [*CXX, "-shared", "-pthread", *LDFLAGS, "-Wl,--exclude-libs,ALL", *inputs]


def kernels_edges(version: str, link: bool, output: str, more: Sequence[str]) -> list[str]:
    cuda_sources, cuda_libraries = [], []
    defines = {"VERSION": version}
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

    once = {*CSRC.glob("cpu/*.cpp"), *CSRC.glob("kernels/*.cpp")}
    each = sorted(CSRC.glob("cpu/*_target.cpp"))
    jobs = [(source, "", [*cuda.nvcc, *cuda.gencode, *CUDA_FLAGS]) for source in cuda_sources]
    host = [*CXX, *CXX_FLAGS]
    jobs += [
        (source, "", [*host, *(macros(defines) if source.parent.name == "kernels" else [])])
        for source in sorted(once - {*each})
    ]
    for target, flags in instruction_sets().items():
        jobs += [(source, f"-{target}", [*host, *flags]) for source in each]
    objects = [f"kernels/{source.parent.name}.{source.stem}{suffix}.o" for source, suffix, _ in jobs]
    edges = [edge("compile", name, [str(job[0])], job[2]) for name, job in zip(objects, jobs, strict=True)]
    if link:
        script = CSRC / "kernels" / "exports.map"
        command = shared_library(f"-Wl,-soname,{KERNELS}", f"-Wl,--version-script={script}", *objects)
        command += [*cuda_libraries, *more]
        if not SANITIZE:  # whose runtime the program has
            command.append("-Wl,--no-undefined")
        edges.append(edge("link", output, [*objects, *files(more)], command))
    return edges


def module_edges(
    modules: Sequence[Module], link: bool, kernels: str, folder: str, more: Sequence[str]
) -> list[str]:
    """Most of a module's objects know torch only, and serve every Python."""
    edges = {}
    for module in modules:
        # -isystem: warnings from other people's headers are not ours to mend.
        include = module.torch / "include"
        headers = [f"-isystem{path}" for path in (include, include / "torch" / "csrc" / "api" / "include")]
        command = [*CXX, *CXX_FLAGS, *headers, *macros({"TORCH_VERSION": module.torch_version})]
        objects = []
        for source in sorted(CSRC.glob("torch/*.cpp")):
            if source.stem in KNOW_PYTHON:
                name = f"{module.folder}/torch.{source.stem}{module.suffix.removesuffix('.so')}.o"
                extra = [f"-isystem{module.python_headers}", "-DTORCH_EXTENSION_NAME=_C"]
            else:
                name, extra = f"{module.folder}/torch.{source.stem}.o", []
            objects.append(name)
            edges[name] = edge("compile", name, [str(source)], [*command, *extra])
        if link:
            libraries = [kernels, "-Wl,-rpath,$ORIGIN", f"-L{module.torch / 'lib'}"]
            libraries += ["-lc10", "-ltorch", "-ltorch_cpu", "-ltorch_python", *more]
            output = folder + module.output
            command = shared_library(*objects, *libraries)
            edges[output] = edge("link", output, [*objects, *files(more)], command, after=kernels)
    return [*edges.values()]


def build_ninja(
    version: str, modules: Sequence[Module], link: bool = True, folder: str = "", more: Sequence[str] = ()
) -> str:
    """How the library and those modules are made, into a folder; `more`: what else they are linked with."""
    kernels = folder + KERNELS
    edges = [
        *kernels_edges(version, link, kernels, more),
        *module_edges(modules, link, kernels, folder, more),
    ]
    return "".join([RULES, *edges])
