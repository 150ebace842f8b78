"""setup.py, on a small extension that has this one's rooms: what is compiled when, and what it says where it cannot."""

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from extension import module_name

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(not (ROOT / "setup.py").exists(), reason="not in a checkout")

SOURCES = {
    "core/answer.h": "#pragma once\n#define ANSWER 42\n",
    "cpu/targets.def": 'TARGET(plain, "default", "", true)\nTARGET(fast, "fast", "-O1", true)\n',
    "cpu/answer.cpp": "int unused() { return 0; }\n",
    "cpu/answer_target.cpp": """
#include "core/answer.h"
namespace FASTINIT_TARGET { int answer() { return ANSWER; } }
""",
    "kernels/exports.map": "{ global: fastinit_*; local: *; };\n",
    "kernels/interface.cpp": """
namespace plain { int answer(); }
namespace fast { int answer(); }
extern "C" __attribute__((visibility("default"))) int fastinit_answer() { return plain::answer() + fast::answer(); }
""",
    "torch/python.cpp": """
#include <Python.h>
extern "C" int fastinit_answer();
static PyObject* answer(PyObject*, PyObject*) { return PyLong_FromLong(fastinit_answer()); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};
extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C() { return PyModule_Create(&module); }
""",
}
COMMAND = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("setup.py", "extension.py", "toolchain.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name, text in SOURCES.items():
        path = tmp_path / "csrc" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "python" / "fastinit").mkdir(parents=True)
    (tmp_path / "python" / "fastinit" / "__init__.py").touch()
    return tmp_path


