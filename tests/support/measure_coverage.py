"""`make coverage`: runs the tests that `make test` runs, and prints the lines that they do not reach, in Python and in C++.

The compiled part is a build of its own below build/, beside a copy of the package's Python files; the one in use stays as
it is. Python that the tests start anew is counted too, and so are the GPU's loops where test_cuda_on_host.py runs them
on the CPU. What follows `--` goes to pytest.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "coverage"

sys.path.insert(0, str(ROOT))
import toolchain  # noqa: E402

# Percent of the lines, some below what was measured: less is a loss, which fails.
PYTHON_FLOOR = "96"
CPP_FLOOR = "96.5"


def run(*command: str, **variables: str) -> bool:
    environment = os.environ | {"COVERAGE_FILE": str(BUILD / "data")} | variables
    return subprocess.run([sys.executable, *command], cwd=ROOT, env=environment).returncode == 0


def gcov() -> str:
    """The gcov of the compiler in use: gcov-12 reads what g++-12 counts."""
    name = re.fullmatch(r"(.*/)?g\+\+(-\d+)?", toolchain.CXX[-1])
    if name is None:
        raise SystemExit(f"make coverage needs g++, whose counts gcov reads; CXX is {toolchain.CXX[-1]}")
    return f"{name[1] or ''}gcov{name[2] or ''}"


def main(arguments: list[str]) -> int:
    gcov_command = gcov()
    shutil.rmtree(BUILD, ignore_errors=True)
    package = BUILD / "fastinit"
    ignore = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "python" / "fastinit", package, ignore=ignore)
    build = ["setup.py", "-q", "build_ext", "--build-temp", str(BUILD / "objects"), "--build-lib", str(BUILD)]
    if not run(*build, FASTINIT_COVERAGE="1", FASTINIT_CUDA="0"):
        return 1

    # What they compile lies below build/, where gcovr finds it.
    temporary = BUILD / "tmp"
    temporary.mkdir()
    tests = ["pytest", "tests", "-o", f"pythonpath={BUILD} . tests/support"]
    path = os.pathsep.join(filter(None, (str(BUILD), os.environ.get("PYTHONPATH"))))
    flags = shlex.join([*shlex.split(os.environ.get("CXXFLAGS", "")), *toolchain.COUNT_LINES])
    variables = {"PYTHONPATH": path, "CXXFLAGS": flags, "TMPDIR": str(temporary)}
    passed = run("-m", "coverage", "run", "-m", *tests, *arguments, **variables)

    run("-m", "coverage", "combine", "--quiet")
    report = ["report", "--show-missing", "--skip-covered", "--fail-under", PYTHON_FLOOR]
    enough_python = run("-m", "coverage", *report)
    # A template's instances, and a source's three instruction sets, are the same lines. Some run 10^10 times.
    options = ["--root", str(ROOT), "--filter", "csrc/", "--gcov-executable", gcov_command]
    options += [
        "--merge-mode-functions",
        "separate",
        "--merge-lines",
        "--gcov-suspicious-hits-threshold",
        "0",
    ]
    report = ["--txt", "--fail-under-line", CPP_FLOOR, str(BUILD / "objects"), str(temporary)]
    enough_cpp = run("-m", "gcovr", *options, *report)
    if not passed:
        print("tests have failed: the figures are not those of a good run")
    return int(not (passed and enough_python and enough_cpp))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
