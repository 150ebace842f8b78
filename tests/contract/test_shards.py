"""DTensors (contract C10): each rank's part has the bits that torch's own split of the whole tensor would give it."""

import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard
from torch.distributed.tensor._dtensor_spec import DTensorSpec, ShardOrderEntry, TensorMeta
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.placement_types import _StridedShard

import fastinit
from shards import (
    FUNCTIONS,
    NAMES,
    Call,
    assert_part,
    call_of,
    cut,
    dtensor,
    everywhere,
    fake_world,
    memory_for,
    mesh_of,
    placements_for,
)

CASES = 85  # of each function: 2,210 in all, each on every rank of its mesh
MESHES = ((1,), (2,), (3,), (4,), (7,), (2, 2), (2, 3), (4, 2), (1, 3), (2, 2, 2), (3, 1, 2), (2, 3, 2))


@pytest.fixture(scope="module", autouse=True)
def world() -> Iterator[None]:
    with fake_world():
        yield


@pytest.mark.parametrize("name", NAMES)
def test_every_rank_has_its_part_of_the_whole(name: str) -> None:
    r = random.Random(name)
    for _ in range(CASES):
        call, shape = call_of(name, r), r.choice(MESHES)
        placements = placements_for(call.shape, shape, r)
        whole, state = call.whole()
        mesh = mesh_of(shape)
        for coordinate in everywhere(mesh):
            expected = cut(whole, mesh, placements)
            local, wrote_outside = memory_for(expected.shape, call.dtype, r)
            tensor = dtensor(local, mesh, placements, call.shape)
            if local.dtype.is_floating_point and r.random() < 0.5:
                tensor = torch.nn.Parameter(tensor)
            version = tensor._version
            what = f"{placements} at {coordinate} of {shape}, strides {local.stride()}"
            after = call(tensor)
            assert_part(local, expected, call, what)
            assert torch.equal(after, state), (call, what)
            assert not wrote_outside(), (call, what)
            assert tensor._version > version or local.numel() == 0, (call, what)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nothing_is_communicated(name: str) -> None:
    r = random.Random(name)
    with CommDebugMode() as communication:
        for _ in range(5):
            call = call_of(name, r)
            placements = placements_for(call.shape, (2, 3), r)
            mesh = mesh_of((2, 3))
            for _ in everywhere(mesh):
                local = torch.empty(cut(torch.empty(call.shape), mesh, placements).shape, dtype=call.dtype)
                call(dtensor(local, mesh, placements, call.shape))
    assert communication.get_total_counts() == 0


# ---- What is refused ---------------------------------------------------------------------------------------


def default_call(name: str, shape: tuple[int, ...]) -> Call:
    arguments = FUNCTIONS[name].arguments(random.Random(name), shape)
    return Call(name, arguments, shape, torch.float32, 0, False)


def shape_for(name: str) -> tuple[int, ...]:
    return (6, 4, 3) if 2 not in FUNCTIONS[name].dims else (6, 4)


def with_spec(local: torch.Tensor, shape: tuple[int, ...], placements: Any, order: Any = None) -> Any:
    meta = TensorMeta(torch.Size(shape), torch.empty(shape, device="meta").stride(), local.dtype)
    spec = DTensorSpec(mesh_of((2, 2)), placements, tensor_meta=meta, shard_order=order)
    return DTensor(local, spec, requires_grad=False)


