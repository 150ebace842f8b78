"""How much memory a rank takes to fill its part of a large tensor, beyond the part: prints bytes for each function.

The system says what the most was that the process had in memory, and forgets it when asked to. One thread, on one
processor: the system's count is exact to a few pages of each.
"""

import ctypes
import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch.distributed.tensor import Shard

from shards import FUNCTIONS, ORTHOGONAL, Call, dtensor, fake_world, mesh_of

MESH = (32, 32)
PLACEMENTS = (Shard(0), Shard(1))


def kib(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def beyond(fill: Callable[[], object]) -> int:
    """The least of a few times: what others of the process did meanwhile comes and goes."""
    found = []
    for _ in range(3):
        ctypes.CDLL(None).malloc_trim(0)  # memory that was freed before is to count, if it is taken again
        Path("/proc/self/clear_refs").write_text("5")
        before = kib("VmRSS")
        fill()
        found.append(kib("VmHWM") - before)
    return min(found) * 1024


def main() -> None:
    os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
    torch.set_num_threads(1)
    found: dict[str, int] = {}
    with fake_world():
        mesh = mesh_of(MESH)
        for name in [name for name in FUNCTIONS if name not in ORTHOGONAL]:
            kernel = () if 2 in FUNCTIONS[name].dims else (3, 3)
            rows = 1 << (14 if kernel else 16)
            shape = (rows, rows, *kernel)
            mesh._coordinate_on_dim = (7, 7)  # with part of the diagonal
            local = torch.zeros(rows // 32, rows // 32, *kernel)
            tensor = dtensor(local, mesh, PLACEMENTS, shape)
            call = Call(
                name, FUNCTIONS[name].arguments(random.Random(1), shape), shape, local.dtype, 0, False
            )
            call(tensor)  # what is loaded, compiled or kept on first use
            found[name] = beyond(lambda call=call, tensor=tensor: call(tensor))
            found[f"{name}, with a copy"] = beyond(
                lambda call=call, tensor=tensor, local=local: (local.clone(), call(tensor))
            )
            assert local.any() or name == "zeros_"
            found["part"] = min(local.nbytes, found.get("part", local.nbytes))
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