@pytest.fixture
def build(project: Path) -> Callable[..., set[str]]:
    def run(**switches: str) -> set[str]:
        """Builds in place; the outputs that ninja has made."""
        environment = os.environ | {"FASTINIT_CUDA": "0"} | switches
        done = subprocess.run(COMMAND, cwd=project, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return {line.split()[-1] for line in done.stdout.splitlines() if line.startswith("fastinit: [")}

    return run


def answer(project: Path, torch_version: str = torch.__version__) -> int:
    """What the module for that torch says, which must find the kernels beside itself."""
    (module,) = (project / "python" / "fastinit").glob(f"{module_name(torch_version)}.*")
    program = f"""
from importlib.util import module_from_spec, spec_from_file_location
print(module_from_spec(spec_from_file_location("fastinit._C", {str(module)!r})).answer())
"""
    return int(subprocess.run([sys.executable, "-c", program], check=True, stdout=-1).stdout)


def outputs(torch_version: str) -> dict[str, str]:
    folder = f"torch-{torch_version}"
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    module = module_name(torch_version) + suffix
    return {"object": f"{folder}/torch.python{suffix.removesuffix('.so')}.o", "module": f"{folder}/{module}"}


HERE = outputs(torch.__version__)
TARGETS = {"kernels/cpu.answer_target-plain.o", "kernels/cpu.answer_target-fast.o"}
KERNELS = {"kernels/cpu.answer.o", "kernels/kernels.interface.o", *TARGETS, "libfastinit_kernels.so"}
EVERYTHING = {*KERNELS, *HERE.values()}


def test_what_has_changed_is_compiled(project: Path, build: Callable[..., set[str]]) -> None:
    assert build() == EVERYTHING
    assert answer(project) == 84
    libraries = sorted((project / "python" / "fastinit").glob("*.so"))
    assert [path.name for path in libraries] == [Path(HERE["module"]).name, "libfastinit_kernels.so"]
    made = [path.stat() for path in libraries]
    assert build() == set()
    assert [path.stat() for path in libraries] == made, "nothing is put in place of an equal one"

    (project / "csrc" / "core" / "answer.h").write_text("#define ANSWER 4\n")
    assert build() == {*TARGETS, "libfastinit_kernels.so"}, "the module needs the kernels' interface only"
    assert answer(project) == 8
    assert build(CXXFLAGS="-DUNUSED") == EVERYTHING
    (project / "csrc" / "cpu" / "answer.cpp").unlink()
    assert build(CXXFLAGS="-DUNUSED") == {"libfastinit_kernels.so"}

    # Another torch has a module of its own, beside this one; the kernels are the same.
    setup = project / "setup.py"
    setup.write_text(setup.read_text().replace("\nROOT", "\ntorch.__version__ = '9.9.1'\nROOT"))
    assert build(CXXFLAGS="-DUNUSED") == set(outputs("9.9.1").values())
    assert answer(project, "9.9.1") == answer(project) == 8
    setup.write_text(setup.read_text().replace("'9.9.1'", f"'{torch.__version__}'"))
    assert build(CXXFLAGS="-DUNUSED") == set()


def test_a_wheel_has_one_module(project: Path) -> None:
    """Though another torch was built with in the same clone."""
    stale = project / "build" / "lib" / "fastinit" / "_C_1_0.so"
    stale.parent.mkdir(parents=True)
    stale.touch()
    command = [sys.executable, "setup.py", "-q", "build", "--build-lib", str(project / "build" / "lib")]
    environment = os.environ | {"FASTINIT_CUDA": "0"}
    done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    there = {path.name for path in stale.parent.glob("*.so")}
    assert there == {Path(HERE["module"]).name, "libfastinit_kernels.so"}


def test_two_at_a_time(project: Path) -> None:
    environment = os.environ | {"FASTINIT_CUDA": "0"}
    builds = [
        subprocess.Popen(COMMAND, cwd=project, env=environment, stdout=-1, stderr=-2, text=True)
        for _ in range(2)
    ]
    logs = [build.communicate()[0] for build in builds]
    assert [build.returncode for build in builds] == [0, 0], logs
    assert sorted("no work to do" in log for log in logs) == [False, True], logs
    assert answer(project) == 84


def test_in_place_without_setuptools(project: Path) -> None:
    program = (
        "import sys, runpy; sys.modules['setuptools'] = None; sys.argv = ['setup.py', 'inplace']; "
        "runpy.run_path('setup.py')"
    )
    environment = os.environ | {"FASTINIT_CUDA": "0"}
    for done in (
        subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True)
        for command in ([sys.executable, "-c", program], COMMAND)
    ):
        assert done.returncode == 0, done.stdout + done.stderr
        assert answer(project) == 84
    assert "no work to do" in done.stdout, "both build in the same place"


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (
            "import setuptools; setuptools.__version__ = '65.5.1'",
            "fastinit: the build needs setuptools 77 or newer, and this is 65.5.1; "
            'run `python -m pip install "setuptools>=77"`.',
        ),
        ("sys.modules['torch'] = None", "fastinit: the build needs the torch that fastinit will run with;"),
        (
            "import importlib.util, shutil; importlib.util.find_spec = shutil.which = lambda *_, **__: None",
            "fastinit: the build needs ninja; run `python -m pip install ninja`.",
        ),
    ],
    ids=["setuptools", "torch", "ninja"],
)
def test_what_is_missing(before: str, expected: str, project: Path) -> None:
    program = f"import sys, runpy; {before}; sys.argv = {COMMAND[1:]}; runpy.run_path('setup.py')"
    environment = os.environ | {"FASTINIT_CUDA": "0", "CXX": "g++"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=project, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith(expected), done.stderr


@pytest.mark.skipif(not shutil.which("make"), reason="no make")
@pytest.mark.parametrize(
    ("settings", "environment"),
    [
        ([], ".venv"),
        (["TORCH=2.11.0"], ".venv-torch2.11.0"),
        ([f"PYTHON={sys.executable}"], ".venv-python{0}.{1}"),
        ([f"PYTHON={sys.executable}", "TORCH=2.11.0"], ".venv-python{0}.{1}-torch2.11.0"),
        (["VENV=mine", "TORCH=2.11.0"], "mine"),
    ],
)
def test_each_python_and_torch_has_an_environment(
    settings: list[str], environment: str, tmp_path: Path
) -> None:
    for name in ("Makefile", "requirements.txt"):
        shutil.copy(ROOT / name, tmp_path)
    variables = {k: v for k, v in os.environ.items() if k not in ("VENV", "PYTHON", "TORCH", "MAKEFLAGS")}
    command = ["make", "-n", "build", *settings]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True, check=True)
    assert f"{environment.format(*sys.version_info)}/bin/python setup.py" in done.stdout
    # torch 2.11 refuses the setuptools that is pinned.
    assert ("s/^setuptools==.*/setuptools>=77/" in done.stdout) == ("TORCH=2.11.0" in settings)
