"""The functions beyond torch.nn.init: which variance they give to which layout, and how they are told."""

import inspect
import math
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import fastinit
from fastinit import _C, extra
from fastinit._fans import Layout

FILLS = [name for name in extra.__all__ if name.endswith("_")]
NAMES = ("variance_scaling_", "lecun_normal_", "lecun_uniform_", "xavier_normal_", "xavier_uniform_")
SCALED: dict[str, Callable[..., Tensor]] = {
    name: getattr(extra, name) for name in (*NAMES, "kaiming_normal_", "kaiming_uniform_")
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ---------------------------------------------------------------------------------------------------------------
# Fans


LAYOUTS: dict[str, tuple[tuple[int, ...], dict[str, Any], list[tuple[float, float]]]] = {
    "linear": ((20, 30), {}, [(30, 20)]),
    "(inputs, outputs) matrix": ((30, 20), {"in_dim": 0}, [(30, 20)]),
    "the same by its outputs": ((30, 20), {"out_dim": -1}, [(30, 20)]),
    "convolution": ((8, 6, 3, 5), {}, [(6 * 15, 8 * 15)]),
    "three-dimensional convolution": ((8, 6, 3, 5, 2), {}, [(6 * 30, 8 * 30)]),
    "transposed convolution": ((6, 8, 3), {"in_dim": 0}, [(6 * 3, 8 * 3)]),
    "grouped convolution": ((8, 3, 5), {"groups": 2}, [(3 * 5, 4 * 5)]),
    "depthwise convolution": ((8, 1, 3, 3), {"groups": 8}, [(9, 9)]),
    "grouped transposed convolution": ((6, 4, 3), {"in_dim": 0, "groups": 2}, [(3 * 3, 4 * 3)]),
    "queries, keys and values": ((60, 20), {"splits": 3}, [(20, 20)]),
    "grouped-query attention": ((20 + 5 + 5, 20), {"splits": (20, 5, 5)}, [(20, 20), (20, 5), (20, 5)]),
    "splits that are equal after all": ((10, 20), {"splits": [5, 5]}, [(20, 5)]),
    "experts": ((4, 20, 30), {"batch_dims": 0}, [(30, 20)]),
    "(inputs, outputs) experts": ((4, 30, 20), {"batch_dims": (0,), "in_dim": 1}, [(30, 20)]),
    "fused (inputs, outputs) experts": (
        (4, 30, 20),
        {"batch_dims": 0, "in_dim": 1, "splits": 2},
        [(30, 10)],
    ),
    "embedding": ((1000, 64), {}, [(64, 1000)]),
    "several dimensions of heads": ((4, 8, 30), {"out_dim": (0, 1)}, [(30, 32)]),
    "JAX's convolution": ((3, 3, 6, 8), {"in_dim": -2, "out_dim": -1}, [(54, 72)]),
    "JAX's grouped convolution": (
        (3, 3, 3, 8),
        {"in_dim": -2, "out_dim": -1, "groups": 2},
        [(27, 36)],
    ),
    "given fans": ((7,), {"fan_in": 3, "fan_out": 5}, [(3, 5)]),
    "one given fan": ((20, 30), {"fan_in": 3}, [(3, 20)]),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_fans_of_a_layout(name: str) -> None:
    shape, layout, expected = LAYOUTS[name]
    found = Layout(**layout)
    for mode, fan in {
        "fan_in": lambda a, b: a,
        "fan_out": lambda a, b: b,
        "fan_avg": lambda a, b: (a + b) / 2,
        "fan_geo_avg": lambda a, b: math.sqrt(a * b),
    }.items():
        assert found.fans(shape, mode) == [fan(*both) for both in expected]  # type: ignore[arg-type, no-untyped-call]


@pytest.mark.parametrize(
    "module", [nn.Linear(6, 9), nn.Conv1d(6, 9, 3), nn.Conv3d(6, 9, 3), nn.Embedding(9, 6)]
)
def test_fans_are_torchs_where_torch_has_them(module: nn.Module) -> None:
    weight = next(module.parameters())
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(weight)
    layout = Layout()
    assert (layout.fans(weight.shape, "fan_in"), layout.fans(weight.shape, "fan_out")) == (
        [fan_in],
        [fan_out],
    )


def test_fans_are_those_of_jax() -> None:
    initializers = pytest.importorskip("jax._src.nn.initializers")
    choose = random.Random(1)
    for _ in range(300):
        shape = tuple(choose.randint(1, 9) for _ in range(choose.randint(2, 6)))
        dims = choose.sample(range(len(shape)), len(shape))
        batch = dims[2 : choose.randint(2, len(shape))]
        inputs, outputs = dims[0], dims[1]
        theirs = initializers._compute_fans(shape, inputs, outputs, batch)
        layout = Layout(in_dim=inputs, out_dim=outputs, batch_dims=batch)
        ours = layout.fans(shape, "fan_in") + layout.fans(shape, "fan_out")
        assert ours == pytest.approx(theirs, rel=1e-12), (shape, inputs, outputs, batch)


@pytest.mark.parametrize(
    ("shape", "layout", "message"),
    [
        ((5,), {}, "has no fans"),
        ((), {}, "has no fans"),
        ((4, 5), {"in_dim": 2}, "in_dim=2 is out of range for 2 dimensions"),
        ((4, 5), {"in_dim": 0, "out_dim": 0}, "overlap"),
        ((4, 5, 6), {"batch_dims": (0, -3)}, "overlap"),
        ((4, 5), {"groups": 3}, "groups=3 does not divide 4 channels"),
        ((4, 5), {"groups": 0}, "groups=0"),
        ((4, 5), {"splits": 3}, "splits=3 does not divide 4 outputs"),
        ((4, 5), {"splits": (1, 2)}, r"splits=\[1, 2\] do not add up to 4 outputs"),
        ((4, 5), {"splits": (5, -1)}, "do not add up"),
        ((4, 6, 5), {"out_dim": (0, 1), "splits": (20, 4)}, "single out_dim"),
        ((4, 5), {"fan_in": -1}, "fans are not negative"),
    ],
)
def test_layouts_that_do_not_fit(shape: tuple[int, ...], layout: dict[str, Any], message: str) -> None:
    tensor, generator = torch.full(shape, 7.0), seeded()
    before = generator.get_state()
    for function in SCALED.values():
        with pytest.raises(ValueError, match=message):
            function(tensor, **layout, generator=generator)
    assert bool((tensor == 7).all()) and torch.equal(generator.get_state(), before)


# ---------------------------------------------------------------------------------------------------------------
# Variances


BIG: dict[str, tuple[tuple[int, ...], dict[str, Any], float, float]] = {
    "linear": ((1000, 4000), {}, 4000, 1000),
    "(inputs, outputs) matrix": ((1000, 4000), {"in_dim": 0}, 1000, 4000),
    "grouped convolution": ((1000, 250, 4, 4), {"groups": 4}, 4000, 4000),
    "transposed convolution": ((1000, 250, 4, 4), {"in_dim": 0}, 16000, 4000),
    "queries, keys and values": ((3000, 1000), {"splits": 3}, 1000, 1000),
    "experts": ((8, 500, 1000), {"batch_dims": 0}, 1000, 500),
}


@pytest.mark.parametrize("name", BIG)
@pytest.mark.parametrize("distribution", ["truncated_normal", "normal", "uniform"])
@pytest.mark.parametrize("mode", ["fan_in", "fan_out", "fan_avg", "fan_geo_avg"])
def test_the_variance_is_the_one_asked_for(name: str, mode: Any, distribution: Any) -> None:
    shape, layout, ins, outs = BIG[name]
    fan = {"fan_in": ins, "fan_out": outs, "fan_avg": (ins + outs) / 2}.get(mode, math.sqrt(ins * outs))
    w = torch.empty(shape)
    assert extra.variance_scaling_(w, 2.0, mode, distribution, **layout, generator=seeded()) is w
    # The standard error of a standard deviation of n values is at most 1 / sqrt(2 n) of it.
    assert abs(w.double().std().item() / math.sqrt(2 / fan) - 1) < 6 / math.sqrt(2 * w.numel())
    assert abs(w.double().mean().item()) * math.sqrt(fan / 2 * w.numel()) < 6


def test_unequal_splits_have_fans_of_their_own() -> None:
    w = torch.empty(1000 + 200 + 200, 1000)
    extra.variance_scaling_(w, mode="fan_out", splits=(1000, 200, 200), generator=seeded())
    for piece, size in zip(w.split((1000, 200, 200)), (1000, 200, 200), strict=True):
        assert abs(piece.std().item() * math.sqrt(size) - 1) < 6 / math.sqrt(2 * piece.numel())
    assert not torch.equal(w[1000:1200], w[1200:])


def test_splits_take_one_key_and_the_values_of_the_whole() -> None:
    first, second = seeded(), seeded()
    w = extra.xavier_normal_(torch.empty(30, 8, dtype=torch.float64), splits=(10, 20), generator=first)
    whole = fastinit.normal_(torch.empty(30, 8, dtype=torch.float64), generator=second)
    stds = torch.tensor([math.sqrt(2 / (8 + size)) for size in (10, 20)]).repeat_interleave(
        torch.tensor([10, 20])
    )
    assert torch.allclose(w, whole * stds.double()[:, None], rtol=1e-6)
    assert torch.equal(first.get_state(), second.get_state())


def test_splits_take_their_key_by_name() -> None:
    layer = nn.Linear(8, 30, bias=False)
    with fastinit.keys_by_name(layer, seed=5) as names:
        extra.xavier_normal_(layer.weight, splits=(10, 20))
    assert names.fills == {"weight": 1}
    key = _C.Key(fastinit.key_of_name(5, "weight"))
    expected = extra.xavier_normal_(torch.empty(30, 8), splits=(10, 20), generator=key)  # type: ignore[arg-type]
    assert torch.equal(layer.weight, expected)


def test_splits_of_a_part_are_those_of_the_whole() -> None:
    options: dict[str, Any] = {"mode": "fan_out", "splits": (10, 3, 17)}
    whole = extra.variance_scaling_(torch.empty(30, 8), **options, generator=seeded())
    for first, last in ((0, 30), (8, 12), (11, 30), (13, 14)):
        part = torch.empty(last - first, 5)
        extra.variance_scaling_(fastinit.part_of(part, (30, 8), (first, 2)), **options, generator=seeded())
        assert torch.equal(part, whole[first:last, 2:7])
    flat = torch.empty(100)
    extra.variance_scaling_(fastinit.part_of(flat, (30, 8), 77), **options, generator=seeded())
    assert torch.equal(flat, whole.flatten()[77:177])
    pieces = torch.empty(9, 8)
    place = [[(2, 5), (9, 2), (20, 2)], 0]
    extra.variance_scaling_(fastinit.part_of(pieces, (30, 8), place), **options, generator=seeded())  # type: ignore[arg-type]
    assert torch.equal(pieces, torch.cat([whole[2:7], whole[9:11], whole[20:22]]))


@pytest.mark.parametrize("who", ["xavier", "kaiming"])
@pytest.mark.parametrize("what", ["normal", "uniform"])
@pytest.mark.parametrize("shape", [(20, 30), (8, 6, 3, 5)])
def test_torchs_names_are_the_drop_in_functions_where_there_is_no_layout(
    who: str, what: str, shape: tuple[int, ...]
) -> None:
    name = f"{who}_{what}_"
    arguments = (1.7,) if who == "xavier" else (0.3, "fan_out", "leaky_relu")
    ours = getattr(extra, name)(torch.empty(shape), *arguments, seeded())
    assert torch.equal(ours, getattr(fastinit, name)(torch.empty(shape), *arguments, seeded()))


@pytest.mark.parametrize(
    "truncate", [1e-6, 0.01, 0.3, 0.9999, 1.0, 1.0001, 1.5, 2.0, 3.0, 8.0, 40.0, math.inf]
)
def test_truncated_std(truncate: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    # scipy's loses its digits near 0, where the distribution is uniform but for a term of second order.
    uniform = truncate / math.sqrt(3) * (1 - truncate**2 / 15)
    expected = uniform if truncate < 0.01 else stats.truncnorm.std(-truncate, truncate)
    assert extra.truncated_std(truncate) == pytest.approx(expected, rel=1e-9)


def test_truncation_in_units_of_sigma() -> None:
    w = extra.trunc_normal_(torch.empty(1000, 1000), 5.0, 0.1, 1.5, generator=seeded())
    assert torch.equal(w, fastinit.trunc_normal_(torch.empty(1000, 1000), 5.0, 0.1, 4.85, 5.15, seeded()))
    for truncate in (0.5, 2.0, 3.0):
        extra.trunc_normal_(w, 0.0, 0.1, truncate, corrected=True, generator=seeded())
        assert abs(w.double().std().item() / 0.1 - 1) < 6 / math.sqrt(2 * w.numel())
        assert w.abs().max().item() <= truncate * 0.1 / extra.truncated_std(truncate) * (1 + 1e-6)
    for truncate in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="truncate must be above 0"):
            extra.trunc_normal_(w, truncate=truncate)


def test_a_scale_of_zero_fills_with_zeros_and_takes_its_key() -> None:
    for distribution in ("truncated_normal", "normal", "uniform"):
        first, second = seeded(), seeded()
        w = extra.variance_scaling_(torch.ones(3, 4), 0.0, "fan_in", distribution, generator=first)  # type: ignore[arg-type]
        fastinit.normal_(torch.empty(1), generator=second)
        assert w.count_nonzero() == 0 and torch.equal(first.get_state(), second.get_state())


def test_depth_and_width() -> None:
    def std(function: Callable[..., Tensor], *arguments: Any, **options: Any) -> float:
        w = function(torch.empty(800, 1250), *arguments, **options, generator=seeded())
        assert abs(w.mean().item()) < 6 * w.std().item() / math.sqrt(w.numel())
        return w.double().std().item()

    close = {"rel": 6 / math.sqrt(2e6)}
    assert std(extra.residual_normal_, 8) == pytest.approx(0.005, **close)
    assert std(extra.small_normal_) == pytest.approx(math.sqrt(2 / 6250), **close)
    assert std(extra.small_normal_, 640) == pytest.approx(0.025, **close)
    assert std(extra.wang_normal_, 4, 400) == pytest.approx(0.025, **close)
    assert std(extra.mup_normal_) == pytest.approx(math.sqrt(1 / 1250), **close)
    assert std(extra.mup_normal_, "input", 4.0) == pytest.approx(2 * math.sqrt(1 / 1250), **close)
    assert std(extra.mup_normal_, "output") == pytest.approx(1 / 1250, **close)
    assert std(extra.mup_normal_, "output", in_dim=0) == pytest.approx(1 / 800, **close)
    assert std(extra.siren_uniform_) == pytest.approx(math.sqrt(2 / 1250) / 30, **close)
    assert std(extra.siren_uniform_, first=True) == pytest.approx(1 / 1250 / math.sqrt(3), **close)
    assert extra.deepnet_scales(encoder_layers=18) == pytest.approx((36**0.25, 144**-0.25))
    assert extra.deepnet_scales(decoder_layers=18) == extra.deepnet_scales(encoder_layers=18)
    assert extra.deepnet_scales(3, 7, "encoder") == pytest.approx(
        (0.81 * 567 ** (1 / 16), 0.87 * 567 ** (-1 / 16))
    )
    assert extra.deepnet_scales(3, 7, "decoder") == pytest.approx((21**0.25, 84**-0.25))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda w: extra.residual_normal_(w, 0), "layers must be at least 1"),
        (lambda w: extra.wang_normal_(w, -1), "layers must be at least 1"),
        (lambda w: extra.small_normal_(w, 0), "dim must be at least 1"),
        (lambda w: extra.small_normal_(torch.tensor(1.0)), "has no width"),
        (lambda w: extra.mup_normal_(w, "head"), "role must be"),
        (lambda w: extra.mup_normal_(w, scale=-1.0), "scale must be finite"),
        (lambda w: extra.siren_uniform_(w, 0.0), "omega must be finite"),
        (lambda w: extra.variance_scaling_(w, math.inf), "scale must be finite"),
        (lambda w: extra.variance_scaling_(w, 1.0, "fan"), "mode must be"),
        (lambda w: extra.variance_scaling_(w, 1.0, "fan_in", "cauchy"), "distribution must be one of"),
        (lambda w: extra.deepnet_scales(), "0 encoder and 0 decoder layers"),
        (lambda w: extra.deepnet_scales(3, 4), "part must be encoder or decoder"),
        (lambda w: extra.deepnet_scales(3, part="decoder"), "there is no decoder"),
        (lambda w: extra.identity_(torch.empty(3)), "dimensions"),
    ],
)
def test_wrong_arguments(call: Callable[[Tensor], Any], message: str) -> None:
    w = torch.full((3, 4), 7.0)
    with pytest.raises(ValueError, match=message):
        call(w)
    assert bool((w == 7).all())


