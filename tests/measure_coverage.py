"""`make coverage`: runs the tests that `make test` runs, and counts the lines that they reach, in Python and in C++.

The compiled part is a build of its own below build/, beside a copy of the package's Python files; the one in use stays as
it is. Python that the tests start anew is counted too, and so are the GPU's loops where test_cuda_on_host.py runs them
on the CPU. The results go to build/coverage/results.json; what follows `--` goes to pytest.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from coverage_table import markdown, percent

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "python" / "fastinit"
BUILD = ROOT / "build" / "coverage"
COUNT = "-O0 --coverage -fprofile-update=atomic"  # as setup.py has it

# Percent of the lines, some below what was measured: less is a loss, which fails.
FLOORS = {"Python": 96.0, "C++": 96.5}


def build() -> None:
    switches = {"FASTINIT_COVERAGE": "1", "FASTINIT_CUDA": "0"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-temp", str(BUILD / "objects")]
    subprocess.run([*command, "--build-lib", str(BUILD)], cwd=ROOT, env=os.environ | switches, check=True)
    for leftover in (*BUILD.rglob("*.gcda"), *(BUILD / "fastinit").rglob("*.py"), *BUILD.glob("data*")):
        leftover.unlink()
    leave_out = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(PACKAGE, BUILD / "fastinit", ignore=leave_out, dirs_exist_ok=True)


def coverage(*arguments: str, check: bool = True) -> int:
    environment = os.environ | {
        "COVERAGE_FILE": str(BUILD / "data"),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(BUILD), os.environ.get("PYTHONPATH")))),
        "CXXFLAGS": f"{os.environ.get('CXXFLAGS', '')} {COUNT}",  # for test_cuda_on_host.py
    }
    command = [sys.executable, "-m", "coverage", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, check=check).returncode


def run_tests(arguments: Iterable[str]) -> bool:
    # With its files below build/, where gcovr finds what was compiled there.
    options = ["-o", f"pythonpath={BUILD} .", "--basetemp", str(BUILD / "tmp")]
    return coverage("run", "-m", "pytest", "tests", *options, *arguments, check=False) == 0


def python_side() -> dict[str, dict[str, Any]]:
    coverage("combine", "--quiet")
    coverage("json", "--quiet", "-o", str(BUILD / "python.json"))
    files = json.loads((BUILD / "python.json").read_text())["files"]
    return {
        name: {
            "lines": file["summary"]["num_statements"],
            "covered": file["summary"]["covered_lines"],
            "branches": file["summary"]["num_branches"],
            "branches_covered": file["summary"]["covered_branches"],
            "missing": ranges(file["missing_lines"]),
        }
        for name, file in sorted(files.items())
    }


def cpp_side() -> dict[str, dict[str, Any]]:
    output = BUILD / "cpp.json"
    command = [sys.executable, "-m", "gcovr", "--root", str(ROOT), "--filter", "csrc/"]
    # A template's instances, and a source's three instruction sets, are the same lines.
    command += ["--merge-mode-functions", "separate", "--merge-lines", "--gcov-executable", gcov()]
    command += ["--gcov-suspicious-hits-threshold", "0"]  # some lines do run 10^10 times
    command += ["--json", str(output), str(BUILD / "objects"), str(BUILD / "tmp")]
    subprocess.run(command, cwd=ROOT, check=True)
    found = {}
    for file in json.loads(output.read_text())["files"]:
        counts: dict[int, int] = {}
        for line in file["lines"]:
            if not line.get("gcovr/noncode"):
                counts[line["line_number"]] = counts.get(line["line_number"], 0) + line["count"]
        found[file["file"]] = {
            "lines": len(counts),
            "covered": sum(count > 0 for count in counts.values()),
            "missing": ranges(line for line, count in counts.items() if count == 0),
        }
    return dict(sorted(found.items()))


def gcov() -> str:
    """The gcov of the compiler in use: gcov-12 reads what g++-12 counts."""
    compiler = (shlex.split(os.environ.get("CXX", "")) or ["g++"])[-1]
    name = re.fullmatch(r"(.*/)?g\+\+(-\d+)?", compiler)
    if name is None:
        raise SystemExit(f"make coverage needs g++, whose counts gcov reads; CXX is {compiler}")
    return f"{name[1] or ''}gcov{name[2] or ''}"


def ranges(lines: Iterable[int]) -> str:
    """1-3, 7"""
    runs: list[list[int]] = []
    for line in sorted(lines):
        if runs and runs[-1][1] == line - 1:
            runs[-1][1] = line
        else:
            runs.append([line, line])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def main(arguments: list[str]) -> int:
    build()
    sys.path[:0] = [str(BUILD), str(ROOT)]
    from benchmarks import machine

    about = machine.describe()
    passed = run_tests(arguments)
    results = {
        "date": about["date"],
        "commit": about["commit"],
        "dirty": about["dirty"],
        "instruction_sets": about["fastinit"]["usable_instruction_sets"],
        "versions": about["versions"],
        "compiler": subprocess.run(
            [gcov(), "--version"], capture_output=True, text=True, check=True
        ).stdout.splitlines()[0],
        "Python": python_side(),
        "C++": cpp_side(),
    }
    (BUILD / "results.json").write_text(json.dumps(results, indent=1) + "\n")
    print(markdown(results))
    print("\nnot reached:")
    for side in FLOORS:
        for name, file in results[side].items():
            if file["missing"]:
                print(f"  {name}: {file['missing']}")
    low = [side for side, floor in FLOORS.items() if percent(results[side].values()) < floor]
    for side in low:
        print(
            f"{side}: {percent(results[side].values()):.1f}% of the lines, which is less than {FLOORS[side]}%"
        )
    if not passed:
        print("tests have failed: the figures are not those of a good run")
    return int(bool(low) or not passed)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
