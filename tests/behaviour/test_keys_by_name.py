"""keys_by_name: a parameter's values depend on its name and the seed, and on nothing else (contract C11)."""

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import fastinit
from fastinit._kernels import Key
from fastinit.keys import canonical_name, key_of_name

VECTORS = Path(__file__).parents[1] / "vectors" / "names.txt"


def lines() -> list[list[str]]:
    text = VECTORS.read_text().splitlines()
    return [line.split(" ", 3) for line in text if not line.startswith("#")]


@pytest.mark.parametrize("key, seed, count, name", lines())
def test_known_answers(key: str, seed: str, count: str, name: str) -> None:
    assert key_of_name(int(seed), name, int(count)) == int(key, 16)
    if int(seed) >= 2**63:
        assert key_of_name(int(seed) - 2**64, name, int(count)) == int(key, 16)


@pytest.mark.parametrize("seed, count", [(2**64, 0), (-(2**63) - 1, 0), (0, -1)])
def test_out_of_range(seed: int, count: int) -> None:
    with pytest.raises(ValueError):
        key_of_name(seed, "weight", count)
    if count == 0:
        with pytest.raises(ValueError, match="seed"), fastinit.keys_by_name(nn.Linear(2, 2), seed):
            pass


def net(layers: int = 3) -> nn.Sequential:
    return nn.Sequential(*(nn.Linear(4, 4) for _ in range(layers)))


def init(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        fastinit.kaiming_normal_(module.weight)
        fastinit.uniform_(module.bias)


def test_the_key_is_that_of_the_name() -> None:
    model = net()
    with fastinit.keys_by_name(model, seed=7) as names:
        model.apply(init)
    for i in range(3):
        weight = fastinit.kaiming_normal_(torch.empty(4, 4), generator=Key(key_of_name(7, f"{i}.weight")))
        assert torch.equal(model[i].weight, weight)
        bias = fastinit.uniform_(torch.empty(4), generator=Key(key_of_name(7, f"{i}.bias")))
        assert torch.equal(model[i].bias, bias)
    assert names.fills == {f"{i}.{kind}": 1 for i in range(3) for kind in ("weight", "bias")}
    assert names.unnamed == [] and str(names) == "keys by name: 6 fills of 6 names, seed 7"


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {canonical_name(name): tensor.clone() for name, tensor in model.state_dict().items()}


def drawn(model: nn.Module, seed: int = 0) -> dict[str, torch.Tensor]:
    with fastinit.keys_by_name(model, seed):
        model.apply(init)
    return state(model)


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def test_nothing_else_counts() -> None:
    """Other modules, their order, the generator's state, wrappers, other fills."""
    first = drawn(net())
    torch.manual_seed(12345)
    assert equal(drawn(net()), first)
    more = drawn(net(5))
    assert equal({name: more[name] for name in first}, first)
    model = net()
    with fastinit.keys_by_name(model):
        for module in reversed(list(model.modules())):
            fastinit.normal_(torch.empty(3))
            init(module)
    assert equal(state(model), first)
    assert not torch.equal(drawn(net(), seed=1)["0.weight"], first["0.weight"])


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        lambda m: torch.compile(m, backend="eager"),
        lambda m: nn.DataParallel(torch.compile(m, backend="eager")),
    ],
)
def test_wrappers(wrap: Callable[[nn.Module], nn.Module]) -> None:
    assert equal(drawn(wrap(net())), drawn(net()))


def test_the_generator_does_not_move() -> None:
    model, own = net(), torch.Generator().manual_seed(3)
    before = torch.get_rng_state(), own.get_state()
    with fastinit.keys_by_name(model):
        model.apply(init)
        fastinit.normal_(model[0].weight, generator=own)
    assert torch.equal(torch.get_rng_state(), before[0]) and torch.equal(own.get_state(), before[1])