UNUSUAL = (ShardOrderEntry(tensor_dim=0, mesh_dims=(1, 0)),)
REFUSED: dict[str, tuple[Callable[[tuple[int, ...]], Any], str]] = {
    "partial sums": (
        lambda shape: dtensor(torch.zeros(shape), mesh_of((2, 2)), (Partial(), Replicate()), shape),
        r"Partial\(sum\) is not supported",
    ),
    "another shape": (
        lambda shape: dtensor(torch.zeros(4, *shape[1:]), mesh_of((2, 2)), (Shard(0), Replicate()), shape),
        r"by its placements this rank holds \(3, 4.*\), but its part is \(4, 4.*\)",
    ),
    "as many elements": (
        lambda shape: dtensor(
            torch.zeros(shape[0], 2, *shape[2:]), mesh_of((2, 2)), (Shard(0), Replicate()), shape
        ),
        r"by its placements this rank holds \(3, 4.*\), but its part is \(6, 2.*\)",
    ),
    "an unusual order": (
        lambda shape: with_spec(torch.zeros(2, *shape[1:]), shape, (Shard(0), Shard(0)), UNUSUAL),
        "dimension 0 is not split in the order of the mesh",
    ),
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("what", REFUSED)
def test_what_nobody_can_place_is_refused(what: str, name: str) -> None:
    shape = shape_for(name)
    make, message = REFUSED[what]
    tensor, before = make(shape), torch.default_generator.get_state()
    with pytest.raises(RuntimeError, match=message) as caught:
        getattr(fastinit, name)(tensor, *default_call(name, shape).arguments)
    for told in (f"DTensor of shape {shape}", f"placements {tensor.placements}", "mesh (2, 2)", "at (0, 0)"):
        assert told in str(caught.value)
    assert not tensor._local_tensor.any(), "something was written"
    assert torch.equal(torch.default_generator.get_state(), before), "a key was taken"


def test_what_fsdp_leaves_on_uneven_tensor_parallel_layers() -> None:
    """Seven rows in four and three, each in three parts: placements that promise the last row to another rank."""
    mesh, placements = mesh_of((3, 2)), (_StridedShard(0, split_factor=2), Shard(0))
    call = Call("normal_", (), (7, 4), torch.float32, 0, False)
    values, _ = call.whole()
    refused = []
    for fsdp, tensor_parallel in everywhere(mesh):
        expected = values.chunk(2)[tensor_parallel].tensor_split([2, 4] if tensor_parallel == 0 else [1, 2])[
            fsdp
        ]
        tensor = dtensor(torch.empty_like(expected), mesh, placements, (7, 4))
        try:
            call(tensor)
        except RuntimeError as error:
            assert "by its placements this rank holds" in str(error)
            refused.append((fsdp, tensor_parallel))
        else:
            assert torch.equal(tensor._local_tensor, expected), (fsdp, tensor_parallel)
    assert refused == [(2, 0), (2, 1)]


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if FUNCTIONS[name].random])
def test_wrong_arguments_are_refused_as_for_the_whole(name: str) -> None:
    """Before anything is written, and before a key is taken, on the ranks that hold nothing too."""
    wrong = {"trunc_normal_": (0.0, 1.0, 2.0, -2.0), "sparse_": (1.5,), "normal_": (0.0, -1.0)}
    wrong |= dict.fromkeys(("uniform_", *(n for n in FUNCTIONS if "kaiming" in n)), (float("nan"),))
    arguments = wrong.get(name, (float("inf"),))
    shape, mesh = shape_for(name), mesh_of((7,))
    tensors: list[Any] = [torch.zeros(shape)]
    for _ in everywhere(mesh):
        local = cut(torch.zeros(shape), mesh, (Shard(0),))
        tensors.append(dtensor(local, mesh, (Shard(0),), shape))
    errors = []
    for rank, tensor in enumerate(tensors, -1):
        mesh._coordinate_on_dim = (max(rank, 0),)
        before = torch.default_generator.get_state()
        with pytest.raises((RuntimeError, ValueError)) as caught:
            getattr(fastinit, name)(tensor, *arguments)
        errors.append((caught.type, str(caught.value)))
        assert not getattr(tensor, "_local_tensor", tensor).any(), rank
        assert torch.equal(torch.default_generator.get_state(), before), rank
    assert len(set(errors)) == 1


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_rank_outside_of_the_mesh(name: str) -> None:
    """It takes its key, and writes nothing."""
    call = default_call(name, shape_for(name))
    _, state = call.whole()
    mesh = mesh_of((2, 2))
    mesh._coordinate_on_dim = None
    try:
        local = torch.empty(0)
        tensor = dtensor(local, mesh, (Shard(0), Replicate()), call.shape)
        assert torch.equal(call(tensor), state)
    finally:
        mesh._coordinate_on_dim = (0, 0)
    assert local.shape == (0,)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_modes(name: str) -> None:
    """Inference tensors have no version, fake ones no memory, and those on meta draw nothing."""
    call, mesh, placements = default_call(name, shape_for(name)), mesh_of((2, 2)), (Shard(0), Shard(1))
    whole, state = call.whole()
    expected = cut(whole, mesh, placements)
    with torch.inference_mode():
        tensor = dtensor(torch.empty(expected.shape), mesh, placements, call.shape)
        assert torch.equal(call(tensor), state)
        assert_part(tensor._local_tensor, expected, call)
    with FakeTensorMode():
        call(dtensor(torch.empty(expected.shape), mesh, placements, call.shape))
    untouched = torch.Generator().manual_seed(call.seed).get_state()
    with torch.device("meta"):
        assert torch.equal(
            call(dtensor(torch.empty(expected.shape), mesh, placements, call.shape)), untouched
        )
