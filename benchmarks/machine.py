"""Where, when and of what a measurement was made."""

from __future__ import annotations

import importlib
import os
import platform
import re
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from benchmarks.libraries import capabilities
from benchmarks.memory import status_bytes
from fastinit import info

ROOT = Path(__file__).parents[1]
RESULTS = "benchmarks/results"


def describe() -> dict[str, Any]:
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD"),
        "dirty": bool(git("status", "--porcelain", "--", ".", f":!{RESULTS}")),
        "machine": {
            "cpu": info.cpu_name(),
            "cores": len(os.sched_getaffinity(0)),
            "caches": caches(),
            "memory_bytes": status_bytes("/proc/meminfo", "MemTotal"),
            "huge_pages": chosen("/sys/kernel/mm/transparent_hugepage/enabled"),
            "system": platform.platform(),
            "load_before": os.getloadavg()[0],
        },
        "versions": {name: version(name) for name in ("torch", "numpy", "jax")}
        | {"python": platform.python_version()},
        "device": device(),
        "fastinit": info.collect() | {"usable_instruction_sets": list(capabilities())},
        "threads": torch.get_num_threads(),
    }


def device() -> dict[str, Any] | None:
    """The GPU, if there is one."""
    if not torch.cuda.is_available():
        return None
    p = torch.cuda.get_device_properties(0)
    return {
        "name": p.name,
        "capability": f"{p.major}.{p.minor}",
        "multiprocessors": p.multi_processor_count,
        "memory_bytes": p.total_memory,
        "count": torch.cuda.device_count(),
    }


def file_name(suite: str) -> str:
    """<processor>-<cores>-<torch>-<suite>, or <gpu>-<torch>, fit for a file."""
    release = torch.__version__.split("+")[0]
    words = (info.cpu_name(), f"{len(os.sched_getaffinity(0))} cores", release, suite)
    if suite == "cuda" and torch.cuda.is_available():
        words = (torch.cuda.get_device_name(), release)
    return "-".join(re.sub(r"[^a-z0-9.]+", "-", word.lower()).strip("-") for word in words)


def git(*arguments: str) -> str:
    """What git says; empty where there is no git or no repository."""
    try:
        return subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def version(module: str) -> str:
    try:
        return str(importlib.import_module(module).__version__)
    except ImportError:
        return ""


def caches() -> dict[str, str]:
    """The caches that the first core uses."""
    found = {}
    for cache in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        level, kind, size = (read(cache / name) for name in ("level", "type", "size"))
        found[f"L{level} {kind.lower()}"] = size
    return found


def chosen(path: str) -> str:
    """The word in brackets, which is how the kernel marks a choice."""
    match = re.search(r"\[(\w+)\]", read(Path(path)))
    return match[1] if match else ""


def read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
