"""DTensors under torch.compile: one graph, and the bits and keys of the calls that are not compiled."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import Shard

import fastinit
from shards import FUNCTIONS, Call, assert_part, cut, dtensor, fake_world

BACKENDS = ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.long)]  # which compiles C++
PLACEMENTS = (Shard(0), Shard(1))


@pytest.fixture(scope="module", autouse=True)
def mesh() -> Iterator[DeviceMesh]:
    with fake_world(rank=1, ranks=4):
        yield init_device_mesh("cpu", (2, 2))


def case(name: str, mesh: DeviceMesh) -> tuple[Call, torch.Tensor, Any, torch.Tensor]:
    """A call, this rank's part of what it fills a tensor with, an empty DTensor for it, and the generator's state."""
    shape = (7, 5) if 2 in FUNCTIONS[name].dims else (7, 5, 3)
    call = Call(name, FUNCTIONS[name].arguments(random.Random(1), shape), shape, torch.float32, 1, False)
    whole, state = call.whole()
    expected = cut(whole, mesh, PLACEMENTS)
    return call, expected, dtensor(torch.zeros_like(expected), mesh, PLACEMENTS, shape), state


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor's own
def test_compile(name: str, backend: str, dynamic: bool, mesh: DeviceMesh) -> None:
    call, expected, tensor, state = case(name, mesh)
    function, local = getattr(fastinit, name), tensor._local_tensor
    torch._dynamo.reset()
    program = torch.compile(
        lambda t: function(t, *call.arguments) * 2, backend=backend, fullgraph=True, dynamic=dynamic
    )
    for _ in range(2):
        local.zero_()
        torch.manual_seed(call.seed)
        result = program(tensor)
        assert torch.equal(torch.get_rng_state(), state)
        assert_part(local, expected, call)
        assert torch.equal(result.to_local(), local * 2)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_keys_in_order(backend: str, mesh: DeviceMesh) -> None:
    """Of DTensors and plain tensors in one graph, where a compiler may drop fills that nobody reads."""

    def program(tensor: Any, plain: torch.Tensor) -> Any:
        fastinit.normal_(tensor)
        fastinit.uniform_(plain)
        fastinit.kaiming_normal_(tensor)
        return tensor * 2, fastinit.normal_(plain) + 1

    def run(program: Any) -> tuple[torch.Tensor, ...]:
        torch.manual_seed(1)
        tensor, plain = program(case("normal_", mesh)[2], torch.empty(4))
        return tensor.to_local(), plain, torch.get_rng_state()

    torch._dynamo.reset()
    expected = run(program)
    found = run(torch.compile(program, backend=backend, fullgraph=True))
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


FRESH = """
import sys

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard

import fastinit
from shards import cut, dtensor, fake_world

with fake_world(rank=1, ranks=4):
    mesh = init_device_mesh("cpu", (2, 2))
    local = torch.zeros(4, 2)
    tensor = dtensor(local, mesh, (Shard(0), Shard(1)), (7, 5))
    torch.manual_seed(1)
    torch.compile(fastinit.normal_, backend=sys.argv[1], fullgraph=True)(tensor)
    torch.manual_seed(1)
    whole = fastinit.normal_(torch.empty(7, 5))
    assert torch.equal(local, cut(whole, mesh, (Shard(0), Shard(1))))
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_first_call_of_a_process(backend: str) -> None:
    """Nothing has to have been called before: the compiler registers the rules."""
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FRESH, backend],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stderr
