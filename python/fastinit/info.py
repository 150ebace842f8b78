"""Print what was built, what is in use on this machine, and the versions."""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path
from typing import Any

import torch

from fastinit import _C

Section = dict[str, Any]


def collect() -> dict[str, Section]:
    """Everything that `info` prints, as plain data."""
    build = _C.build_info()
    return {
        "versions": {
            "fastinit": build["version"],
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "built": {
            "instruction_sets": build["cpu_capabilities"],
            "cuda_architectures": build["cuda_architectures"],
            "cuda_missing_reason": build.get("cuda_missing_reason", ""),
            "compiler": build["compiler"],
            "torch": build["torch_built_with"],
            "cuda_toolkit": build.get("cuda_toolkit", ""),
        },
        "active": {
            "instruction_set": _C.cpu_capability(),
            "instruction_set_chosen_by": chosen_by(),
            "threads": torch.get_num_threads(),
            "cpu": cpu_name(),
            "cpu_cores": os.cpu_count(),
            "cuda_devices": cuda_devices(),
            "torch_cuda": torch.version.cuda or "",
        },
    }


def chosen_by() -> str:
    """The environment variable that chose the instruction set; empty if none did."""
    if choice := os.environ.get("FASTINIT_CPU_CAPABILITY"):
        return f"FASTINIT_CPU_CAPABILITY={choice}"
    limit = os.environ.get("ATEN_CPU_CAPABILITY")
    return f"ATEN_CPU_CAPABILITY={limit}" if limit in _C.build_info()["cpu_capabilities"][:-1] else ""


def cpu_name() -> str:
    """The processor's name as the kernel gives it, or its architecture where it gives none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def cuda_devices() -> list[str]:
    if not torch.cuda.is_available():
        return []
    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    return [f"{p.name} (sm_{p.major}{p.minor}, {p.total_memory / 2**30:.0f} GiB)" for p in properties]


def render(data: dict[str, Section]) -> str:
    versions, built, active = data["versions"], data["built"], data["active"]
    if built["cuda_architectures"]:
        toolkit = f" (CUDA toolkit {built['cuda_toolkit']})" if built["cuda_toolkit"] else ""
        kernels = " ".join(built["cuda_architectures"]) + toolkit
    else:
        kernels = f"none: {built['cuda_missing_reason']}"
    no_device = "no device found" if active["torch_cuda"] else "this torch is built without CUDA"
    why = active["instruction_set_chosen_by"] or "the best that this processor and this build share"
    sections = {
        "versions": versions,
        "built": {
            "instruction sets": " ".join(built["instruction_sets"]),
            "CUDA kernels": kernels,
            "compiler": built["compiler"],
            "torch": built["torch"],
        },
        "active": {
            "instruction set": f"{active['instruction_set']} ({why})",
            "threads": f"{active['threads']} (torch.get_num_threads())",
            "processor": f"{active['cpu']}, {active['cpu_cores']} cores",
            "CUDA devices": ", ".join(active["cuda_devices"]) or f"none: {no_device}",
        },
    }
    width = max(len(key) for section in sections.values() for key in section)
    blocks = (
        "\n".join([title, *(f"  {key:<{width}}  {value}" for key, value in section.items())])
        for title, section in sections.items()
    )
    return "\n\n".join(blocks)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print machine-readable data")


def run(args: argparse.Namespace) -> int:
    data = collect()
    print(json.dumps(data, indent=2) if args.json else render(data))
    return 0
