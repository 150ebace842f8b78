"""setup.py, on a small extension that has this one's rooms: what is compiled when, and what it says where it cannot."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

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
    "torch/python.cpp": """
#include <Python.h>
namespace plain { int answer(); }
namespace fast { int answer(); }
static PyObject* answer(PyObject*, PyObject*) { return PyLong_FromLong(plain::answer() + fast::answer()); }
static PyMethodDef methods[] = {{"answer", answer, METH_NOARGS, nullptr}, {nullptr, nullptr, 0, nullptr}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};
extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C() { return PyModule_Create(&module); }
""",
}
COMMAND = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name in ("setup.py", "toolchain.py", "pyproject.toml", "README.md", "LICENSE"):
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


def answer(project: Path) -> int:
    program = "from fastinit import _C; print(_C.answer())"
    environment = os.environ | {"PYTHONPATH": str(project / "python")}
    return int(subprocess.run([sys.executable, "-c", program], env=environment, check=True, stdout=-1).stdout)


KERNELS = {"cpu.answer_target-plain.o", "cpu.answer_target-fast.o"}
EVERYTHING = {"cpu.answer.o", "torch.python.o", *KERNELS, "_C.so"}


def test_what_has_changed_is_compiled(project: Path, build: Callable[..., set[str]]) -> None:
    assert build() == EVERYTHING
    assert answer(project) == 84
    (library,) = (project / "python" / "fastinit").glob("_C.*")
    made = library.stat()
    assert build() == set()
    assert library.stat() == made, "nothing is put in place of an equal one"

    (project / "csrc" / "core" / "answer.h").write_text("#define ANSWER 4\n")
    assert build() == {*KERNELS, "_C.so"}
    assert answer(project) == 8
    assert build(CXXFLAGS="-DUNUSED") == EVERYTHING
    (project / "csrc" / "cpu" / "answer.cpp").unlink()
    assert build(CXXFLAGS="-DUNUSED") == {"_C.so"}

    # Another torch builds elsewhere, and what is in place is then its own.
    setup = project / "setup.py"
    setup.write_text(setup.read_text().replace("\nJOBS", "\ntorch.__version__ = '9.9'\nJOBS"))
    assert build() == EVERYTHING - {"cpu.answer.o"}
    folders = {path.name for path in project.glob("build/temp*/torch-*")}
    assert folders == {f"torch-{torch.__version__}", "torch-9.9"}


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