def test_fills_are_counted() -> None:
    layer = nn.Linear(4, 4)
    with fastinit.keys_by_name(layer) as names:
        seen = [fastinit.normal_(layer.weight).detach().clone() for _ in range(3)]
        with pytest.raises(RuntimeError):
            fastinit.normal_(layer.weight, std=-1)
        fastinit.normal_(layer.weight)
    assert names.fills == {"weight": 4}
    for count, values in enumerate((*seen, layer.weight)):
        again = fastinit.normal_(torch.empty(4, 4), generator=Key(key_of_name(0, "weight", count)))
        assert torch.equal(values, again)
    with fastinit.keys_by_name(layer):  # another block counts anew
        fastinit.normal_(layer.weight)
    assert torch.equal(layer.weight, seen[0])


def test_views_are_the_parameters() -> None:
    layer = nn.Linear(4, 6)
    with fastinit.keys_by_name(layer) as names:
        for chunk in layer.weight.data.chunk(3):
            fastinit.normal_(chunk)
        fastinit.normal_(layer.weight.T)
        fastinit.normal_(layer.bias.data)
    assert names.fills == {"weight": 4, "bias": 1}
    key = Key(key_of_name(0, "weight", 3))
    assert torch.equal(layer.weight.T, fastinit.normal_(torch.empty(4, 6), generator=key))


def test_parameters_that_share_memory() -> None:
    """A fused weight whose parts are parameters: each part has its own name, the whole has none."""
    fused, model = torch.empty(6, 4), nn.Module()
    model.a, model.b = nn.Parameter(fused[:2]), nn.Parameter(fused[2:])
    with fastinit.keys_by_name(model) as names:
        fastinit.normal_(fused[2:4])
        fastinit.normal_(fused[:2])
        fastinit.normal_(fused)
    assert names.fills == {"b": 1, "a": 1}
    assert [place.function for place in names.unnamed] == ["normal_"]


def test_tied_parameters_and_buffers() -> None:
    model = nn.Module()
    model.embedding, model.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
    model.head.weight = model.embedding.weight
    model.register_buffer("table", torch.empty(3))
    with fastinit.keys_by_name(model) as names:
        fastinit.normal_(model.head.weight)
        fastinit.normal_(model.table)
    assert names.fills == {"embedding.weight": 1, "table": 1}


def test_what_has_no_name() -> None:
    model = net(1)
    torch.manual_seed(0)
    alone = fastinit.normal_(torch.empty(5))
    torch.manual_seed(0)
    with fastinit.enabled() as report, fastinit.keys_by_name(model) as names:
        model.apply(init)
        assert torch.equal(nn.init.normal_(torch.empty(5)), alone)
        fastinit.normal_(torch.empty(0))
    (place,) = names.unnamed
    assert (place.function, place.filename, place.calls) == ("normal_", __file__, 1)
    assert report.unnamed == names.unnamed
    line = f"key from the generator, not by name, 1×: normal_ at {__file__}:{place.line}"
    assert str(names).endswith(line) and str(report).endswith(line)


def test_a_key_that_is_given_is_used() -> None:
    layer = nn.Linear(4, 4)
    with fastinit.keys_by_name(layer) as names:
        fastinit.normal_(layer.weight, generator=Key(5))
    assert names.fills == {}
    assert torch.equal(layer.weight, fastinit.normal_(torch.empty(4, 4), generator=Key(5)))


