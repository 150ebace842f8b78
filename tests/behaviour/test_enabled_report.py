"""The report of fastinit.enabled(): the table, the fills of parameters, keys."""

import copy
import functools
import gc
import inspect
import math
import pickle
import threading
import warnings
import weakref
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import init

import fastinit
from blocks import run
from fills import assert_same, bits_of, int64
from testing import FIXED, FUNCTIONS, RANDOM, arguments, shape, untouched

pytestmark = pytest.mark.usefixtures("one_thread", "no_trace")


def test_the_table() -> None:
    with fastinit.enabled() as report:
        layer = nn.Linear(30, 20)
        init.normal_(layer.weight)
        init.zeros_(layer.bias)
        layer.weight.data[5:].uniform_()
        layer.weight.data.t()[:, :10].normal_()
        fastinit.orthogonal_(layer.weight)
        init.normal_(torch.empty(0))
    rows = {name: (row.calls, row.elements, row.bytes, row.redrawn) for name, row in report.functions.items()}
    assert rows == {
        "kaiming_uniform_": (1, 600, 2400, 0),
        "uniform_": (1, 20, 80, 0),
        "normal_": (1, 600, 2400, 600),
        "zeros_": (1, 20, 80, 0),
        "Tensor.uniform_": (1, 450, 1800, 450),
        "Tensor.normal_": (1, 300, 1200, 300),
        "orthogonal_": (1, 600, 2400, 600),
    }
    assert all(row.seconds > 0 for row in report.functions.values())
    assert (report.total.calls, report.total.elements, report.total.redrawn) == (7, 2590, 1950)
    lines = str(report).splitlines()
    assert lines[0].split() == ["function", "calls", "elements", "drawn", "again", "MiB", "seconds"]
    assert len(lines) == 9 and lines[-1].startswith("total") and "2,590" in lines[-1]


@pytest.mark.parametrize("parts", ["apart", "overlapping", "interleaved", "columns"])
def test_elements_drawn_again(parts: str) -> None:
    x = torch.empty(12, 8)
    views = {
        "apart": ([x[:3], x[5:], x[3:5]], 0),
        "overlapping": ([x[:6], x[3:9], x[5:7], x], 3 * 8 + 2 * 8 + 9 * 8),
        "interleaved": ([x[::2], x[1::2], x[::3]], 4 * 8),
        "columns": ([x[:, ::2], x[:, 1::2], x[:, 2:4]], 12 * 2),
    }
    with fastinit.enabled() as report:
        for view in views[parts][0]:
            init.normal_(view)
    assert report.total.redrawn == views[parts][1]


def test_memory_that_is_used_again_was_not_drawn_before() -> None:
    with fastinit.enabled() as report:
        for _ in range(50):
            init.normal_(torch.empty(1000))
    assert report.total.redrawn == 0
    assert report._log.memories() == 0


def test_tensors_are_not_kept() -> None:
    with fastinit.enabled() as report:
        layer = nn.Linear(30, 20)
        init.constant_(layer.bias, torch.tensor(0.5))
        gone = weakref.ref(layer.weight)
        del layer
        gc.collect()
        assert gone() is None and report._log.memories() == 0
        x = torch.empty(100)
        for _ in range(100):
            x[::2].normal_()
            x[:50].uniform_()
    assert report._log.memories() == 1 and len(report._log.seen(x)) == 2


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_parameter_can_be_redrawn(name: str) -> None:
    """From what the report says of it: function, arguments and key."""
    model = nn.Module()
    model.weight = nn.Parameter(torch.empty(shape(name)))
    given = {"std": 0.5} if name in ("normal_", "trunc_normal_", "sparse_") else {}
    with fastinit.enabled() as report:
        getattr(init, name)(model.weight, *arguments(name), **given)
    fill = report.parameters(model)["weight"]
    assert fill is not None
    assert fill.function == name and fill.whole and not fill.before
    names = [n for n in inspect.signature(getattr(init, name)).parameters if n not in ("tensor", "generator")]
    assert list(fill.arguments) == names
    assert given.items() <= fill.arguments.items()
    assert (fill.key is None) == (name in FIXED)
    assert fill.matches(model.weight)
    assert_same(fill.redraw(torch.empty_like(model.weight)), model.weight)
    with torch.no_grad():
        model.weight.mul_(1.5).add_(1)
    assert not fill.matches(model.weight)


