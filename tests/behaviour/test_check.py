"""Findings: each in a model that has the fault, and in one like it that has not."""

import copy
import math
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn import init

import fastinit
import fastinit.testing
from fastinit._check import check

pytestmark = pytest.mark.usefixtures("one_thread", "no_trace")


class Holder(nn.Module):
    """A module of these parameters and modules."""

    def __init__(self, **members: Any) -> None:
        super().__init__()
        for name, member in members.items():
            setattr(self, name, nn.Parameter(member) if type(member) is Tensor else member)


def linear(fill: Callable[[Tensor], Any], inputs: int = 64, outputs: int = 48, **kwargs: Any) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False, **kwargs)
    with torch.no_grad():
        fill(layer.weight)
    return layer


def filled(fill: Callable[[Tensor], Any], *shape: int, **kwargs: Any) -> Tensor:
    tensor = torch.empty(shape, **kwargs)
    with torch.no_grad():
        fill(tensor)
    return tensor


def by_inverse(tensor: Tensor, std: float = 0.02, a: float = -2.0, b: float = 2.0) -> Tensor:
    """A truncated normal distribution as timm draws it."""
    low, high = (math.erf(end / std / math.sqrt(2)) for end in (a, b))
    return tensor.uniform_(low, high).erfinv_().mul_(std * math.sqrt(2)).add_(0.0).clamp_(min=a, max=b)


def assigned(fill: Callable[[Tensor], Any], value: float) -> Callable[[Tensor], Any]:
    def both(tensor: Tensor) -> None:
        fill(tensor)
        tensor[3, 5] = value

    return both