def test_identity_passes_on() -> None:
    assert torch.equal(extra.identity_(torch.empty(3, 5)), torch.eye(3, 5))
    conv = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
    extra.identity_(conv.weight, 2)
    image = torch.rand(2, 4, 5, 5)
    assert torch.equal(conv(image), image)


# ---------------------------------------------------------------------------------------------------------------
# As everywhere


@pytest.mark.parametrize("name", extra.__all__)
def test_docstring_has_every_part(name: str) -> None:
    function = getattr(extra, name)
    text = inspect.cleandoc(function.__doc__)
    assert re.match(r"[A-Z][^\n]+\.\n", text), "one sentence first"
    for part in ("Args:", "Example:") + ("Returns:",) * (name in FILLS):
        assert part in text
    for parameter in inspect.signature(function).parameters:
        assert re.search(rf"^    (\w+, )*{parameter}(, \w+)*: ", text, re.MULTILINE), parameter


def test_reports_have_the_fills_that_they_are_made_of() -> None:
    layer = nn.Linear(30, 20)
    with fastinit.enabled() as report:
        extra.lecun_normal_(layer.weight)
        extra.variance_scaling_(layer.bias, fan_in=30, fan_out=20)
    fills = report.parameters(layer)
    for name, parameter in layer.named_parameters():
        fill = fills[name]
        assert fill is not None and fill.function == "trunc_normal_" and fill.matches(parameter)


