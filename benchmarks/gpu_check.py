"""A verdict on a machine with a CUDA device, within minutes: `make gpu-check`, or `python -m benchmarks.gpu_check`.

Phases, in an order that leaves the evidence if time runs out: a build for this device alone, a smoke test, the bits against
the CPU, the rows of `python -m benchmarks --device cuda`, compute-sanitizer on a few tests, the kernels once more through
PTX, and the other tests. Each phase has its own time limit, and what is known is written after each: to benchmarks/results,
or to --output. A phase that time cuts short says so and is no failure. The exit status is 0 if everything that ran has
passed; missed targets are reported, but are no failure either.

It needs torch, a C++ compiler, ninja and nvcc for the build, pytest for the bits, and nothing else. `--device cpu` rehearses
it where there is no GPU: the loops of the CUDA kernels on the host, and small rows.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

# Not benchmarks.machine, which needs the extension: it may have to be built first.
ROOT = Path(__file__).resolve().parents[1]
# Warnings are no errors here: an unknown machine's packages have their own, some on import.
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--maxfail", "20", "-W", "default")
CUDA_TESTS = "tests/contract/test_cuda.py"
HOST_TESTS = "tests/contract/test_cuda_on_host.py"
# Few tests, but with whole tiles, partial and shifted ones, and every way to share memory between threads.
SANITIZED = "float32 and (test_contiguous or transposed) or test_rejected_again_and_again"
THROUGH_PTX = "test_rejected or test_contiguous or test_a_key_in_the_memory"
PTX_BUILD = ROOT / "build" / "ptx"
GRACE = 15  # seconds in which a phase that is cut short may say what it has found
SMOKE = """
import sys, torch, fastinit
device = sys.argv[1]
for function in (fastinit.uniform_, fastinit.normal_, fastinit.trunc_normal_, fastinit.sparse_):
    more = {"sparsity": 0.1} if function is fastinit.sparse_ else {}
    a, b = (
        function(torch.empty(999, 1001, device=where), generator=torch.Generator().manual_seed(0), **more)
        for where in (device, "cpu")
    )
    assert torch.equal(a.cpu(), b), f"{function.__name__}: not the CPU's values"
print("the CPU's values on", torch.cuda.get_device_name() if device == "cuda" else device)
"""


@dataclass(frozen=True)
class Phase:
    name: str
    command: tuple[str, ...]
    seconds: float
    environment: dict[str, str] = field(default_factory=dict)
    needs: str = ""  # the phase without which this one has nothing to do


def phases(output: Path, device: str = "cuda") -> list[Phase]:
    smoke = (sys.executable, "-c", SMOKE, device)
    rows = (sys.executable, "-m", "benchmarks", "--output", str(output))
    other = (*PYTEST, "tests", f"--ignore={CUDA_TESTS}")
    build = (sys.executable, "setup.py", "inplace")
    if device == "cpu":
        return [
            Phase("build", build, 600),
            Phase("smoke", smoke, 60, needs="build"),
            Phase("bits", (*PYTEST, HOST_TESTS, "-k", "test_contiguous and float32"), 150, needs="smoke"),
            Phase("rows", (*rows, "--suite", "cuda-rehearsal"), 180, needs="smoke"),
            Phase("the other tests", other, 600, needs="build"),
        ]
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    checked = (sanitizer, "--report-api-errors", "no", "--error-exitcode", "9", "--tool")
    few = (*PYTEST, CUDA_TESTS, "-x", "-k", SANITIZED)
    # Without torch's pools every tensor is an allocation of its own, whose ends the tool can watch.
    alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    native = {"FASTINIT_CUDA_ARCHS": "native", "FASTINIT_CUDA": "1"}
    # Machine code for an older architecture than any current device has, so that the driver compiles; in another place.
    ptx = {"FASTINIT_CUDA_ARCHS": "8.0+PTX", "FASTINIT_CUDA": "1"}
    through = (*PYTEST, CUDA_TESTS, "-o", f"pythonpath={PTX_BUILD} . tests/support", "-k", THROUGH_PTX)
    return [
        Phase("build", build, 200, native),
        Phase("smoke", smoke, 20, needs="build"),
        Phase("bits", (*PYTEST, CUDA_TESTS), 150, needs="smoke"),
        Phase("rows", (*rows, "--device", "cuda"), 180, needs="smoke"),
        Phase("racecheck", (*checked, "racecheck", *few), 60, alone, needs="smoke"),
        Phase("memcheck", (*checked, "memcheck", *few), 60, alone, needs="smoke"),
        Phase("build for PTX", (*build, str(PTX_BUILD / "fastinit")), 150, ptx, needs="bits"),
        Phase("through PTX", through, 60, {"PYTHONPATH": str(PTX_BUILD)}, needs="build for PTX"),
        Phase("the other tests", other, 600, needs="build"),
    ]


def missing(phase: Phase) -> str:
    """What the phase needs and this machine does not have."""
    program = Path(phase.command[0]).name
    if not shutil.which(phase.command[0]):
        return program
    return "pytest" if "pytest" in phase.command and not importlib.util.find_spec("pytest") else ""


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and its children; pytest and the rows get time to show what they have found."""
    for with_signal, seconds in ((signal.SIGINT, GRACE), (signal.SIGKILL, None)):
        with contextlib.suppress(subprocess.TimeoutExpired, ProcessLookupError):
            os.killpg(process.pid, with_signal)
            process.wait(seconds)