class Right(nn.Module):
    """x @ weight."""

    def __init__(self, fill: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.weight = nn.Parameter(filled(fill, 32, 96))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight


class Left(Right):
    """F.linear(x, weight)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


class Experts(nn.Module):
    def __init__(self, fill: Callable[[Tensor], Any], separately: bool = False) -> None:
        super().__init__()
        self.w1 = nn.Parameter(torch.empty(4, 32, 64))
        for part in self.w1.detach() if separately else [self.w1]:
            fill(part)

    def forward(self, x: Tensor) -> Tensor:
        return torch.bmm(x, self.w1)


class Parallel(nn.Module):
    """As Megatron's: a part of a larger weight."""

    def __init__(self, fill: Callable[[Tensor], Any], ranks: int) -> None:
        super().__init__()
        self.output_size, self.output_size_per_partition = 64, 64 // ranks
        self.weight = nn.Parameter(filled(fill, 64 // ranks, 32))
        self.weight.partition_dim = 0  # type: ignore[attr-defined]


def as_part(tensor: Tensor) -> None:
    init.xavier_uniform_(fastinit.part_of(tensor, (64, 32), (0, 0)))


class Block(nn.Module):
    def __init__(
        self,
        std: float,
        scaled: float = 1.0,
        gate: bool = False,
        norm_first: bool = True,
        sandwich: bool = False,
    ) -> None:
        super().__init__()
        if sandwich:
            self.norm1, self.norm2, self.norm3 = nn.LayerNorm(64), nn.LayerNorm(64), nn.LayerNorm(64)
        self.norm = nn.LayerNorm(64)
        self.fc1 = linear(lambda w: init.normal_(w, std=std), 64, 256)
        self.fc2 = linear(lambda w: init.normal_(w, std=std * scaled), 256, 64)
        self.norm_first = norm_first
        if gate:
            self.gamma = nn.Parameter(torch.full((64,), 1e-4))


class Stack(nn.Module):
    def __init__(self, layers: int = 8, **kwargs: Any) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(0.125, **kwargs) for _ in range(layers)])
        self.norm = nn.LayerNorm(64)


def seeded(*fills: Callable[[Tensor], Any], again: bool = True) -> nn.Module:
    model = Holder()
    torch.manual_seed(0)
    for i, fill in enumerate(fills):
        if again:
            torch.manual_seed(0)
        setattr(model, f"layer{i}", linear(fill))
    return model


def tied() -> nn.Module:
    model = Holder(a=linear(init.normal_), b=linear(init.normal_))
    model.b.weight = model.a.weight
    return model


def lora(a: Callable[[Tensor], Any], b: Callable[[Tensor], Any]) -> nn.Module:
    return Holder(lora_A=linear(a, 64, 4), lora_B=linear(b, 4, 64))


def embedding(after: Callable[[nn.Embedding], Any] = lambda layer: None, **kwargs: Any) -> nn.Module:
    layer = nn.Embedding(10, 8, **kwargs)
    init.normal_(layer.weight)
    with torch.no_grad():
        after(layer)
    return Holder(layer=layer)


def conv(kind: type, fill: Callable[[Tensor], Any] | None, *args: Any, **kwargs: Any) -> nn.Module:
    layer = kind(*args, **kwargs)
    if fill is not None:
        fill(layer.weight)
    return Holder(layer=layer)


def grown(whole: bool) -> nn.Module:
    """An embedding with more rows, of which the old ones are copied."""
    old = nn.Embedding(10, 8)
    new = torch.empty(14, 8)
    with torch.no_grad():
        new[:10].copy_(old.weight)
        if whole:
            new[10:].normal_()
    return Holder(weight=new)


def copied_and_filled() -> nn.Module:
    """The copy is drawn once, and the original too."""
    model = Holder(a=(layer := linear(init.normal_)), b=copy.deepcopy(layer))
    init.normal_(model.b.weight)
    return model


def fan_out_relu(weight: Tensor) -> Tensor:
    return init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")


def small_normal(weight: Tensor) -> Tensor:
    return init.normal_(weight, std=0.02)


def relu_then(activation: nn.Module, fill: Callable[[Tensor], Any] = init.xavier_normal_) -> nn.Module:
    return Holder(layers=nn.Sequential(linear(fill), nn.Dropout(), activation))


def kaiming(nonlinearity: Any, a: float = 0) -> Callable[[Tensor], Any]:
    return lambda weight: init.kaiming_normal_(weight, a=a, nonlinearity=nonlinearity)


def lecun(weight: Tensor, sigmas: float | None = None) -> Tensor:
    std = (1 / weight.shape[1]) ** 0.5 / 0.87962566103423978
    bound = 2.0 if sigmas is None else sigmas * std
    return init.trunc_normal_(weight, std=std, a=-bound, b=bound)


Build = Callable[[], nn.Module]
# For each kind of finding: models that have it, and models that have not.
CASES: dict[str, tuple[list[Build], list[Build]]] = {
    "never-filled": (
        [
            lambda: Holder(weight=torch.empty(8, 6)),
            lambda: Holder(weight=torch.Tensor(8, 6)),
            lambda: Holder(weight=torch.empty(8, 6).mul_(0.5)),
            lambda: Holder(weight=torch.empty_like(torch.zeros(8, 6))),
        ],
        [
            lambda: nn.Linear(8, 6),
            lambda: Holder(
                a=torch.zeros(8, 6), b=torch.randn(8, 6), c=torch.full((3,), 2.0), d=torch.arange(4.0)
            ),
            lambda: Holder(a=torch.tensor([1.0, 2.0]), b=torch.linspace(0, 1, 5), c=torch.eye(3) * 2),
            lambda: Holder(weight=torch.empty(8, 6).copy_(torch.ones(8, 6))),
            lambda: Holder(weight=torch.empty(8, 6).bernoulli_(0.5)),
            lambda: Holder(weight=filled(lambda w: w.data.__setitem__(slice(None), 2.0), 8, 6)),
            lambda: copy.deepcopy(nn.Linear(8, 6)),
            lambda: nn.LSTM(4, 6, num_layers=2),
            lambda: nn.MultiheadAttention(16, 2, kdim=8, add_bias_kv=True),
            lambda: nn.Linear(8, 6).to(torch.bfloat16),
            lambda: Holder(weight=torch.empty(0, 6)),
        ],
    ),
    "partly-filled": (
        [
            lambda: Holder(weight=filled(lambda w: w[:3].normal_(), 8, 6)),
            lambda: Holder(weight=filled(lambda w: w[:, ::2].normal_(), 8, 6)),
            lambda: grown(whole=False),
        ],
        [
            lambda: Holder(weight=filled(lambda w: (w[:3].normal_(), w[3:].zero_()), 8, 6)),
            lambda: Holder(weight=filled(lambda w: (w[:, ::2].normal_(), w[:, 1::2].zero_()), 8, 6)),
            lambda: grown(whole=True),
            lambda: nn.Embedding(10, 8, padding_idx=0),
        ],
    ),
    "drawn-again": (
        [
            lambda: Holder(layer=nn.Linear(8, 6)).apply(
                lambda m: isinstance(m, nn.Linear) and init.normal_(m.weight)
            )
        ],
        [
            lambda: nn.Linear(8, 6),
            lambda: linear(init.normal_),
            lambda: nn.Embedding(10, 8, padding_idx=0),
            lambda: copied_and_filled(),
        ],
    ),
    "padding-row": (
        [lambda: embedding(padding_idx=3), lambda: embedding(padding_idx=-1)],
        [
            embedding,
            lambda: embedding(lambda layer: layer.weight[3].zero_(), padding_idx=3),
            lambda: nn.Embedding(10, 8, padding_idx=3),
        ],
    ),
    "identical": (
        [
            lambda: seeded(small_normal, small_normal),
            lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 2),
            lambda: Holder(a=(layer := linear(init.normal_)), b=copy.deepcopy(layer)),
        ],
        [
            lambda: seeded(small_normal, small_normal, again=False),
            tied,
            lambda: seeded(init.ones_, init.ones_),
            lambda: Holder(student=(layer := linear(init.normal_)), teacher=copy.deepcopy(layer)),
            lambda: Holder(a=torch.arange(8.0), b=torch.arange(8.0)),
            lambda: Holder(a=(whole := filled(init.normal_, 10, 8))[:5], b=whole[5:], c=whole.t()),
        ],
    ),
    "same-key": (
        [lambda: seeded(small_normal, init.xavier_uniform_)],
        [lambda: seeded(small_normal, init.xavier_uniform_, again=False)],
    ),
    "ranks": (
        [lambda: Parallel(small_normal, ranks=2)],
        [
            lambda: Parallel(small_normal, ranks=1),
            lambda: Parallel(as_part, ranks=2),
            lambda: Parallel(init.zeros_, ranks=2),
        ],
    ),
    "not-finite": (
        [
            lambda: linear(lambda w: w.normal_().mul_(math.nan)),
            lambda: linear(assigned(init.normal_, math.inf)),
        ],
        [lambda: nn.Linear(8, 6), lambda: Holder(mask=torch.full((4, 4), -math.inf))],
    ),
    "outlier": (
        [lambda: linear(assigned(small_normal, 2.0), 128, 64)],
        [
            lambda: linear(small_normal, 128, 64),
            lambda: linear(lambda w: init.sparse_(w, 0.9), 128, 64),
            lambda: linear(init.orthogonal_, 128, 64),
            lambda: nn.LSTM(64, 32),
            lambda: embedding(lambda layer: layer.weight[3].zero_(), padding_idx=3),
            lambda: linear(small_normal, 128, 64, dtype=torch.bfloat16),
            lambda: linear(
                lambda w: init.trunc_normal_(w, std=0.02, a=-0.04, b=0.04), 128, 64, dtype=torch.float16
            ),
            lambda: Holder(decay=torch.linspace(1, 1e6, 8192)),
        ],
    ),
    "inverted-uniform": (
        [lambda: linear(by_inverse)],
        [
            lambda: linear(lambda w: by_inverse(w, 1.0)),
            lambda: linear(lambda w: w.uniform_(-0.9, 0.9).erfinv_()),
        ],
    ),
    "constant-matrix": (
        [lambda: linear(lambda w: init.constant_(w, 0.1)), lambda: conv(nn.Conv2d, init.ones_, 4, 8, 3)],
        [
            lambda: linear(init.eye_),
            lambda: nn.LayerNorm((4, 8)),
            lambda: nn.BatchNorm2d(8),
            lambda: Holder(table=torch.ones(8, 6)),
            lambda: linear(init.ones_, 64, 1),
        ],
    ),
    "zero-matrix": (
        [lambda: linear(init.zeros_)],
        [
            lambda: nn.Linear(8, 6),
            lambda: Holder(positions=torch.zeros(8, 6)),
            lambda: lora(init.normal_, init.zeros_),
        ],
    ),
    "zero-product": (
        [
            lambda: lora(init.zeros_, init.zeros_),
            lambda: Holder(
                branch=nn.Sequential(linear(init.zeros_, 8, 8), nn.ReLU(), linear(init.zeros_, 8, 8))
            ),
            lambda: Holder(conv1=linear_conv(init.zeros_), bn1=zero_norm(8)),
        ],
        [
            lambda: lora(init.normal_, init.zeros_),
            lambda: Holder(branch=nn.Sequential(nn.Linear(8, 8), nn.ReLU(), linear(init.zeros_, 8, 8))),
            lambda: Holder(conv1=linear_conv(init.normal_), bn1=zero_norm(8)),
            lambda: Holder(conv1=linear_conv(init.zeros_), bn2=zero_norm(8)),
        ],
    ),
    "fans-fused": (
        [
            lambda: Holder(qkv=linear(init.xavier_uniform_, 32, 96)),
            lambda: Holder(qkv_proj=linear(init.xavier_uniform_, 32, 64)),  # grouped queries
            lambda: Holder(gate_up_proj=linear(init.xavier_normal_, 32, 128)),
            lambda: Holder(to_kv=linear(fan_out_relu, 32, 64)),
            lambda: nn.MultiheadAttention(32, 4),
        ],
        [
            lambda: Holder(qkv=linear(kaiming("linear"), 32, 96)),
            lambda: Holder(q_proj=linear(init.xavier_uniform_, 32, 96)),
            lambda: Holder(qkv=linear(small_normal, 32, 96)),
            lambda: Holder(qkv=linear(lambda w: fastinit.extra.xavier_uniform_(w, splits=3), 32, 96)),
            lambda: nn.MultiheadAttention(32, 4, kdim=16),
        ],
    ),
    "fused-orthogonal": (
        [lambda: Holder(qkv=linear(init.orthogonal_, 32, 96))],
        [
            lambda: Holder(q_proj=linear(init.orthogonal_, 32, 96)),
            lambda: Holder(qkv=linear(lambda w: fastinit.batched_orthogonal_(w.view(3, 32, 32)), 32, 96)),
        ],
    ),
    "fans-shard": (
        [lambda: Parallel(init.xavier_uniform_, ranks=2)],
        [
            lambda: Parallel(init.xavier_uniform_, ranks=1),
            lambda: Parallel(kaiming("relu"), ranks=2),  # of the inputs, which are whole
            lambda: Parallel(as_part, ranks=2),
        ],
    ),
    "fans-grouped": (
        [
            lambda: conv(nn.Conv2d, fan_out_relu, 16, 32, 3, groups=4),
            lambda: conv(nn.Conv1d, init.xavier_normal_, 16, 32, 3, groups=4),
        ],
        [
            lambda: conv(nn.Conv2d, fan_out_relu, 16, 32, 3),
            lambda: conv(nn.Conv2d, kaiming("relu"), 16, 32, 3, groups=4),
        ],
    ),
    "fans-depthwise": (
        [lambda: conv(nn.Conv2d, fan_out_relu, 16, 16, 3, groups=16)],
        [
            lambda: conv(nn.Conv2d, None, 16, 16, 3, groups=16),
            lambda: conv(
                nn.Conv2d,
                lambda w: fastinit.extra.kaiming_normal_(w, mode="fan_out", groups=16),
                16,
                16,
                3,
                groups=16,
            ),
        ],
    ),
    "fans-transposed": (
        [
            lambda: conv(nn.ConvTranspose2d, kaiming("relu"), 16, 32, 3),
            lambda: conv(nn.ConvTranspose2d, None, 16, 32, 3),  # a note
        ],
        [
            lambda: conv(nn.ConvTranspose2d, kaiming("relu"), 16, 16, 3),
            lambda: conv(nn.ConvTranspose2d, init.xavier_normal_, 16, 32, 3),
            lambda: conv(nn.Conv2d, kaiming("relu"), 16, 32, 3),
        ],
    ),
    "fans-inputs-first": (
        [lambda: Right(kaiming("relu"))],
        [lambda: Right(init.xavier_normal_), lambda: Left(kaiming("relu")), lambda: Right(small_normal)],
    ),
    "fans-stacked": (
        [
            lambda: Experts(init.xavier_uniform_),
            lambda: Holder(experts=Holder(w=filled(kaiming("relu"), 4, 32, 64))),
        ],
        [
            lambda: Experts(init.xavier_uniform_, separately=True),
            lambda: Experts(small_normal),
            lambda: conv(nn.Conv1d, init.xavier_uniform_, 16, 32, 3),
            lambda: Holder(w=filled(kaiming("relu"), 4, 32, 64)),  # nobody knows what it is
        ],
    ),
    "truncation-without-effect": (
        [lambda: linear(lambda w: init.trunc_normal_(w, std=0.02))],
        [
            lambda: linear(lambda w: init.trunc_normal_(w, std=0.02, a=-0.06, b=0.06)),
            lambda: linear(lambda w: init.trunc_normal_(w, std=0.02, a=-0.04, b=math.inf)),
            lambda: linear(small_normal),
        ],
    ),
    "truncation-corrected": (
        [lambda: linear(lecun)],
        [lambda: linear(lambda w: lecun(w, 2.0)), lambda: linear(lambda w: init.trunc_normal_(w, std=0.02))],
    ),
    "truncation-std": (
        [
            lambda: linear(lambda w: init.trunc_normal_(w, std=0.02, a=-0.04, b=0.04)),
            lambda: linear(lambda w: by_inverse(w, 1.0).mul_(0.02)),
        ],
        [
            lambda: linear(lambda w: lecun(w, 2.0)),
            lambda: linear(lambda w: init.trunc_normal_(w, std=0.02, a=-0.06, b=0.06)),
            lambda: linear(lambda w: fastinit.extra.variance_scaling_(w)),
        ],
    ),
    "gain": (
        [
            lambda: relu_then(nn.Tanh(), kaiming("relu")),
            lambda: relu_then(nn.SELU(), kaiming("relu")),
            lambda: relu_then(nn.ReLU(), lambda w: init.xavier_normal_(w, gain=init.calculate_gain("tanh"))),
        ],
        [
            lambda: relu_then(nn.ReLU(), kaiming("relu")),
            lambda: relu_then(nn.LeakyReLU(0.2), kaiming("leaky_relu", 0.2)),
            lambda: relu_then(nn.Tanh()),
            lambda: relu_then(nn.BatchNorm1d(48), kaiming("relu")),
            lambda: Holder(layers=nn.Sequential(nn.Linear(8, 8), nn.Tanh())),
        ],
    ),
    "underflow": (
        [
            lambda: linear(lambda w: init.normal_(w, std=1e-9), dtype=torch.float16),
            lambda: linear(lambda w: init.normal_(w, std=0.005), dtype=torch.float8_e4m3fn),
        ],
        [
            lambda: linear(lambda w: init.normal_(w, std=1e-9)),
            lambda: linear(small_normal, dtype=torch.float16),
            lambda: linear(init.zeros_, dtype=torch.float16),
        ],
    ),
    "overflow": (
        [lambda: linear(lambda w: w.normal_().mul_(30000.0), dtype=torch.float16)],
        [
            lambda: linear(lambda w: init.normal_(w, std=30000.0)),
            lambda: linear(small_normal, dtype=torch.float16),
        ],
    ),
    "resolution": (
        [lambda: linear(lambda w: init.normal_(w, mean=1.0, std=0.001), dtype=torch.bfloat16)],
        [
            lambda: linear(lambda w: init.normal_(w, mean=1.0, std=0.001)),
            lambda: linear(lambda w: init.normal_(w, mean=1.0, std=0.02), dtype=torch.bfloat16),
        ],
    ),
    "depth": (
        [Stack],
        [
            lambda: Stack(scaled=0.25),
            lambda: Stack(gate=True),
            lambda: Stack(norm_first=False),
            lambda: Stack(sandwich=True),
            lambda: Stack(layers=2),
            lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(32, 4, 64, batch_first=True), 8),
        ],
    ),
}
# Notes that need a report of another kind, with tests of their own.
ELSEWHERE = {"not-seen"}
MAY_WARN = "(mean is more than 2 std|Initializing zero-element|enable_nested_tensor)"


