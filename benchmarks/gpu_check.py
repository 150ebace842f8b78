"""All there is to find out on a machine with a CUDA device, within a few minutes: `make gpu-check`.

    the tests of the CUDA kernels, the benchmarks below beside torch, compute-sanitizer on a few tests, the tests once
    more with the kernels compiled from PTX by the driver, and the rest of the test suite

in this order, each part within what time is left, so that the evidence is there if time is not. It is written to
benchmarks/results/<gpu>-torch-<version>.json as it comes in. The exit status is 0 if every part that ran has passed;
targets that are missed are reported, but no failure.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import fastinit
from benchmarks import machine

ROOT = machine.ROOT
PYTEST = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
# Few tests, but with whole tiles, partial ones, and every way to share memory between threads.
SANITIZED = "float32 and (test_contiguous or transposed) or test_rejected_again_and_again"
THROUGH_PTX = "test_rejected or test_contiguous or test_a_key_in_the_memory"

Init = Any  # torch.nn.init or fastinit


# ---------------------------------------------------------------------------------------------------------------
# Rows


@dataclass
class Row:
    """Something to fill, and how: with torch.nn.init, with fastinit, and with one value."""

    name: str
    make: Callable[[], list[Tensor]]
    fill: Callable[[Init, Tensor], Any]
    repeats: int = 20
    bits: bool = True  # equal to the CPU's, to the last bit
    ratio: float | None = None  # the target: torch's time over fastinit's
    share: float | None = None  # the target: fill_'s time over fastinit's
    most_ms: float | None = None


def rows(device: str, scale: int) -> Iterator[Row]:
    """The rows of the table that the kernels were built for. `scale` divides the sizes, for a rehearsal."""
    elements = 2**30 // scale
    side = 4096 if scale == 1 else 256

    def vector(dtype: torch.dtype) -> Callable[[], list[Tensor]]:
        return lambda: [torch.empty(elements, dtype=dtype, device=device)]

    targets = {
        ("uniform_", torch.float32): (1.0, 0.95),
        ("uniform_", torch.bfloat16): (1.2, 0.6),
        ("normal_", torch.float32): (1.2, 0.75),
        ("normal_", torch.bfloat16): (1.2, 0.4),
        ("trunc_normal_", torch.float32): (10.0, 0.5),
        ("trunc_normal_", torch.bfloat16): (10.0, 0.5),
    }
    for (op, dtype), (ratio, share) in targets.items():
        repeats = 6 if op == "trunc_normal_" else 20
        name = f"{op} {elements} {dtype}".replace("torch.", "")
        yield Row(name, vector(dtype), call(op), repeats, ratio=ratio, share=share)

    def matrix() -> list[Tensor]:
        return [torch.empty(side, side, device=device)]

    yield Row(f"sparse_ {side} x {side} float32", matrix, call("sparse_", 0.1), 3, ratio=300.0)
    yield Row(f"orthogonal_ {side} x {side} float32", matrix, call("orthogonal_"), 3, bits=False)

    def model() -> list[Tensor]:
        return [torch.empty(shape, dtype=torch.bfloat16, device=device) for shape in parameters(scale)]

    yield Row("8 G parameters bfloat16", model, call("normal_", 0.0, 0.02), 5, ratio=1.5, most_ms=40.0)


def call(op: str, *arguments: float) -> Callable[[Init, Tensor], Any]:
    return lambda init, tensor: getattr(init, op)(tensor, *arguments)


def parameters(scale: int) -> list[tuple[int, ...]]:
    """The matrices of a decoder of 8 billion parameters (32 layers, 4096 wide, grouped queries)."""
    wide, hidden, words = 4096, 14336, 128256 // scale
    layer = [
        (wide, wide),
        (1024, wide),
        (1024, wide),
        (wide, wide),
        (hidden, wide),
        (hidden, wide),
        (wide, hidden),
    ]
    return [(words, wide), *(layer * 32 if scale == 1 else [(64, 64)] * 7), (words, wide)]


# ---------------------------------------------------------------------------------------------------------------
# Measuring


class Timer:
    """Milliseconds on the device, or on the host where that is the device."""

    def __init__(self, device: str) -> None:
        self.on_gpu = device == "cuda"

    def time(self, work: Callable[[], object]) -> float:
        if not self.on_gpu:
            begin = time.perf_counter()
            work()
            return 1e3 * (time.perf_counter() - begin)
        begin_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin_event.record()
        work()
        end_event.record()
        torch.cuda.synchronize()
        return float(begin_event.elapsed_time(end_event))


def measure(row: Row, timer: Timer) -> dict[str, Any]:
    tensors = row.make()
    wrong = examine(row, tensors[0])

    def fill(init: Init) -> Callable[[], None]:
        return lambda: [row.fill(init, tensor) for tensor in tensors] and None

    sides: dict[str, Callable[[], Any]] = {
        "torch": fill(torch.nn.init),
        "fastinit": fill(fastinit),
        "fill_": lambda: [tensor.fill_(1.0) for tensor in tensors],
    }
    for work in sides.values():
        work()  # loads kernels, fills caches of memory
    times: dict[str, list[float]] = {name: [] for name in sides}
    deadline = time.monotonic() + 20
    for _ in range(row.repeats):
        for name, work in sides.items():  # in turns: a drift of the clock meets them all
            times[name].append(timer.time(work))
        if time.monotonic() > deadline:
            break
    medians = {name: statistics.median(values) for name, values in times.items()}
    count = sum(tensor.numel() for tensor in tensors)
    size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
    result = {
        "name": row.name,
        "elements": count,
        "wrong": wrong,
        "median_ms": medians,
        "min_ms": {name: min(values) for name, values in times.items()},
        "runs": len(times["fastinit"]),
        "gigabytes_per_second": size / medians["fastinit"] / 1e6,
        "ratio": medians["torch"] / medians["fastinit"],
        "share_of_fill": medians["fill_"] / medians["fastinit"],
        "targets": {"ratio": row.ratio, "share_of_fill": row.share, "most_ms": row.most_ms},
    }
    result["met"] = (
        not wrong
        and (row.ratio is None or result["ratio"] >= row.ratio)
        and (row.share is None or result["share_of_fill"] >= row.share)
        and (row.most_ms is None or medians["fastinit"] < row.most_ms)
    )
    return result


def examine(row: Row, tensor: Tensor) -> str:
    """What is wrong with the values that fastinit draws; nothing is timed before this."""
    tensor.fill_(float("nan"))
    generators = [torch.Generator().manual_seed(0) for _ in range(2)]
    row.fill(With(fastinit, generators[0]), tensor)
    if not row.bits:
        q = tensor.double()
        error = (q.T @ q - torch.eye(q.shape[1], dtype=q.dtype, device=q.device)).abs().max().item()
        return "" if error < 1e-5 else f"max |Q'Q - I| = {error:.1e}"
    wanted = torch.empty(tensor.shape, dtype=tensor.dtype)
    row.fill(With(fastinit, generators[1]), wanted)
    parts = zip(tensor.flatten().split(2**28), wanted.flatten().split(2**28), strict=True)
    return "" if all(torch.equal(a, b.to(a.device)) for a, b in parts) else "not the CPU's values"


class With:
    """An init module whose functions take their keys from this generator."""

    def __init__(self, init: Init, generator: torch.Generator) -> None:
        self.init, self.generator = init, generator

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda *arguments: getattr(self.init, name)(*arguments, generator=self.generator)


# ---------------------------------------------------------------------------------------------------------------
# The other parts, each a command


@dataclass
class Check:
    output: Path | None
    deadline: float
    rehearsal: bool
    result: dict[str, Any] = field(default_factory=dict)
    passed: bool = True  # so far

    def left(self) -> float:
        return self.deadline - time.monotonic()

    def save(self) -> None:
        if self.output is not None:
            self.output.parent.mkdir(parents=True, exist_ok=True)
            self.output.write_text(json.dumps(self.result, indent=1) + "\n")

    def command(self, part: str, command: list[str], most: float = 600, **env: str) -> bool:
        """Runs a command in what time is left; True if it has succeeded."""
        seconds = min(most, self.left())
        print(f"== {part}: {' '.join(command)}", flush=True)
        if self.rehearsal or seconds < 5:
            self.result[part] = "not run: a rehearsal" if self.rehearsal else "not run: no time was left"
            return False
        began = time.monotonic()
        # Into a file, and in a session of its own: what is stopped leaves its last words, and no children.
        log = Path("build", f"gpu-check-{re.sub(r'[^a-z]+', '-', part)}.log")
        log.parent.mkdir(exist_ok=True)
        with log.open("w") as stream:
            process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=os.environ | env,
                stdout=stream,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                status: int | str = process.wait(seconds)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, 9)
                process.wait()
                status = f"stopped after {seconds:.0f} s"
        lines = log.read_text(errors="replace").splitlines()
        self.result[part] = {
            "status": status,
            "seconds": round(time.monotonic() - began, 1),
            "last_lines": lines[-1:] if status == 0 else lines[-25:],
        }
        print("\n".join(lines[-1:] if status == 0 else lines[-40:]), flush=True)
        self.passed &= status == 0
        self.save()
        return status == 0


def sanitize(check: Check) -> None:
    tool = shutil.which("compute-sanitizer") or shutil.which("/usr/local/cuda/bin/compute-sanitizer")
    if tool is None:
        check.result["sanitizer"] = "not run: there is no compute-sanitizer"
        return
    tests = [*PYTEST, "tests/contract/test_cuda.py", "-x", "-k", SANITIZED]
    for name in ("racecheck", "memcheck"):
        # Without torch's pools every tensor is an allocation of its own, whose ends the tool can watch.
        check.command(
            name,
            [tool, "--tool", name, "--error-exitcode", "9", *tests],
            60,
            PYTORCH_NO_CUDA_MEMORY_CACHING="1",
        )


def through_ptx(check: Check) -> None:
    """A build whose machine code is for an older architecture than any current device has: the driver compiles."""
    library = ROOT / "build" / "ptx"
    build = [
        sys.executable,
        "setup.py",
        "-q",
        "build_ext",
        "--build-temp",
        "build/ptx-temp",
        "--build-lib",
        str(library),
    ]
    if check.command("build for PTX", build, 150, FASTINIT_CUDA_ARCHS="8.0+PTX", FASTINIT_CUDA="1"):
        shutil.copytree(
            ROOT / "python" / "fastinit",
            library / "fastinit",
            ignore=shutil.ignore_patterns("*.so", "__pycache__"),
            dirs_exist_ok=True,
        )
        options = ["-o", f"pythonpath={library}", "-k", THROUGH_PTX]
        check.command(
            "tests through PTX", [*PYTEST, "tests/contract/test_cuda.py", *options], PYTHONPATH=str(library)
        )


def describe_device() -> dict[str, Any]:
    p = torch.cuda.get_device_properties(0)
    return {
        "name": p.name,
        "capability": f"{p.major}.{p.minor}",
        "multiprocessors": p.multi_processor_count,
        "memory_bytes": p.total_memory,
        "count": torch.cuda.device_count(),
    }


def file_name(device: str) -> str:
    words = f"{device} torch {torch.__version__.split('+')[0]}"
    return re.sub(r"[^a-z0-9.]+", "-", words.lower()).strip("-") + ".json"


def table(results: list[dict[str, Any]]) -> str:
    lines = [f"{'':36}{'torch':>10}{'fastinit':>10}{'fill_':>10}  ms{'ratio':>9}{'share':>7}  targets"]
    for row in results:
        times = "".join(f"{row['median_ms'][side]:10.3f}" for side in ("torch", "fastinit", "fill_"))
        verdict = row["wrong"] or ("met" if row["met"] else f"MISSED {row['targets']}")
        lines.append(f"{row['name']:36}{times}    {row['ratio']:9.2f}{row['share_of_fill']:7.2f}  {verdict}")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=6.0, help="for everything but the build (6)")
    parser.add_argument(
        "--dry-run", action="store_true", help="rehearse on the CPU: small rows, nothing else, no file"
    )
    parser.add_argument("--only-rows", action="store_true", help="the benchmarks, and nothing else")
    parser.add_argument("--commit", help="what was measured, where git does not say")
    options = parser.parse_args()
    if not options.dry_run and not torch.cuda.is_available():
        print("there is no CUDA device here; --dry-run rehearses without one", file=sys.stderr)
        return 2
    device = "cpu" if options.dry_run else "cuda"

    result = machine.describe()
    result["commit"] = options.commit or result["commit"]
    output = None
    if not options.dry_run:
        result["device"] = describe_device()
        output = ROOT / machine.RESULTS / file_name(result["device"]["name"])
    check = Check(output, time.monotonic() + 60 * options.minutes, options.dry_run, result)

    if not options.only_rows:
        check.command("tests of the CUDA kernels", [*PYTEST, "tests/contract/test_cuda.py"], 150)

    result["rows"] = []
    for row in rows(device, 1024 if options.dry_run else 1):
        try:
            result["rows"].append(measure(row, Timer(device)))
        except Exception as error:  # one row less is no reason to lose the others
            result["rows"].append(failed := {"name": row.name, "error": f"{type(error).__name__}: {error}"})
            print(failed, flush=True)
        if device == "cuda":
            torch.cuda.empty_cache()
        check.save()
    print(table([row for row in result["rows"] if "error" not in row]), flush=True)
    check.passed &= all("error" not in row and not row["wrong"] for row in result["rows"])

    if not options.only_rows:
        sanitize(check)
        through_ptx(check)
        check.command("the other tests", [*PYTEST, "tests", "--ignore=tests/contract/test_cuda.py"])
    check.save()
    if output is not None:
        print(f"wrote {output}")
    return 0 if check.passed or options.dry_run else 1


if __name__ == "__main__":
    sys.exit(main())