@pytest.mark.parametrize("outside", [True, False])
def test_with_enabled(outside: bool) -> None:
    """torch's functions and methods, in either order."""
    model, by_fastinit = net(), drawn(net())

    def torchs(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            module.bias.data.uniform_()

    enabled, names = fastinit.enabled(), fastinit.keys_by_name(model)
    with contextlib.ExitStack() as stack:
        entered = [
            stack.enter_context(block) for block in ((enabled, names) if outside else (names, enabled))
        ]
        model.apply(torchs)
    assert equal(state(model), by_fastinit)
    (report,) = (each for each in entered if isinstance(each, fastinit.Report))
    fill = report.parameters(model)["1.weight"]
    assert fill is not None and fill.key == key_of_name(0, "1.weight") and fill.matches(model[1].weight)


def test_every_function() -> None:
    from testing import RANDOM, arguments, shape

    for name in RANDOM:
        model = nn.Module()
        model.weight = nn.Parameter(torch.empty(shape(name)))
        with fastinit.keys_by_name(model, seed=2):
            getattr(fastinit, name)(model.weight, *arguments(name))
        key = Key(key_of_name(2, "weight"))
        again = getattr(fastinit, name)(torch.empty(shape(name)), *arguments(name), generator=key)
        assert torch.equal(model.weight, again), name


def test_pipeline_stages() -> None:
    """Stages that count their layers from 0, each in a process with a generator of its own."""
    whole = drawn(net(4))
    for first in (0, 2):
        torch.manual_seed(100 + first)
        stage = net(2)

        def rename(name: str, first: int = first) -> str:
            number, rest = name.split(".")
            return f"{int(number) + first}.{rest}"

        with fastinit.keys_by_name(stage, rename=rename):
            stage.apply(init)
        assert all(torch.equal(tensor, whole[rename(name)]) for name, tensor in state(stage).items())


def test_parts_take_the_name_of_the_memory_that_they_fill() -> None:
    whole, part = nn.Linear(4, 8), nn.Linear(4, 4)
    with fastinit.keys_by_name(whole):
        fastinit.kaiming_normal_(whole.weight)
    with fastinit.keys_by_name(part) as names:
        fastinit.kaiming_normal_(fastinit.part_of(part.weight, (8, 4), (4, 0)))
    assert names.fills == {"weight": 1}
    assert torch.equal(part.weight, whole.weight[4:])


def test_the_same_name_twice() -> None:
    model = nn.Module()
    model.weight, model.module = nn.Parameter(torch.empty(2)), nn.Linear(2, 2)
    with pytest.raises(ValueError, match=r"module\.weight"), fastinit.keys_by_name(model):
        pass
    both = fastinit.keys_by_name(nn.Linear(2, 2), rename=lambda name: "x")
    with pytest.raises(ValueError, match="would both be called x"), both:
        pass


def test_a_parameter_that_is_put_in_later() -> None:
    model = net(1)
    with fastinit.keys_by_name(model) as names:
        model.append(nn.Linear(4, 4))
        fastinit.normal_(model[1].weight)
    assert names.fills == {"1.weight": 1}


def test_blocks_nest() -> None:
    model = net(2)
    with fastinit.keys_by_name(model, seed=1) as outer, fastinit.keys_by_name(model[0], seed=2) as inner:
        fastinit.normal_(model[0].weight)
        fastinit.normal_(model[1].weight)
    assert (outer.fills, inner.fills) == ({"1.weight": 1}, {"weight": 1})


def test_blocks_end() -> None:
    model = net(1)
    with contextlib.suppress(KeyError), fastinit.keys_by_name(model) as names:
        raise KeyError
    fastinit.normal_(model[0].weight)
    assert names.fills == {} and fastinit._kernels.named is None


def test_other_threads_are_not_affected() -> None:
    model = net(1)
    with fastinit.keys_by_name(model) as names:
        other = threading.Thread(target=lambda: fastinit.normal_(model[0].weight))
        other.start()
        other.join()
    assert names.fills == {}


def test_compiled_code_keeps_to_the_generator() -> None:
    model = net(1)

    @torch.compile(fullgraph=True, backend="eager")
    def fill(weight: torch.Tensor) -> torch.Tensor:
        return fastinit.normal_(weight)

    torch.manual_seed(0)
    alone = fastinit.normal_(torch.empty(4, 4))
    torch.manual_seed(0)
    with fastinit.keys_by_name(model) as names:
        fill(model[0].weight.data)
    assert names.fills == {} and torch.equal(model[0].weight, alone)


def test_on_the_meta_device_nothing_is_filled() -> None:
    with torch.device("meta"):
        model = net(1)
    with fastinit.keys_by_name(model) as names:
        model.apply(init)
        model.to_empty(device="cpu")
        model.apply(init)
    assert names.fills == {"0.weight": 1, "0.bias": 1}
    assert equal(state(model), drawn(net(1)))