def linear_conv(fill: Callable[[Tensor], Any]) -> nn.Conv2d:
    layer = nn.utils.skip_init(nn.Conv2d, 4, 8, 3, bias=False)
    fill(layer.weight)
    return layer


def zero_norm(size: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(size)
    init.zeros_(layer.weight)
    return layer


def eager(build: Build) -> fastinit.testing.Findings:
    with fastinit.enabled(call_sites=True) as report:
        model = build()
    return report.check(model)


def without_memory(build: Build) -> fastinit.testing.Findings:
    with fastinit.deferred(call_sites=True) as block:
        model = build()
    return block.recipe(model).check(model)


WAYS = {"enabled": eager, "deferred": without_memory}


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=MAY_WARN)
        yield


def numbered(which: int) -> list[Any]:
    return [
        pytest.param(kind, build, id=f"{kind}-{i}")
        for kind, case in CASES.items()
        for i, build in enumerate(case[which])
    ]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("kind", "build"), numbered(0))
def test_found(kind: str, build: Build, way: str) -> None:
    kinds = {finding.kind: finding for finding in WAYS[way](build)}
    assert kind in kinds
    found = kinds[kind]
    assert found.names and found.problem.endswith(".") and found.remedy.endswith(".")
    assert "\n" not in found.problem + found.remedy


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(("kind", "build"), numbered(1))
def test_not_found(kind: str, build: Build, way: str) -> None:
    assert kind not in {finding.kind for finding in WAYS[way](build)}


def test_every_finding_is_tested_and_described() -> None:
    """What the sources can report, what is tested here, and what the docs describe."""
    sources = (Path(check.__file__).parent / f"{name}.py" for name in ("filled", "fans", "scale", "values"))
    text = "\n".join(source.read_text() for source in sources)
    called = set(re.findall(r'yield finding\(\s*"([a-z-]+)"', text)) | set(
        re.findall(r'"(fans-[a-z-]+)"', text)
    )
    assert called == set(CASES) | ELSEWHERE
    docs = (Path(__file__).parents[2] / "docs" / "check.md").read_text()
    assert set(re.findall(r"^\| `([a-z-]+)` \|", docs, re.M)) == called
