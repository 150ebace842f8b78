"""A verdict on a machine with a CUDA device, within minutes: `make gpu-check`.

Phases, in an order that leaves the evidence if time runs out: a smoke test, the bits against the CPU, the rows of
`python -m benchmarks --device cuda`, compute-sanitizer on a few tests, the kernels once more through PTX, and the other
tests. Each phase has its own time limit, and what is known is written after each: to benchmarks/results, or to --output.
A phase that time cuts short says so and is no failure. The exit status is 0 if everything that ran has passed; missed
targets are reported, but are no failure either.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine

ROOT = machine.ROOT
PYTEST = (sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")
CUDA_TESTS = "tests/contract/test_cuda.py"
# Few tests, but with whole tiles, partial ones, and every way to share memory between threads.
SANITIZED = "float32 and (test_contiguous or transposed) or test_rejected_again_and_again"
THROUGH_PTX = "test_rejected or test_contiguous or test_a_key_in_the_memory"
SMOKE = """
import torch, fastinit
a = fastinit.normal_(torch.empty(1000, 1000, device="cuda"), generator=torch.Generator().manual_seed(0))
b = fastinit.normal_(torch.empty(1000, 1000), generator=torch.Generator().manual_seed(0))
assert torch.equal(a.cpu(), b), "not the CPU's values"
print("the same values on", torch.cuda.get_device_name())
"""


@dataclass(frozen=True)
class Phase:
    name: str
    command: tuple[str, ...]
    seconds: float
    environment: dict[str, str] = field(default_factory=dict)
    needs: str = ""  # the phase without which this one has nothing to do


def phases(output: Path) -> list[Phase]:
    sanitizer = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    checked = (sanitizer, "--report-api-errors", "no", "--error-exitcode", "9", "--tool")
    few = (*PYTEST, CUDA_TESTS, "-x", "-k", SANITIZED)
    # Without torch's pools every tensor is an allocation of its own, whose ends the tool can watch.
    alone = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    library = ROOT / "build" / "ptx"
    temp = ("--build-temp", str(ROOT / "build" / "ptx-temp"))
    build = (sys.executable, "setup.py", "-q", "build_ext", *temp, "--build-lib", str(library))
    # Machine code for an older architecture than any current device has, so that the driver compiles.
    ptx = {"FASTINIT_CUDA_ARCHS": "8.0+PTX", "FASTINIT_CUDA": "1"}
    rows = (sys.executable, "-m", "benchmarks", "--device", "cuda", "--output", str(output))
    through = (*PYTEST, CUDA_TESTS, "-o", f"pythonpath={library} . tests/support", "-k", THROUGH_PTX)
    found = [
        Phase("smoke", (sys.executable, "-c", SMOKE), 60),
        Phase("bits", (*PYTEST, CUDA_TESTS), 150, needs="smoke"),
        Phase("rows", rows, 180, needs="smoke"),
        Phase("racecheck", (*checked, "racecheck", *few), 60, alone, needs="smoke"),
        Phase("memcheck", (*checked, "memcheck", *few), 60, alone, needs="smoke"),
        Phase("build for PTX", build, 150, ptx),
        Phase("through PTX", through, 60, {"PYTHONPATH": str(library)}, needs="build for PTX"),
        Phase("the other tests", (*PYTEST, "tests", f"--ignore={CUDA_TESTS}"), 600),
    ]
    return [phase for phase in found if shutil.which(phase.command[0])]


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
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            verdict = f"cut short after {seconds:.0f} s"
    lines = log.read_text(errors="replace").splitlines()
    return {
        "verdict": verdict,
        "seconds": round(time.monotonic() - began, 1),
        "last_lines": lines[-1:] if verdict == "passed" else lines[-30:],
    }


def check(todo: list[Phase], minutes: float, output: Path, about: dict[str, Any]) -> bool:
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
        else:
            if phase.name == "through PTX":  # the Python files, beside the library that was just built
                ignored = shutil.ignore_patterns("*.so", "__pycache__")
                package = ROOT / "build" / "ptx" / "fastinit"
                shutil.copytree(ROOT / "python" / "fastinit", package, ignore=ignored, dirs_exist_ok=True)
            done[phase.name] = run(phase, min(phase.seconds, left), output / f"gpu-check-{len(done)}.log")
        print(f"{phase.name}: {done[phase.name]['verdict']}", flush=True)
        print("\n".join(f"  {line}" for line in done[phase.name].get("last_lines", ())), flush=True)
        (output / "gpu-check.json").write_text(json.dumps(about | {"phases": done}, indent=1) + "\n")
    return not any(result["verdict"].startswith("FAILED") for result in done.values())


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--minutes", type=float, default=8.0, help="for everything but the build; default: %(default)s"
    )
    parser.add_argument("--output", type=Path, default=ROOT / machine.RESULTS, help="default: %(default)s")
    parser.add_argument("--only", metavar="PHASE", nargs="+", help="run these phases alone")
    parser.add_argument("--commit", help="what is measured, where git does not say")
    options = parser.parse_args(arguments)
    if not torch.cuda.is_available():
        print(
            "there is no CUDA device here; `python -m benchmarks --suite cuda-rehearsal` runs small rows on the CPU"
        )
        return 2
    about = machine.describe()
    about["commit"] = options.commit or about["commit"]
    todo = [phase for phase in phases(options.output) if not options.only or phase.name in options.only]
    return 0 if check(todo, options.minutes, options.output, about) else 1


if __name__ == "__main__":
    sys.exit(main())
