"""fastinit.enabled() on DTensors and parts: functions, methods, reports."""

import os
import pickle
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.tensor import Partial, Replicate, Shard
from torch.nn import init

import fastinit
from shards import FUNCTIONS, ORTHOGONAL, cut, dtensor, everywhere, fake_world, memory_for, mesh_of

PLACEMENTS = (Shard(0), Shard(1))
NAMES = [name for name in FUNCTIONS if name not in ORTHOGONAL]

pytestmark = pytest.mark.usefixtures("no_trace")


@pytest.fixture(scope="module", autouse=True)
def world() -> Iterator[None]:
    with fake_world():
        yield


def shape_for(name: str) -> tuple[int, ...]:
    return (7, 5) if 2 in FUNCTIONS[name].dims else (7, 5, 3)


def arguments_for(name: str) -> tuple[Any, ...]:
    return FUNCTIONS[name].arguments(random.Random(name), shape_for(name))


def shards(shape: tuple[int, ...]) -> Iterator[tuple[Any, Callable[[torch.Tensor], torch.Tensor]]]:
    """What each rank of a mesh has of a tensor, in memory of some strides; and how to cut a tensor so."""
    mesh = mesh_of((2, 3))
    for _ in everywhere(mesh):
        local, _ = memory_for(
            cut(torch.empty(shape), mesh, PLACEMENTS).shape, torch.float32, random.Random(1)
        )
        yield dtensor(local, mesh, PLACEMENTS, shape), lambda whole: cut(whole, mesh, PLACEMENTS)


def seeded(call: Callable[..., Any], *arguments: Any) -> Any:
    torch.manual_seed(1)
    return call(*arguments)


@pytest.mark.parametrize("name", NAMES)
def test_functions(name: str) -> None:
    """torch's functions fill a DTensor as fastinit's fill the whole; and what is reported gives the same again."""
    arguments = arguments_for(name)
    whole = seeded(getattr(fastinit, name), torch.empty(shape_for(name)), *arguments)
    for tensor, cut_out in shards(whole.shape):
        with fastinit.enabled(strict=True) as report:
            assert seeded(getattr(init, name), tensor, *arguments) is tensor
        assert torch.equal(tensor._local_tensor, cut_out(whole)) and not report.fallthrough
        assert report.functions[name].elements == tensor._local_tensor.numel()
        check_report(report, tensor, name)


@pytest.mark.parametrize("name", ["normal_", "uniform_"])
def test_methods(name: str) -> None:
    whole = seeded(getattr(fastinit, name), torch.empty(7, 5), 0.25, 0.5)
    for tensor, cut_out in shards(whole.shape):
        with fastinit.enabled(strict=True) as report:
            seeded(getattr(tensor, name), 0.25, 0.5)
        assert torch.equal(tensor._local_tensor, cut_out(whole)) and not report.fallthrough
        check_report(report, tensor, f"Tensor.{name}")


def check_report(report: fastinit.Report, tensor: Any, function: str) -> None:
    module = nn.Module()
    module.weight = nn.Parameter(tensor)
    fill, local = report.parameters(module)["weight"], tensor._local_tensor
    if local.numel() == 0:
        assert fill is None
        return
    assert fill is not None and fill.function == function and fill.whole and fill.shape == local.shape
    assert fill.matches(module.weight) and fill.matches(local)
    for target in (
        dtensor(memory_like(local), tensor.device_mesh, PLACEMENTS, tensor.shape),
        memory_like(local),
    ):
        assert fill.redraw(target) is target
        assert torch.equal(getattr(target, "_local_tensor", target), local)
    assert pickle.loads(pickle.dumps(fill)) == fill
    local[tuple(size - 1 for size in local.shape)] += 1
    assert not fill.matches(module.weight)


def memory_like(local: torch.Tensor) -> torch.Tensor:
    return torch.empty_strided(local.shape, local.stride()).fill_(7)


@pytest.mark.parametrize("name", NAMES)
def test_parts(name: str) -> None:
    """A part made by part_of is filled by torch's functions too, and the report knows the tensor that is there."""
    arguments, shape = arguments_for(name), shape_for(name)
    whole = seeded(getattr(fastinit, name), torch.empty(shape), *arguments)
    module = nn.Module()
    module.weight = nn.Parameter(torch.full((4, *shape[1:]), 7.0))
    part = fastinit.part_of(module.weight, shape, (2,) + (0,) * (len(shape) - 1))
    with fastinit.enabled() as report:
        assert seeded(getattr(init, name), part, *arguments) is part
    assert torch.equal(module.weight, whole[2:6])
    fill = report.parameters(module)["weight"]
    assert fill is not None and fill.function == name and fill.whole and fill.matches(module.weight)


def test_copies() -> None:
    """A copy of a DTensor has the fill of what was copied."""
    mesh = mesh_of((2, 2))
    for _ in everywhere(mesh):
        local = torch.empty(cut(torch.empty(7, 5), mesh, PLACEMENTS).shape)
        tensor = dtensor(local, mesh, PLACEMENTS, (7, 5))
        module = nn.ParameterDict(
            {"one": nn.Parameter(tensor), "two": nn.Parameter(torch.zeros_like(tensor))}
        )
        with fastinit.enabled() as report:
            init.kaiming_normal_(module["one"])
            with torch.no_grad():
                module["two"].copy_(module["one"])
            module["three"] = nn.Parameter(module["one"].detach().clone())
        for name, fill in report.parameters(module).items():
            assert fill is not None and fill.matches(module["one"]), name
            assert name == "one" or fill.source.function == "kaiming_normal_"


def test_torch_does_not_step_in() -> None:
    """What fastinit refuses of a DTensor is an error: torch would draw each shard by itself."""
    mesh, before = mesh_of((2, 2)), torch.default_generator.get_state()
    partial = dtensor(torch.zeros(4, 4), mesh, (Partial(), Replicate()), (4, 4))
    integers = dtensor(torch.zeros(2, 4, dtype=torch.int64), mesh, (Shard(0), Replicate()), (4, 4))
    for tensor, error in [(partial, RuntimeError), (integers, NotImplementedError)]:
        with fastinit.enabled() as report:
            with pytest.raises(error):
                init.normal_(tensor)
            with pytest.raises(error):
                tensor.normal_()
            with pytest.raises(error):
                init.xavier_uniform_(tensor)
        assert not report.functions and not tensor._local_tensor.any()
    assert torch.equal(torch.default_generator.get_state(), before)


def test_one_rank_agrees_with_itself() -> None:
    with fastinit.enabled(check_ranks=dist.group.WORLD):
        init.normal_(torch.empty(3))


def test_the_error_of_a_block_comes_first() -> None:
    """Ranks are not compared then: others may have come to the end, or wait elsewhere."""
    with pytest.raises(KeyError), fastinit.enabled(check_ranks=dist.group.WORLD):
        raise KeyError


def test_plain_tensors_do_not_load_dtensor() -> None:
    """That takes a second."""
    program = """
import sys, torch, fastinit
with fastinit.enabled():
    torch.nn.Linear(3, 4)
fastinit.eye_(torch.nn.Parameter(torch.empty(3, 4)))
fastinit.part_of(torch.empty(2), (4,), (0,))
assert "torch.distributed.tensor" not in sys.modules
"""
    settings = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", program], env={**os.environ, **settings}, check=True, timeout=300)