def run(phase: Phase, seconds: float, log: Path) -> dict[str, Any]:
    """Run a command into a file, in a process group of its own: what is stopped leaves its last words, and no children."""
    began = time.monotonic()
    with log.open("w") as stream:
        process = subprocess.Popen(
            phase.command,
            cwd=ROOT,
            env=os.environ | phase.environment,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            verdict = "passed" if process.wait(seconds) == 0 else f"FAILED with status {process.returncode}"
        except subprocess.TimeoutExpired:
            verdict = f"cut short after {seconds:.0f} s"
            stop(process)
    lines = log.read_text(errors="replace").splitlines()
    if verdict.startswith("cut") and any(re.search(r"^(FAILED|ERROR) |WRONG: ", line) for line in lines):
        verdict = f"FAILED before it was {verdict}"
    return {
        "verdict": verdict,
        "seconds": round(time.monotonic() - began, 1),
        "last_lines": lines[-1:] if verdict == "passed" else lines[-30:],
    }


def check(
    todo: list[Phase], minutes: float, output: Path, describe: Callable[[], dict[str, Any]] = dict
) -> bool:
    """Run the phases in what time there is, and write what came out after each. Whether nothing failed."""
    output.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + 60 * minutes
    done: dict[str, Any] = {}
    for phase in todo:
        left = deadline - time.monotonic()
        if phase.needs and not done.get(phase.needs, {}).get("verdict", "").startswith("passed"):
            done[phase.name] = {"verdict": f"not run: {phase.needs} has not passed"}
        elif left < 5:
            done[phase.name] = {"verdict": "not run: no time was left"}
        elif lacking := missing(phase):
            done[phase.name] = {"verdict": f"not run: there is no {lacking}"}
        else:
            if phase.name == "through PTX":  # the Python files, beside the library that was just built
                ignored = shutil.ignore_patterns("*.so", "__pycache__")
                shutil.copytree(
                    ROOT / "python" / "fastinit", PTX_BUILD / "fastinit", ignore=ignored, dirs_exist_ok=True
                )
            done[phase.name] = run(phase, min(phase.seconds, left), output / f"gpu-check-{len(done)}.log")
        print(f"{phase.name}: {done[phase.name]['verdict']}", flush=True)
        print("\n".join(f"  {line}" for line in done[phase.name].get("last_lines", ())), flush=True)
        (output / "gpu-check.json").write_text(json.dumps(describe() | {"phases": done}, indent=1) + "\n")
    return not any(result["verdict"].startswith("FAILED") for result in done.values())


def about() -> dict[str, Any]:
    """Where this is. Asked in another process: the extension is being built and replaced."""
    program = "import json; from benchmarks import machine; print(json.dumps(machine.describe()))"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    found: dict[str, Any] = json.loads(done.stdout) if done.returncode == 0 else {"error": done.stderr[-500:]}
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=8.0, help="for everything; default: %(default)s")
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks" / "results", help="default: %(default)s"
    )
    parser.add_argument(
        "--only", metavar="PHASE", nargs="+", help="run these phases alone, whatever they need"
    )
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal")
    parser.add_argument("--commit", help="what is measured, where git does not say")
    options = parser.parse_args(arguments)
    paths = [str(ROOT / "python"), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    import torch

    if options.device == "cuda" and not torch.cuda.is_available():
        print("there is no CUDA device here; --device cpu rehearses the check")
        return 2
    todo = phases(options.output.resolve(), options.device)
    if options.only:
        todo = [replace(phase, needs="") for phase in todo if phase.name in options.only]
    commit = {"commit": options.commit} if options.commit else {}
    return 0 if check(todo, options.minutes, options.output, lambda: about() | commit) else 1


if __name__ == "__main__":
    sys.exit(main())
