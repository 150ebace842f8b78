"""Keys as arguments of fastinit.extra, one for each sample under torch.vmap, and what torch's transforms make of a fill."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.fx.experimental.proxy_tensor import make_fx

import fastinit
from fastinit import extra

SHAPE = (6, 8)

# Each function on a weight of that shape.
FILLS: dict[str, Callable[..., Tensor]] = {
    "variance_scaling_": extra.variance_scaling_,
    "variance_scaling_, splits": lambda w, **k: extra.variance_scaling_(
        w, mode="fan_avg", splits=(2, 4), **k
    ),
    "lecun_normal_": extra.lecun_normal_,
    "lecun_uniform_": extra.lecun_uniform_,
    "xavier_normal_": extra.xavier_normal_,
    "xavier_uniform_": extra.xavier_uniform_,
    "kaiming_normal_": extra.kaiming_normal_,
    "kaiming_uniform_": extra.kaiming_uniform_,
    "trunc_normal_": lambda w, **k: extra.trunc_normal_(w, corrected=True, **k),
    "residual_normal_": lambda w, **k: extra.residual_normal_(w, layers=3, **k),
    "small_normal_": extra.small_normal_,
    "wang_normal_": lambda w, **k: extra.wang_normal_(w, layers=3, **k),
    "mup_normal_": lambda w, **k: extra.mup_normal_(w, "output", **k),
    "siren_uniform_": extra.siren_uniform_,
    "batched_orthogonal_": lambda w, **k: extra.batched_orthogonal_(w.view(2, 3, 8), **k).view(SHAPE),
    "delta_orthogonal_": lambda w, **k: extra.delta_orthogonal_(w.view(8, 2, 3), **k).view(SHAPE),
}
every_fill = pytest.mark.parametrize("name", FILLS)
KEYS = extra.split_key(7, 5)


def new() -> Tensor:
    return torch.full(SHAPE, math.nan)


def alone(name: str, keys: Tensor = KEYS) -> Tensor:
    return torch.stack([FILLS[name](new(), key=key) for key in keys])


def test_all_random_functions_are_here() -> None:
    drawing = {name for name in extra.__all__ if name.endswith("_")} - {"identity_"}
    assert drawing == {name.partition(",")[0] for name in FILLS}


# ---------------------------------------------------------------------------------------------------------------
# One key


@every_fill
def test_a_key_in_each_of_its_forms(name: str) -> None:
    fill, key = FILLS[name], 0xFEDCBA9876543210
    expected = fill(new(), key=key)
    signed = key - 2**64
    forms: list[Any] = [signed, np.uint64(key), torch.tensor(signed), torch.tensor([signed, 0])[0]]
    for form in forms:
        assert torch.equal(fill(new(), key=form), expected), form
    assert not torch.equal(fill(new(), key=key - 1), expected)


@every_fill
def test_a_key_is_the_one_that_a_generator_would_give(name: str) -> None:
    """And with a key no generator moves."""
    fill = FILLS[name]
    torch.manual_seed(3)
    expected = fill(new())
    torch.manual_seed(3)
    key = torch.ops.fastinit.take_key(torch.empty(1))
    before = torch.get_rng_state()
    assert torch.equal(fill(new(), key=key), expected)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_key_on_the_meta_device_fills_nothing() -> None:
    weight = torch.empty(SHAPE, device="meta")
    for key in (torch.tensor(5), torch.empty((), dtype=torch.int64, device="meta")):
        assert extra.lecun_normal_(weight, key=key) is weight


def test_a_key_of_another_default_device() -> None:
    expected = extra.lecun_normal_(new(), key=5)
    weight = new()
    with torch.device("meta"):
        extra.lecun_normal_(weight, key=5)
    assert torch.equal(weight, expected)


@pytest.mark.parametrize(
    "key", [True, 1.5, "5", None.__class__, 2**64, -(2**63) - 1, torch.tensor(1.0), torch.tensor([5]),
            torch.tensor(5, dtype=torch.int32), torch.zeros(2, dtype=torch.int64)], ids=repr,
)  # fmt: skip
def test_what_is_no_key(key: Any) -> None:
    weight = new()
    for function in (extra.lecun_normal_, lambda w, key: extra.split_key(key, 2)):
        with pytest.raises((TypeError, ValueError), match=r"^key must"):
            function(weight, key=key)
    assert weight.isnan().all()


def test_a_generator_and_a_key() -> None:
    with pytest.raises(ValueError, match="one key"):
        extra.lecun_normal_(new(), generator=torch.Generator(), key=5)


def split_mix(state: int, count: int) -> list[int]:
    """SplitMix64, as the paper has it."""
    found = []
    for _ in range(count):
        state = (state + 0x9E3779B97F4A7C15) % 2**64
        z = state
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        z = (z ^ z >> 27) * 0x94D049BB133111EB % 2**64
        found.append(z ^ z >> 31)
    return found


def test_split_key() -> None:
    assert split_mix(0, 1) == [0xE220A8397B1DCDAF]  # a published value
    for key in (0, 1, 2**63, 2**64 - 1, 0x0123456789ABCDEF):
        assert [k % 2**64 for k in extra.split_key(key, 100).tolist()] == split_mix(key, 100)
    assert torch.equal(extra.split_key(torch.tensor(-1), 3), extra.split_key(2**64 - 1, 3))
    with pytest.raises(ValueError, match="count must be at least 1"):
        extra.split_key(0, 0)


def torchs_key(seed: int, offset: int = 0) -> Tensor:
    """A key of ``torch.func._random``, which newer torch has: a seed and an offset."""
    return torch.tensor([seed, offset], dtype=torch.uint64)


def test_torchs_own_keys() -> None:
    assert torch.equal(extra.lecun_normal_(new(), key=torchs_key(42)), extra.lecun_normal_(new(), key=42))
    other = extra.lecun_normal_(new(), key=torchs_key(42, 1))
    expected = 42 ^ split_mix(1, 1)[0] ^ split_mix(0, 1)[0]
    assert torch.equal(other, extra.lecun_normal_(new(), key=expected))
    keys = torch.stack([torchs_key(seed, offset) for seed, offset in [(1, 0), (1, 1), (2**64 - 1, 4)]])
    weights = torch.vmap(lambda w, key: extra.lecun_normal_(w, key=key))(new().repeat(3, 1, 1), keys)
    assert torch.equal(weights, alone("lecun_normal_", keys))
    random = pytest.importorskip("torch.func._random")
    assert torch.equal(random.key(42), torchs_key(42))


def test_compiled_with_a_key() -> None:
    def both(weight: Tensor, key: Tensor) -> Tensor:
        extra.variance_scaling_(weight, splits=(2, 4), key=key)
        return weight + extra.lecun_normal_(torch.empty(SHAPE), key=5)

    expected = both(new(), torch.tensor(9))
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(new(), torch.tensor(9)), expected)


@every_fill
@pytest.mark.parametrize("key", [3, torch.tensor(3)], ids=["int", "tensor"])
def test_blocks(name: str, key: Any) -> None:
    """A report, deferred construction and keys by name take a key as it is."""
    expected, linear = FILLS[name](new(), key=key), nn.Linear(8, 6)
    with fastinit.enabled() as report, torch.no_grad():
        FILLS[name](linear.weight, key=key)
    assert torch.equal(linear.weight, expected)
    assert report.recipe(linear) is not None
    with fastinit.deferred() as deferred:
        model = nn.Linear(8, 6)
        with torch.no_grad():
            FILLS[name](model.weight, key=key)
    deferred.recipe(model).materialize_(model)
    assert torch.equal(model.weight, expected)
    with fastinit.keys_by_name(model, 0), torch.no_grad():
        model.weight.fill_(math.nan)
        FILLS[name](model.weight, key=key)
    assert torch.equal(model.weight, expected)


# ---------------------------------------------------------------------------------------------------------------
# vmap


@every_fill
@pytest.mark.parametrize("randomness", ["error", "same", "different"])
def test_a_key_for_each_sample(name: str, randomness: str) -> None:
    """Nothing is drawn from a generator, so that randomness has no say."""
    filled = torch.vmap(lambda w, key: FILLS[name](w, key=key), randomness=randomness)
    assert torch.equal(filled(new().repeat(5, 1, 1), KEYS), alone(name))
    made = torch.vmap(lambda key: FILLS[name](key.new_empty(SHAPE, dtype=torch.float32), key=key))
    assert torch.equal(made(KEYS), alone(name))


@every_fill
def test_randomness(name: str) -> None:
    fill, batch = FILLS[name], new().repeat(5, 1, 1)
    torch.manual_seed(3)
    one = fill(new())
    state = torch.get_rng_state()
    torch.manual_seed(3)
    key = torch.ops.fastinit.take_key(torch.empty(1))
    for randomness, expected in [
        ("same", one.expand(5, *SHAPE)),
        ("different", alone(name, extra.split_key(key, 5))),
    ]:
        torch.manual_seed(3)
        assert torch.equal(torch.vmap(fill, randomness=randomness)(batch.clone()), expected)
        assert torch.equal(torch.get_rng_state(), state)  # one key
    with pytest.raises(RuntimeError, match="vmap"):
        torch.vmap(fill)(batch)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.complex64, torch.float8_e4m3fn], ids=str
)
@pytest.mark.parametrize("name", ["uniform_", "normal_", "sparse_", "orthogonal_", "batched_orthogonal_"])
def test_samples_of_any_dtype_and_layout(name: str, dtype: torch.dtype) -> None:
    op = getattr(torch.ops.fastinit, name).key
    arguments = {"uniform_": (-1.0, 1.0), "normal_": (0.0, 1.0), "sparse_": (0.4, 0.1)}.get(name, (1.0,))
    shape = (2, 300, 5) if name == "batched_orthogonal_" else (300, 5)

    def fill(weight: Tensor, key: Tensor) -> Tensor:
        op(weight, *arguments, key=key)
        return weight

    expected = torch.stack([fill(torch.empty(shape, dtype=dtype), key) for key in KEYS])
    for dim in range(len(shape) + 1):
        sizes = [*shape[:dim], 5, *shape[dim:]]
        for batch in (
            torch.empty(sizes, dtype=dtype),
            torch.empty(sizes[::-1], dtype=dtype).permute(*range(len(sizes))[::-1]),
        ):
            torch.vmap(fill, in_dims=(dim, 0))(batch, KEYS)
            result = batch.movedim(dim, 0).contiguous()
            assert torch.equal(result.view(torch.uint8), expected.view(torch.uint8)), (dim, batch.stride())


def test_nested() -> None:
    keys = extra.split_key(1, 15).view(3, 5)
    expected = torch.stack([alone("lecun_normal_", row) for row in keys])

    def fill(weight: Tensor, key: Tensor) -> Tensor:
        return extra.lecun_normal_(weight, key=key)

    batch = torch.empty(3, 5, *SHAPE)
    assert torch.equal(torch.vmap(torch.vmap(fill))(batch, keys), expected)
    assert torch.equal(
        torch.vmap(torch.vmap(fill, in_dims=(0, None)))(batch, keys[:, 2])[:, 4], expected[:, 2]
    )
    assert torch.equal(torch.vmap(torch.vmap(fill), in_dims=(0, None))(batch, keys[1])[2], expected[1])


@pytest.mark.parametrize(("outer", "inner", "count"), [("same", "same", 1), ("same", "different", 5),
                                                       ("different", "same", 3), ("different", "different", 15)])  # fmt: skip
def test_nested_randomness(outer: str, inner: str, count: int) -> None:
    fill = torch.vmap(torch.vmap(extra.lecun_normal_, randomness=inner), randomness=outer)
    assert len(fill(torch.empty(3, 5, *SHAPE)).view(15, -1).unique(dim=0)) == count


def test_an_ensemble_in_one_call() -> None:
    def model(key: Tensor) -> tuple[Tensor, Tensor]:
        first, second = extra.split_key(key, 2).unbind()
        hidden = extra.kaiming_normal_(key.new_empty(64, 32, dtype=torch.float32), key=first)
        return hidden, extra.xavier_uniform_(key.new_empty(10, 64, dtype=torch.bfloat16), key=second)

    for stacked, each in zip(torch.vmap(model)(KEYS), zip(*map(model, KEYS), strict=True), strict=True):
        assert torch.equal(stacked, torch.stack(each))


def test_a_tensor_that_is_the_same_for_all_samples() -> None:
    weight = new()
    with pytest.raises(RuntimeError, match="new_empty"):
        torch.vmap(lambda key: extra.lecun_normal_(weight, key=key))(KEYS)
    assert weight.isnan().all()
    torch.vmap(lambda x: x + extra.lecun_normal_(weight, key=5).sum())(torch.ones(3))
    assert torch.equal(weight, extra.lecun_normal_(new(), key=5))


def test_samples_without_elements() -> None:
    state = torch.get_rng_state()
    fill = torch.vmap(lambda w, key: extra.lecun_normal_(w, key=key))
    assert fill(torch.empty(5, 0, 8), KEYS).shape == (5, 0, 8)
    assert torch.equal(torch.get_rng_state(), state)


def test_gradients_around() -> None:
    def loss(x: Tensor, key: Tensor) -> Tensor:
        return (extra.lecun_normal_(key.new_empty(SHAPE, dtype=torch.float32), key=key) * x).sum()

    sums = alone("lecun_normal_").sum((1, 2))
    assert torch.allclose(torch.vmap(torch.func.grad(loss))(torch.ones(5), KEYS), sums)
    assert torch.allclose(
        torch.func.jacrev(lambda x: torch.vmap(loss, in_dims=(None, 0))(x, KEYS))(torch.tensor(1.0)), sums
    )


# ---------------------------------------------------------------------------------------------------------------
# functionalize, make_fx, export


@every_fill
def test_functionalize(name: str) -> None:
    fill, functional = FILLS[name], torch.func.functionalize
    expected = fill(new(), key=5)
    weight = new()
    assert torch.equal(functional(lambda w: fill(w, key=5))(weight), expected)
    assert torch.equal(weight, expected)  # the change is seen outside
    torch.manual_seed(3)
    drawn = functional(fill)(new())
    torch.manual_seed(3)
    assert torch.equal(drawn, fill(new()))


@pytest.mark.parametrize("name", [name for name in fastinit.init.__all__ if name.endswith("_")])
def test_functionalize_the_drop_in_functions(name: str) -> None:
    function = getattr(fastinit, name)
    arguments = {"constant_": (2.0,), "sparse_": (0.4,)}.get(name, ())
    shape = (4, 4, 3) if name == "dirac_" else (6, 8)
    torch.manual_seed(3)
    expected = function(torch.zeros(shape), *arguments)
    torch.manual_seed(3)
    assert torch.equal(
        torch.func.functionalize(lambda w: function(w, *arguments))(torch.zeros(shape)), expected
    )


def test_functionalize_views_and_checks() -> None:
    functional, base = torch.func.functionalize, torch.zeros(6, 8)

    def fill(base: Tensor) -> Tensor:
        extra.lecun_normal_(base.t()[2:5], key=5)
        return base * 1

    expected = fill(base.clone())
    assert torch.equal(functional(fill)(base), expected) and torch.equal(base, expected)
    state = torch.get_rng_state()
    for weight in (torch.zeros(1, 3).expand(2, 3), torch.zeros(2, 3, dtype=torch.int64)):
        with pytest.raises((RuntimeError, NotImplementedError), match="fastinit"):
            functional(fastinit.normal_)(weight)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of torch's own copy
def test_functionalize_and_vmap() -> None:
    functional, batch = torch.func.functionalize, new().repeat(5, 1, 1)

    def fill(weight: Tensor, key: Tensor) -> Tensor:
        return extra.lecun_normal_(weight, key=key)

    expected = alone("lecun_normal_")
    assert torch.equal(functional(torch.vmap(fill))(batch.clone(), KEYS), expected)
    assert torch.equal(torch.vmap(functional(fill))(batch.clone(), KEYS), expected)
    drawn = torch.vmap(functional(extra.lecun_normal_), randomness="different")(batch.clone())
    assert len(drawn.unique(dim=0)) == 5


@every_fill
@pytest.mark.parametrize("transform", [lambda f: f, torch.func.functionalize], ids=["", "functionalize"])
def test_make_fx(name: str, transform: Any) -> None:
    """The graph draws with the key that it is given, or with one of the generator: nothing is baked in."""
    fill = FILLS[name]
    graph = make_fx(transform(lambda w, key: fill(w, key=key)))(new(), torch.tensor(5))
    assert torch.equal(graph(new(), torch.tensor(9)), fill(new(), key=9))
    names = [str(node.target) for node in graph.graph.nodes if "fastinit" in str(node.target)]
    mutating = [name for name in names if name.split(".")[1].endswith("_")]
    assert names and (not mutating if transform is torch.func.functionalize else mutating)
    graph = make_fx(transform(lambda w: fill(w)))(new())
    torch.manual_seed(4)
    drawn = graph(new())
    torch.manual_seed(4)
    assert torch.equal(drawn, fill(new()))


@pytest.mark.parametrize("functional", [False, True])
def test_make_fx_of_an_ensemble(functional: bool) -> None:
    fill: Any = torch.vmap(lambda w, key: extra.lecun_normal_(w, key=key))
    graph = make_fx(torch.func.functionalize(fill) if functional else fill)(new().repeat(5, 1, 1), KEYS)
    keys = extra.split_key(8, 5)
    assert torch.equal(graph(new().repeat(5, 1, 1), keys), alone("lecun_normal_", keys))
    assert [node.target for node in graph.graph.nodes if "trunc_normal" in str(node.target)] == [
        torch.ops.fastinit.trunc_normal.key if functional else torch.ops.fastinit.trunc_normal_.key
    ]


class Fresh(nn.Module):
    def __init__(self, name: str, batch: bool = False) -> None:
        super().__init__()
        fill = FILLS[name]
        self.fill: Any = (
            torch.vmap(lambda w, key: fill(w, key=key)) if batch else lambda w, key: fill(w, key=key)
        )

    def forward(self, weight: Tensor, key: Tensor) -> Tensor:
        result: Tensor = self.fill(weight.clone(), key)
        return result


@every_fill
@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch's own
def test_export(name: str, strict: bool) -> None:
    program = torch.export.export(Fresh(name), (new(), torch.tensor(5)), strict=strict)
    for each in (program, program.run_decompositions()):
        assert torch.equal(each.module()(new(), torch.tensor(9)), FILLS[name](new(), key=9))


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_export_from_a_generator() -> None:
    class Drawn(nn.Module):
        def forward(self, weight: Tensor) -> Tensor:
            return extra.lecun_normal_(weight.clone())

    program = torch.export.export(Drawn(), (new(),))
    torch.manual_seed(3)
    drawn = program.module()(new())
    torch.manual_seed(3)
    assert torch.equal(drawn, extra.lecun_normal_(new()))


@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")
def test_export_an_ensemble_and_a_buffer() -> None:
    program = torch.export.export(Fresh("lecun_normal_", batch=True), (new().repeat(5, 1, 1), KEYS))
    assert torch.equal(program.module()(new().repeat(5, 1, 1), KEYS), alone("lecun_normal_"))

    class Buffer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("weight", new())

        def forward(self, key: Tensor) -> Tensor:
            return extra.lecun_normal_(self.weight, key=key) * 1

    module = torch.export.export(Buffer(), (torch.tensor(5),)).module()
    assert torch.equal(module(torch.tensor(9)), extra.lecun_normal_(new(), key=9))
    assert torch.equal(module.weight, extra.lecun_normal_(new(), key=9))