def test_meta_and_empty_tensors() -> None:
    generator = seeded()
    before = generator.get_state()
    for function in SCALED.values():
        assert function(torch.empty(3, 4, device="meta"), generator=generator).is_meta
        assert function(torch.empty(0, 4), generator=generator).shape == (0, 4)
        assert function(torch.empty(4, 0), splits=(1, 3), generator=generator).shape == (4, 0)
    assert torch.equal(generator.get_state(), before)


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiled(backend: str) -> None:
    def program(w: Tensor) -> Tensor:
        extra.lecun_normal_(w)
        return extra.kaiming_uniform_(w, nonlinearity="relu", in_dim=0)

    torch.manual_seed(1)
    expected = program(torch.empty(6, 8))
    torch.manual_seed(1)
    assert torch.equal(torch.compile(program, backend=backend, fullgraph=True)(torch.empty(6, 8)), expected)


# ---------------------------------------------------------------------------------------------------------------
# docs/formulas.md


def formulas() -> list[tuple[str, str]]:
    text = (Path(__file__).parents[2] / "docs" / "formulas.md").read_text()
    rows = [line.split(" | ") for line in text.splitlines() if re.match(r"\| `[\w.]+_\(w", line)]
    return [(row[0].strip("| `"), row[2].strip("`")) for row in rows if len(row) == 4]