@pytest.mark.parametrize("op", ["uniform_", "normal_", "trunc_normal_"])
def test_the_key_is_the_one_of_the_operator(op: str) -> None:
    layer = nn.Linear(30, 20)
    with fastinit.enabled() as report:
        getattr(init, op)(layer.weight)
    fill = report.parameters(layer)["weight"]
    assert fill is not None and fill.key is not None
    again = torch.empty(20, 30)
    getattr(torch.ops.fastinit, op).key(again, *fill.arguments.values(), key=int64(fill.key))
    assert_same(again, layer.weight)


@pytest.mark.parametrize("std", [np.float32(0.5), np.float64(0.5), torch.tensor(0.5), 2, True], ids=repr)
def test_keys_with_other_kinds_of_numbers(std: Any) -> None:
    layer = nn.Linear(30, 20)
    with fastinit.enabled() as report:
        init.normal_(layer.weight, std=std)
        layer.bias.data.normal_(0, std)
    for name, fill in report.parameters(layer).items():
        assert fill is not None and fill.matches(layer.get_parameter(name))


def test_looking_draws_nothing() -> None:
    """With and without a report, from the default generator and from another: the same values and states."""

    def draw() -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        torch.manual_seed(3)
        g = torch.Generator().manual_seed(4)
        values = [getattr(init, n)(torch.empty(shape(n)), *arguments(n)) for n in RANDOM]
        values += [torch.empty(5).normal_(generator=g), init.uniform_(torch.empty(6), generator=g)]
        return values, [torch.get_rng_state(), g.get_state()]

    fastinit.enable()
    try:
        plain = draw()
    finally:
        fastinit.disable()
    with fastinit.enabled():
        watched = draw()
    for one, other in zip(plain, watched, strict=True):
        assert all(map(torch.equal, one, other))


def test_what_is_refused_takes_no_key() -> None:
    with fastinit.enabled() as report:
        for name in RANDOM:
            with untouched(), pytest.raises(NotImplementedError):
                getattr(init, name)(torch.ones(shape(name), dtype=torch.int64), *arguments(name))
        with untouched(), pytest.raises(RuntimeError):
            fastinit.normal_(torch.empty(3), std=-1)
        with untouched(), pytest.raises(ValueError):
            fastinit.delta_orthogonal_(torch.empty(3, 4, 3))
    assert not report.functions


