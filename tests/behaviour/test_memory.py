"""Tensors in memory that nobody has touched yet: huge pages are asked for where one lies in a tensor whole, and nowhere else."""

import mmap
import sys
from pathlib import Path

import pytest
import torch

import fastinit

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MIB = 1 << 20

pytestmark = pytest.mark.skipif(
    not sys.platform.startswith("linux") or not SETTING.exists() or "[never]" in SETTING.read_text(),
    reason="the system has no huge pages to give",
)


def asked(tensor: torch.Tensor) -> bool:
    """Whether the mapping that the tensor's middle is in is flagged for huge pages."""
    middle = tensor.data_ptr() + tensor.nbytes // 2
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if not first.endswith(":"):
            begin, end = (int(x, 16) for x in first.split("-"))
            inside = begin <= middle < end
        elif inside and first == "VmFlags:":
            return "hg" in rest.split()
    raise AssertionError("no mapping holds the tensor")


def fresh(size: int) -> torch.Tensor:
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(memory, dtype=torch.float32)


@pytest.mark.parametrize("size", [4, 8, 64])
def test_fresh_memory(size: int) -> None:
    tensor = fresh(size * MIB)
    assert not asked(tensor)
    fastinit.normal_(tensor)
    assert asked(tensor)
    assert tensor.std() > 0.9


def test_memory_in_use_is_left_alone() -> None:
    tensor = fresh(64 * MIB).zero_()
    fastinit.normal_(tensor)
    assert not asked(tensor)


def test_small_tensors_and_views_are_left_alone() -> None:
    small, view = fresh(MIB), fresh(64 * MIB).view(4096, 4096).t()
    fastinit.uniform_(small)
    fastinit.uniform_(view)
    assert not asked(small) and not asked(view)