def test_every_function_has_its_formula() -> None:
    text = " ".join(call for call, _ in formulas())
    others = {
        "batched_orthogonal_",
        "delta_orthogonal_",
        "identity_",
        "kaiming_normal_",
        "kaiming_uniform_",
        "xavier_uniform_",
    }
    for name in {*FILLS} - others:
        assert f"extra.{name}(" in text, name


@pytest.mark.parametrize(("call", "std"), formulas())
def test_formula(call: str, std: str) -> None:
    torch.manual_seed(1)
    w = torch.empty(400, 500, 5)
    w = w[:, :, 0] if call.startswith("sparse_") else w
    names = {
        "gain": 1.7,
        "scale": 2.5,
        "slope": 0.3,
        "mean": 0.1,
        "truncate": 1.3,
        "omega": 20.0,
        "sparsity": 0.25,
    }
    names |= {"a": -0.3, "b": 0.5, "std": 0.02, "layers": 12, "width": 640, "w": w}
    fan_in, fan_out = nn.init._calculate_fan_in_and_fan_out(w)
    names |= {"fan_in": fan_in, "fan_out": fan_out, "sqrt": math.sqrt, "truncated_std": extra.truncated_std}
    eval(call, {**vars(fastinit), "extra": extra}, names)
    assert abs(w.double().std().item() / eval(std, names) - 1) < 6 / math.sqrt(2 * w.numel())