def test_keys_of_threads_that_share_a_generator() -> None:
    layers = [nn.Linear(9, 9) for _ in range(8)]
    wrong = []

    def work(layer: nn.Linear) -> None:
        with fastinit.enabled() as report:
            for _ in range(200):
                init.normal_(layer.weight)
                fill = report.parameters(layer)["weight"]
                if fill is None or not fill.matches(layer.weight):
                    wrong.append(layer)

    threads = [threading.Thread(target=work, args=(layer,)) for layer in layers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_parts_of_a_parameter() -> None:
    checkpoint = nn.Linear(4, 5).state_dict()
    with fastinit.enabled() as report:
        embedding = nn.Embedding(10, 4, padding_idx=3)
        fused = nn.Linear(4, 12, bias=False)
        for i, part in enumerate(fused.weight.data.chunk(3)):
            part.normal_(std=0.1 * (i + 1))
        transposed = nn.Linear(4, 6, bias=False)
        init.orthogonal_(transposed.weight.T)
        reshaped = nn.Conv2d(2, 3, 2, bias=False)
        init.xavier_uniform_(reshaped.weight.data.view(3, -1))
        untouched_layer = nn.Module()
        untouched_layer.weight = nn.Parameter(torch.zeros(3))
        loaded = nn.Linear(4, 5)
        loaded.load_state_dict(checkpoint)
        rounded = nn.Linear(4, 5, dtype=torch.bfloat16)
        with torch.no_grad():
            rounded.weight.copy_(init.xavier_normal_(torch.empty(4, 5).T))
    row = report.parameters(embedding)["weight"]
    assert row is not None and not row.whole and row.function == "Tensor.fill_" and row.offset == 12
    assert [fill.function for fill in row.before] == ["normal_"]
    assert row.matches(embedding.weight)
    parts = report.parameters(fused)["weight"]
    assert parts is not None and [p.function for p in parts.before] == [
        "kaiming_uniform_",
        "Tensor.normal_",
        "Tensor.normal_",
    ]
    assert parts.matches(fused.weight)
    for layer, function in ((transposed, "orthogonal_"), (reshaped, "xavier_uniform_")):
        fill = report.parameters(layer)["weight"]
        assert fill is not None and fill.function == function and fill.whole
        assert fill.matches(layer.weight) and not fill.before
    assert report.parameters(untouched_layer) == {"weight": None}
    copied = report.parameters(rounded)["weight"]
    assert copied is not None and copied.source is not None and copied.matches(rounded.weight)
    assert copied.function == "Tensor.copy_" and copied.source.function == "xavier_normal_"
    copied = report.parameters(loaded)["weight"]
    assert copied is not None and copied.function == "Tensor.copy_"
    with pytest.raises(ValueError, match="no key"):
        copied.redraw(torch.empty(5, 4))


def test_tied_weights() -> None:
    """Drawn once for each call, as in torch, and still tied."""

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(10, 4), nn.Linear(4, 10, bias=False)
            self.head.weight = self.embedding.weight
            self.apply(lambda m: init.normal_(m.weight) if hasattr(m, "weight") else None)

    with fastinit.enabled() as report:
        model = Tied()
    assert model.head.weight is model.embedding.weight
    assert report.functions["normal_"].calls == 3  # the constructor's, and one for each of the two modules
    fills = report.parameters(model)
    assert fills.keys() == {"embedding.weight", "head.weight"}
    assert fills["embedding.weight"] == fills["head.weight"]
    assert fills["head.weight"] is not None and fills["head.weight"].matches(model.head.weight)


def test_intervals() -> None:
    from fastinit._enabled.memory import Intervals

    known, intervals = set(), Intervals()
    g = torch.Generator().manual_seed(0)
    for start, length in torch.randint(0, 60, (300, 2), generator=g).tolist():
        if length:
            added = set(range(start, start + length // 4 + 1))
            assert intervals.add(min(added), max(added) + 1) == len(added & known)
            known |= added
    assert bits_of(torch.empty(0)).numel() == 0
    assert sum(end - start for start, end in intervals.ranges) == len(known)


def test_a_report_of_parts_of_one_memory() -> None:
    memory, model = torch.empty(6000, 4), nn.Module()
    model.many = nn.Parameter(memory[:5000, ::2])  # in more pieces than are told apart
    model.beside = nn.Parameter(memory[5500:])
    model.copied = nn.Parameter(torch.empty(20, 4))
    model.lazy = nn.UninitializedParameter()
    with fastinit.enabled() as report:
        init.normal_(memory[:10])
        with torch.no_grad():
            model.copied.copy_(memory[:20])
        init.uniform_(model.many)
    found = report.parameters(model)
    assert found["many"].function == "uniform_"
    assert found["beside"] is None and found["lazy"] is None
    assert found["copied"].function == "Tensor.copy_" and found["copied"].source is None, "half was filled"


def test_a_function_that_is_none_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    everything = fastinit._enabled.patch.prepare()
    monkeypatch.setattr(init, "ones_", functools.partial(init.constant_, val=1.0))
    assert everything.keys() - fastinit._enabled.patch.prepare().keys() == {"ones_"}


def test_reports_can_be_pickled() -> None:
    with fastinit.enabled(strict=True) as report, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.Linear(3, 4)
        torch.randn(3)
    again = pickle.loads(pickle.dumps(report))
    assert str(again) == str(report) and again.fallthrough == report.fallthrough
    assert again.parameters(layer) == {"weight": None, "bias": None}
    assert copy.deepcopy(report).functions == report.functions


def test_fills_can_be_hashed_and_pickled() -> None:
    with fastinit.enabled() as report:
        layer, other = nn.Embedding(10, 4, padding_idx=3), nn.Embedding(10, 4)
    one, two = report.parameters(layer)["weight"], report.parameters(other)["weight"]
    assert one is not None and len({one, two, report.parameters(layer)["weight"]}) == 2
    assert pickle.loads(pickle.dumps(one)) == one
    assert one.redraw(torch.empty(10, 4)).equal(layer.weight)


def test_clones_are_followed() -> None:
    """Layers that a constructor copies from one."""
    with fastinit.enabled() as report:
        model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 3)
        twin = copy.deepcopy(model)
    for name, parameter in [*model.named_parameters(), *twin.named_parameters()]:
        owner = model if any(parameter is p for p in model.parameters()) else twin
        fill = report.parameters(owner)[name]
        assert fill is not None and fill.matches(parameter), name
    norm = report.parameters(model)["layers.1.norm1.weight"]
    assert norm is not None and norm.function == "Tensor.clone" and norm.source is not None
    assert norm.source.function == "ones_" and "Tensor.clone" not in report.functions


def test_keys_in_tensors_are_read_when_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A key on a GPU is one. To read it is to wait, and an error while a graph is captured: so no copy reads it."""
    with fastinit.enabled() as report:
        layer = nn.Linear(3, 4)
        for parameter in layer.parameters():
            fill = report.last_fill(parameter)
            assert fill is not None and fill.key is not None
            key = torch.tensor(fill.key - 2**64 if fill.key >= 2**63 else fill.key)
            report._add(fill.function, fill.arguments, parameter, None, key, 0.0, True, None)
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "item", lambda self: pytest.fail("a key was read"))
            twin = copy.deepcopy(layer)
            with torch.no_grad():
                twin.weight[0].copy_(layer.weight[1])
    fill = report.parameters(twin)["weight"]
    assert fill is not None and isinstance(fill.before[0].source.key, int)
    original = report.parameters(layer)["weight"]
    assert original is not None and original.matches(layer.weight)


CALLS = {
    "trunc_normal_ with integers": lambda x: init.trunc_normal_(x, 0, 1, -1, 2),
    "xavier_uniform_": lambda x: init.xavier_uniform_(x, gain=2),
    "xavier_normal_": lambda x: init.xavier_normal_(x, 0.5),
    "kaiming_uniform_": lambda x: init.kaiming_uniform_(x, a=math.sqrt(5)),
    "kaiming_normal_": lambda x: init.kaiming_normal_(x, mode="fan_out", nonlinearity="relu"),
    "constant_": lambda x: init.constant_(x, 3),
    "ones_, zeros_": lambda x: init.zeros_(init.ones_(x)[0]),
    "a generator": lambda x: init.normal_(x, generator=torch.Generator().manual_seed(7)),
    "columns": lambda x: init.uniform_(x[:, ::2], -1.0, 1.0),
    "methods": lambda x: (
        x.normal_().T.uniform_(to=2.0)[1].normal_(1, std=2, generator=torch.default_generator)
    ),
    "recorded methods": lambda x: x.zero_()[0].fill_(2)[1:].copy_(torch.ones(7)),
    "clone": lambda x: x.normal_().clone(),
    "one value": lambda x: x.uniform_(1.0, 1.0),
}


@pytest.mark.parametrize("call", CALLS)
def test_simple_calls_do_what_python_would(call: str) -> None:
    """Simple ones are done in C++: with the values, and the report, of those that are not."""
    found = []
    for simple in (True, False):
        torch.manual_seed(3)
        tensor = torch.empty(6, 8)
        with fastinit.enabled() as report:
            report._log.simple = simple
            CALLS[call](tensor)
        rows = {n: (r.calls, r.elements, r.bytes, r.redrawn) for n, r in report.functions.items()}
        found.append((tensor, report.last_fill(tensor), rows, torch.get_rng_state()))
    (one, fill, rows, state), (other, other_fill, other_rows, other_state) = found
    assert fill == other_fill and rows == other_rows and torch.equal(state, other_state)
    assert fill is not None
    for each in (*fill.before, fill):  # the rest of the memory is what it was
        view = [t.as_strided(each.shape, each.stride, each.offset) for t in (one, other)]
        assert torch.equal(*view)


def test_simple_calls_are_told_to_profilers_and_modes() -> None:
    """They are not simple then."""
    with fastinit.enabled() as report, torch.profiler.profile() as profile:
        init.normal_(torch.empty(5))
    assert any(event.name == "fastinit::normal_" for event in profile.events())
    assert report.functions["normal_"].calls == 1


def test_fills_while_a_report_is_read() -> None:
    """To read one makes objects, for which Python may collect garbage and call the program."""
    run(
        """
        import gc, itertools
        memory, numbers, reading = torch.empty(10_000), itertools.count(), False
        names = itertools.cycle(("ones_", "zeros_", "xavier_normal_", "kaiming_normal_", "xavier_uniform_"))
        def fill(phase, info):
            if reading:
                for _ in range(100):
                    memory[next(numbers) % 10_000].fill_(1)
                getattr(init, next(names))(torch.empty(2, 2))
        gc.callbacks.append(fill)
        with fastinit.enabled() as report:
            for _ in range(100):
                memory[next(numbers)].fill_(2)
            gc.set_threshold(50)
            for _ in range(5):
                reading = True
                fills, rows = report._log.seen(memory), report._log.rows()
                reading = False
                assert len(fills) >= 100 and all(fill[0] == "Tensor.fill_" for fill in fills)
                assert all(row[1] > 0 for row in rows)
        """
    )
