"""Programs that initialise a model on four ranks, by name:

    PYTHONPATH=python:tests/support torchrun --standalone --nproc-per-node=4 tests/support/sharded_programs.py DIRECTORY NAME...

Each rank writes to a file in the directory what went wrong in which program; null stands for nothing.
"""

from __future__ import annotations

import json
import sys
import traceback
import warnings
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor
from torch.distributed.tensor import empty as empty_dtensor
from torch.distributed.tensor.debug import CommDebugMode
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

import fastinit

PROGRAMS: dict[str, Callable[[Path], None]] = {}


def program(function: Callable[[Path], None]) -> Callable[[Path], None]:
    PROGRAMS[function.__name__] = function
    return function


# ---- The model: a small transformer, which initialises itself as such models do ------------------------------


class Attention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.wq, self.wk, self.wv, self.wo = (nn.Linear(dim, dim, bias=False) for _ in range(4))

    def init_weights(self, std: float) -> None:
        for linear in (self.wq, self.wk, self.wv):
            nn.init.trunc_normal_(linear.weight, mean=0.0, std=0.02)
        nn.init.trunc_normal_(self.wo.weight, mean=0.0, std=std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.wo(torch.softmax(self.wq(x) * self.wk(x), -1) * self.wv(x))


class FeedForward(nn.Module):
    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.w1, self.w2 = nn.Linear(dim, hidden), nn.Linear(hidden, dim)

    def init_weights(self, std: float) -> None:
        nn.init.kaiming_uniform_(self.w1.weight, nonlinearity="relu")
        nn.init.xavier_normal_(self.w2.weight, gain=std)
        nn.init.uniform_(self.w1.bias, -0.1, 0.1)
        nn.init.zeros_(self.w2.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.w2(torch.relu(self.w1(x)))


class Block(nn.Module):
    def __init__(self, dim: int, hidden: int, depth: int) -> None:
        super().__init__()
        self.attention, self.feed_forward = Attention(dim), FeedForward(dim, hidden)
        self.norm = nn.LayerNorm(dim)
        self.std = 0.02 / (2 * (depth + 1)) ** 0.5

    def init_weights(self) -> None:
        self.norm.reset_parameters()
        self.attention.init_weights(self.std)
        self.feed_forward.init_weights(self.std)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.feed_forward(self.attention(self.norm(x)))


class Transformer(nn.Module):
    def __init__(self, vocabulary: int = 64, dim: int = 32, hidden: int = 48, layers: int = 2) -> None:
        super().__init__()
        self.embeddings = nn.Embedding(vocabulary, dim)
        self.layers = nn.ModuleList(Block(dim, hidden, depth) for depth in range(layers))
        self.output = nn.Linear(dim, vocabulary, bias=False)
        self.register_buffer("frequencies", torch.empty(dim // 2), persistent=False)

    def init_weights(self) -> None:
        torch.div(1.0, 10000 ** torch.linspace(0, 1, len(self.frequencies)), out=self.frequencies)
        nn.init.normal_(self.embeddings.weight)
        for layer in self.layers:
            layer.init_weights()
        nn.init.trunc_normal_(self.output.weight, std=0.02, a=-0.06, b=0.06)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.embeddings(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.output(x)


UNEVEN = dict(vocabulary=101, dim=30, hidden=47)
TINY = dict(vocabulary=5, dim=2, hidden=3)  # of some dimensions a rank has nothing


def on_meta(**sizes: int) -> Transformer:
    with torch.device("meta"):
        return Transformer(**sizes)


def initialised(model: nn.Module, enabled: bool = True) -> fastinit.Report | None:
    """Give the model memory and values, from the same seed each time. Nothing may be communicated."""
    model.to_empty(device="cpu")
    torch.manual_seed(1)
    with torch.no_grad(), CommDebugMode() as communication:
        if not enabled:
            model.init_weights()
            return None
        with fastinit.enabled(strict=True) as report:
            model.init_weights()
    assert communication.get_total_counts() == 0
    assert not report.fallthrough, report.fallthrough
    return report


def shard(model: Transformer, **settings: Any) -> None:
    for layer in model.layers:
        fully_shard(layer, **settings)
    fully_shard(model, **settings)


TENSOR_PARALLEL = {
    "attention.wq": ColwiseParallel(),
    "attention.wk": ColwiseParallel(),
    "attention.wv": ColwiseParallel(),
    "attention.wo": RowwiseParallel(),
    "feed_forward.w1": ColwiseParallel(),
    "feed_forward.w2": RowwiseParallel(),
}


def split(model: Transformer, mesh: Any) -> None:
    parallelize_module(
        model, mesh, {"embeddings": RowwiseParallel(input_layouts=Replicate()), "output": ColwiseParallel()}
    )
    for layer in model.layers:
        parallelize_module(layer, mesh, TENSOR_PARALLEL)


def full(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().full_tensor() if isinstance(tensor, DTensor) else tensor.detach()


def differing(model: nn.Module, reference: nn.Module) -> list[str]:
    """Which parameters are not those of the model that nobody has split. All ranks must ask for it."""
    whole = dict(reference.named_parameters())
    found = {name: full(parameter) for name, parameter in model.named_parameters()}
    assert found.keys() == whole.keys()
    assert any(isinstance(parameter, DTensor) for parameter in model.parameters())
    return [name for name, tensor in found.items() if not torch.equal(tensor, whole[name])]


def reference(enabled: bool = True, **sizes: int) -> Transformer:
    model = on_meta(**sizes)
    initialised(model, enabled)
    return model


def assert_step(model: Transformer) -> None:
    """A step of training finds its weights in order."""
    tokens = torch.arange(4).view(2, 2)
    model(tokens).float().square().mean().backward()
    assert all(
        parameter.grad is not None and torch.isfinite(full(parameter.grad)).all()
        for parameter in model.parameters()
    )


# ---- Programs ------------------------------------------------------------------------------------------------


@program
def fsdp2(directory: Path) -> None:
    model = on_meta()
    shard(model)
    initialised(model)
    assert not differing(model, reference())
    assert_step(model)
    assert not differing(model, reference())


@program
def fsdp2_by_torch(directory: Path) -> None:
    """Why fastinit does this: torch's own values depend on how a model is split."""
    model = on_meta()
    shard(model)
    initialised(model, enabled=False)
    assert differing(model, reference(enabled=False))


@program
def uneven(directory: Path) -> None:
    for sizes in (UNEVEN, TINY):
        model = on_meta(**sizes)
        shard(model)
        initialised(model)
        assert not differing(model, reference(**sizes))


@program
def hsdp(directory: Path) -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
    model = on_meta(**UNEVEN)
    shard(model, mesh=mesh)
    initialised(model)
    assert not differing(model, reference(**UNEVEN))


@program
def other_dimensions(directory: Path) -> None:
    """FSDP2 may cut a parameter along any dimension."""
    model = on_meta()
    shard(model, shard_placement_fn=lambda parameter: Shard(parameter.dim() - 1))
    initialised(model)
    assert not differing(model, reference())


@program
def tensor_parallel(directory: Path) -> None:
    for sizes in ({}, UNEVEN):
        model = on_meta(**sizes)
        split(model, init_device_mesh("cpu", (4,)))
        initialised(model)
        assert not differing(model, reference(**sizes))


@program
def fsdp_and_tensor_parallel(directory: Path) -> None:
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("fsdp", "tp"))
    for sizes in ({}, UNEVEN, TINY):
        model = on_meta(**sizes)
        split(model, mesh["tp"])
        shard(model, mesh=mesh["fsdp"])
        initialised(model)
        assert not differing(model, reference(**sizes))


@program
def in_the_order_of_torchtitan(directory: Path) -> None:
    """Build on meta; tensor parallel; FSDP; memory; values. With one seed, and ranks that are compared."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp_shard", "tp"))
    torch.manual_seed(1234)
    with torch.device("meta"):
        model = Transformer()
    split(model, mesh["tp"])
    for layer in model.layers:
        fully_shard(layer, mesh=mesh["dp_shard"], reshard_after_forward=True)
    fully_shard(model, mesh=mesh["dp_shard"])
    model.to_empty(device="cpu")
    with torch.no_grad(), fastinit.enabled(check_ranks=dist.group.WORLD):
        model.init_weights()
    model.train()

    torch.manual_seed(1234)
    with torch.device("meta"):
        whole = Transformer()
    whole.to_empty(device="cpu")
    with torch.no_grad(), fastinit.enabled():
        whole.init_weights()
    assert not differing(model, whole)
    assert torch.equal(model.frequencies, whole.frequencies)


@program
def offloaded(directory: Path) -> None:
    model = on_meta(**UNEVEN)
    shard(model, offload_policy=CPUOffloadPolicy(pin_memory=False))
    initialised(model)
    assert not differing(model, reference(**UNEVEN))


@program
def layers_by_themselves(directory: Path) -> None:
    """reset_parameters of torch's own layers, as FSDP2's documentation has it, and fastinit called by name."""
    with torch.device("meta"):
        model, whole = (nn.Sequential(nn.Conv2d(3, 6, 3), nn.Linear(10, 7), nn.LSTM(7, 5)) for _ in range(2))
    fully_shard(model)
    for each in (model, whole):
        each.to_empty(device="cpu")
        torch.manual_seed(2)
        with fastinit.enabled():
            for module in each:
                module.reset_parameters()
    assert not differing(model, whole)
    for each in (model, whole):
        torch.manual_seed(3)
        fastinit.dirac_(each[0].weight)
        fastinit.sparse_(each[1].weight, 0.3)
        fastinit.eye_(each[2].weight_hh_l0)
        fastinit.constant_(each[2].bias_hh_l0, 0.5)
    assert not differing(model, whole)


@program
def tensors_of_ones_own(directory: Path) -> None:
    """DTensors from torch's factories and distribute_tensor, on a mesh in which some ranks are not, and views of them."""
    mesh = init_device_mesh("cpu", (2, 2))
    whole = fastinit.normal_(torch.empty(10, 6), generator=torch.Generator().manual_seed(1))
    for placements in ([Shard(0), Shard(0)], [Shard(1), Replicate()], [Replicate(), Shard(0)]):
        for tensor in (
            empty_dtensor(10, 6, device_mesh=mesh, placements=placements),
            distribute_tensor(torch.zeros(10, 6), mesh, placements),
        ):
            fastinit.normal_(tensor, generator=torch.Generator().manual_seed(1))
            assert torch.equal(full(tensor), whole)
            moved = tensor.redistribute(mesh, [Replicate(), Shard(1)], async_op=True)
            fastinit.uniform_(moved, generator=torch.Generator().manual_seed(1))
            expected = fastinit.uniform_(torch.empty(10, 6), generator=torch.Generator().manual_seed(1))
            assert torch.equal(full(moved), expected)
    fastinit.uniform_(tensor.t(), generator=torch.Generator().manual_seed(1))
    expected = fastinit.uniform_(torch.empty(6, 10), generator=torch.Generator().manual_seed(1))
    assert torch.equal(full(tensor).t(), expected)

    tensor = empty_dtensor(7, 5, device_mesh=DeviceMesh("cpu", [0, 1]), placements=[Shard(0)])
    torch.manual_seed(1)
    fastinit.normal_(tensor)
    states: list[Any] = [None] * 4
    dist.all_gather_object(states, torch.get_rng_state().tolist())
    assert states[0] == states[1] == states[2] == states[3]
    torch.manual_seed(1)
    whole = fastinit.normal_(torch.empty(7, 5))
    assert states[0] == torch.get_rng_state().tolist()
    if dist.get_rank() < 2:
        assert torch.equal(full(tensor), whole)


@program
def checkpoint(directory: Path) -> None:
    """Saved by four ranks, and loaded by two: what two ranks would have drawn."""
    import torch.distributed.checkpoint as dcp
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict

    model = on_meta(**UNEVEN)
    shard(model)
    initialised(model)
    dcp.save(get_model_state_dict(model), checkpoint_id=directory / "checkpoint")
    mesh = DeviceMesh("cpu", [0, 1])
    if dist.get_rank() < 2:
        loaded, drawn = on_meta(**UNEVEN), on_meta(**UNEVEN)
        for each in (loaded, drawn):
            shard(each, mesh=mesh)
        loaded.to_empty(device="cpu")
        initialised(drawn)
        state = get_model_state_dict(loaded)
        dcp.load(state, checkpoint_id=directory / "checkpoint", process_group=mesh.get_group())
        set_model_state_dict(loaded, state)
        for name, parameter in loaded.named_parameters():
            assert torch.equal(parameter.to_local(), drawn.get_parameter(name).to_local()), name
        assert not differing(loaded, reference(**UNEVEN))
    dist.barrier()


@program
def reports(directory: Path) -> None:
    """What a report says of a DTensor is what this rank holds of it; and it can be drawn again."""
    model = on_meta(**UNEVEN)
    shard(model)
    report = initialised(model)
    assert report is not None
    whole = on_meta(**UNEVEN)
    expected = initialised(whole)
    fills, others = report.parameters(model), expected.parameters(whole)
    assert fills.keys() == others.keys()
    for name, parameter in model.named_parameters():
        fill, other, local = fills[name], others[name], parameter.to_local()
        if local.numel() == 0:
            assert fill is None
            continue
        assert (fill.function, fill.key, fill.shape) == (other.function, other.key, local.shape), name
        assert fill.whole and fill.place.shape == parameter.shape and other.place is None
        assert fill.matches(parameter) and fill.matches(local), name
        again = torch.zeros_like(parameter)
        assert fill.redraw(again) is again and torch.equal(full(again), full(parameter)), name
        with torch.no_grad():
            local[-1] = 3.25
        assert not fill.matches(parameter), name
    assert report.total.calls == expected.total.calls
    held = sum(parameter.to_local().numel() for parameter in model.parameters())
    assert report.total.elements == held


@program
def ranks_that_agree(directory: Path) -> None:
    """With empty parts, another order of fills of constants, and torch's fills, which draw nothing that is compared."""
    mesh = init_device_mesh("cpu", (4,))
    torch.manual_seed(5)
    with fastinit.enabled(check_ranks=dist.group.WORLD) as report:
        weight = empty_dtensor(6, 3, device_mesh=mesh, placements=[Shard(0)])
        nn.init.kaiming_normal_(weight)
        for _ in range(dist.get_rank()):
            nn.init.zeros_(torch.empty(3))
        weight.normal_()
    assert report.functions["kaiming_normal_"].calls == 1
    with fastinit.enabled(check_ranks=dist.group.WORLD):
        pass


@program
def ranks_that_do_not(directory: Path) -> None:
    """Every rank is told the first fill that differs."""
    mesh, rank = init_device_mesh("cpu", (4,)), dist.get_rank()

    def run(setup: Callable[[], None], fills: Callable[[], None]) -> str:
        torch.manual_seed(5)
        try:
            with fastinit.enabled(check_ranks=dist.group.WORLD):
                nn.init.uniform_(torch.empty(3))
                setup()
                fills()
        except RuntimeError as error:
            return str(error)
        raise AssertionError("the difference was not found")

    def fills() -> None:
        nn.init.normal_(empty_dtensor(6, 3, device_mesh=mesh, placements=[Shard(0)]))
        nn.init.uniform_(empty_dtensor(5, device_mesh=mesh, placements=[Replicate()]))

    said = [
        run(lambda: torch.manual_seed(rank), fills),
        run(lambda: torch.manual_seed(7 * (rank == 3)), fills),
        run(lambda: nn.init.normal_(torch.empty(2)) if rank == 2 else None, fills),
        run(lambda: None, lambda: nn.init.normal_(torch.empty(2 + rank // 3))),
        run(lambda: None, lambda: nn.init.normal_(torch.empty(2)) if rank else None),
    ]
    for message in said[:2]:
        assert (
            "random fill 1 differs" in message and message.count("normal_ of shape (6, 3) with key 0x") == 4
        )
    assert "random fill 1 differs" in said[2] and "rank 2: normal_ of shape (2,)" in said[2]
    assert "rank 0: normal_ of shape (2,)" in said[3] and "rank 3: normal_ of shape (3,)" in said[3]
    assert "rank 0: none; rank 1: normal_ of shape (2,)" in said[4]
    everyone: list[Any] = [None] * 4
    dist.all_gather_object(everyone, said)
    assert all(other == said for other in everyone)

    pair = dist.new_group([0, 1])  # the others may do as they like
    torch.manual_seed(rank // 2)
    with fastinit.enabled(check_ranks=pair if rank < 2 else None):
        nn.init.normal_(torch.empty(rank // 2 + 1))


# ---- transformers --------------------------------------------------------------------------------------------

SMALL = dict(hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4, vocab_size=101)


def hugging_face(name: str, settings: dict[str, Any], prepare: Callable[[Any], None]) -> None:
    """A model of transformers: on meta, sharded, given memory, initialised. And why: torch alone draws another model."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        transformers.logging.set_verbosity_error()
        kind = getattr(transformers, name)
        config = kind.config_class(**settings, bos_token_id=0, eos_token_id=1, pad_token_id=None)

    def build(sharded: bool, enabled: bool) -> Any:
        with torch.device("meta"):
            model = kind(config)
        if sharded:
            prepare(model)
        model.to_empty(device="cpu")
        for module in model.modules():  # they were marked when there was no memory yet
            module._is_hf_initialized = False
        torch.manual_seed(1)
        if enabled:
            with fastinit.enabled() as report:
                model.initialize_weights()
            assert report.functions["normal_"].calls > 0
        else:
            model.initialize_weights()
        return model

    assert not differing(build(True, True), build(False, True))
    model = build(True, False)
    assert len(differing(model, build(False, False))) > len(list(model.parameters())) / 2


@program
def llama(directory: Path) -> None:
    def prepare(model: Any) -> None:
        for layer in model.model.layers:
            fully_shard(layer)
        fully_shard(model)

    hugging_face("LlamaForCausalLM", dict(**SMALL, num_key_value_heads=2), prepare)


@program
def mixtral_with_sharded_experts(directory: Path) -> None:
    """The experts are split among the ranks, and everything else is sharded by FSDP2."""
    mesh = init_device_mesh("cpu", (4,))

    def prepare(model: Any) -> None:
        for layer in model.model.layers:
            experts = layer.mlp.experts
            for name, parameter in list(experts.named_parameters(recurse=False)):
                spread = distribute_tensor(parameter.data, mesh, [Shard(0)])
                experts.register_parameter(name, nn.Parameter(spread))
        split_already = {parameter for parameter in model.parameters() if isinstance(parameter, DTensor)}
        assert len(split_already) == 4
        fully_shard(model, ignored_params=split_already)

    hugging_face("MixtralForCausalLM", dict(**SMALL, num_key_value_heads=2, num_local_experts=6), prepare)


# ---- Running them ----------------------------------------------------------------------------------------------


def main(directory: Path, names: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=60))
    found: dict[str, str | None] = {}
    for name in names:
        try:
            PROGRAMS[name](directory)
            found[name] = None
        except BaseException:
            found[name] = traceback.format_exc()
        (directory / f"rank{dist.get_rank()}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
