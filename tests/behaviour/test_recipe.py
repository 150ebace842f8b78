"""Recipes: a model's initial state as a file of kilobytes, replayed, verified, and safe to load."""

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_deferred import MORE_LAYERS, Computed, deferred, seeded
from test_models import LAYERS
from torch import nn

import fastinit
from fastinit import Recipe, _recipe_file
from fastinit._steps import EXACT, INEXACT, operator, same_bits


class Model(nn.Module):
    """All that a file can hold: fills of each kind, values, several steps, a tied parameter, a part of a whole."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(10, 6, padding_idx=2), nn.Linear(6, 10)
        self.head.weight = self.embedding.weight
        self.computed = Computed()
        self.conv = nn.Conv2d(6, 6, 3)
        nn.init.orthogonal_(self.conv.weight)
        self.sparse, self.tail = nn.Parameter(torch.empty(6, 4)), nn.Parameter(torch.empty(4))
        nn.init.sparse_(self.sparse, 0.5)
        nn.init.trunc_normal_(self.tail, a=0.5, b=float("inf"))
        self.fused = nn.Parameter(torch.empty(9, 4))
        fastinit.extra.variance_scaling_(self.fused, splits=3)
        self.register_buffer("größe", torch.tensor([float("nan"), -0.0, 1e-45]))
        self.register_buffer("mask", torch.tensor([True, False]))


@pytest.fixture
def recipe() -> Recipe:
    return deferred(Model)[1]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.recipe.json"


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    """The same model, all of it without memory, as another program may have it."""
    model: nn.Module = seeded(build)
    return model.to("meta")


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return dict(model.named_parameters()) | dict(model.named_buffers())


def differing(a: nn.Module, b: nn.Module) -> list[str]:
    return [name for name, tensor in values(a).items() if not same_bits(tensor, values(b)[name])]


@pytest.mark.parametrize("name", [*LAYERS, *MORE_LAYERS, "everything"])
def test_round_trip(name: str, path: Path) -> None:
    build = (LAYERS | MORE_LAYERS | {"everything": Model})[name]
    with fastinit.enabled():
        eager = seeded(build)
    _, recipe = deferred(build)
    recipe.save(path)
    again = Recipe.load(path)
    assert again.names == recipe.names and str(again) == str(recipe)
    attributes = ("fused", "weight_norm of before")  # which to("meta") does not move
    model = deferred(build)[0] if name in attributes else on_meta(build)
    again.materialize_(model)
    assert not differing(eager, model)
    assert again.verify(model) and recipe.verify(eager)
    other = path.with_name("again.json")
    again.save(other)
    assert other.read_bytes() == path.read_bytes()


def test_another_process(recipe: Recipe, path: Path) -> None:
    recipe.save(path)
    with fastinit.enabled():
        eager = seeded(Model)
    torch.save(eager.state_dict(), path.with_name("state.pt"))
    program = """
import sys, torch, fastinit
recipe = fastinit.Recipe.load(sys.argv[1])
state = torch.load(sys.argv[2])
names = [name for name in recipe.names if name in state and torch.equal(recipe.draw(name).nan_to_num(), state[name].nan_to_num())]
print(len(names), len([name for name in state if name in recipe.names]))
"""
    done = subprocess.run(
        [sys.executable, "-c", program, path, path.with_name("state.pt")],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    same, all_of_them = map(int, done.stdout.split())
    assert same == all_of_them > 15


def test_from_eager_construction(path: Path) -> None:
    with fastinit.enabled() as report:
        eager = seeded(Model)
    recipe = report.recipe(eager)
    assert recipe.verify(eager)
    recipe.save(path)
    model = on_meta(Model)
    Recipe.load(path).materialize_(model)
    assert not differing(eager, model)
    only = recipe._tensors["conv.weight"].only
    assert only is not None and only.function == "orthogonal_"
    assert [step.function for step in recipe._tensors["embedding.weight"].steps] == ["normal_", "constant_"]


def test_from_eager_construction_copies_and_views() -> None:
    for build in (MORE_LAYERS["copied layers"], MORE_LAYERS["fused"], LAYERS["old"]):
        with fastinit.enabled() as report:
            eager = seeded(build)
        recipe = report.recipe(eager)
        assert recipe.verify(eager) and "values as they are" not in str(recipe), str(recipe)


def test_one_bit_is_found(recipe: Recipe) -> None:
    with fastinit.enabled():
        model = seeded(Model)
    assert recipe.verify(model)
    for name in ("embedding.weight", "computed.cat", "größe", "fused", "conv.bias"):
        tensor = values(model)[name].data
        bits = tensor.view(torch.int32).view(-1)
        bits[-1] ^= 1
        found = recipe.verify(model)
        assert not found and found.changed == [name] and f"changed: {name}" in str(found)
        bits[-1] ^= 1
    model.extra = nn.Parameter(torch.zeros(1))
    del model.tail
    found = recipe.verify(model)
    assert not found and (found.unknown, found.absent) == (["extra"], ["tail"])


def test_rows(recipe: Recipe) -> None:
    for name in recipe.names:
        whole = recipe.draw(name)
        if whole.dim():
            for rows in (slice(0, 1), slice(1, 3), slice(2, None), slice(-1, None), slice(5, 2)):
                assert same_bits(recipe.draw(name, rows=rows), whole[rows].contiguous()), (name, rows)
    assert torch.equal(recipe.draw("head.weight"), recipe.draw("embedding.weight"))
    half = recipe.draw("sparse", rows=slice(0, 2), dtype=torch.bfloat16)
    assert torch.equal(half, recipe.draw("sparse")[:2].to(torch.bfloat16))
    with pytest.raises(KeyError, match="nobody"):
        recipe.draw("nobody")
    with pytest.raises(ValueError, match="step 1"):
        recipe.draw("sparse", rows=slice(0, 4, 2))


def test_the_table(recipe: Recipe) -> None:
    text = str(recipe)
    assert "head.weight: is embedding.weight" in text and "embedding.weight: normal_, constant_" in text
    assert f"{'total'}" in text and "computed.scaled: drawn as a whole, then cut: trunc_normal_" in text


def test_operators_of_the_list_exist() -> None:
    """A name that no torch has is a slip. (That of one torch may be missing in another.)"""
    missing = []
    for name in EXACT | INEXACT:
        try:
            operator(name)
        except AttributeError:
            missing.append(name)
    assert not missing


# ---- What a file cannot hold, and what it must not do -------------------------------------------------------


def test_values_that_are_too_many(path: Path) -> None:
    module = nn.Module()
    with fastinit.deferred() as block:
        module.small = nn.Parameter(torch.randn(100))
        module.large = nn.Parameter(torch.randn(2**14 + 1))
    recipe = block.recipe(module)
    with pytest.raises(ValueError, match="large: it holds 65,540 bytes"):
        recipe.save(path)
    assert not path.exists()
    assert recipe.verify(recipe.materialize_(module))


def test_other_versions(recipe: Recipe, path: Path) -> None:
    assert [_recipe_file.values_version(v) for v in ("0.1.0", "0.12.3", "1.0.0", "2.5.1")] == [
        "0.1",
        "0.12",
        "1",
        "2",
    ]
    recipe.save(path)
    data = json.loads(path.read_text())
    path.write_text(json.dumps(data | {"values": "0.7"}))
    with pytest.raises(ValueError, match=r'install "torch-fastinit==0\.7\.\*"'):
        Recipe.load(path)
    path.write_text(json.dumps(data | {"schema": 2}))
    with pytest.raises(ValueError, match="update torch-fastinit"):
        Recipe.load(path)


def tensor(**changes: Any) -> dict[str, Any]:
    return {
        "shape": [4],
        "dtype": "float32",
        "fill": "uniform_",
        "arguments": {"a": 0, "b": 1},
        "key": "0x" + "0" * 16,
    } | changes


VIEW = {"in": 0, "dtype": "float32", "shape": [4], "stride": [1], "at": 0}
DAMAGED: dict[str, Any] = {
    "no table": 3,
    "another function": tensor(fill="os.system"),
    "no function": tensor(fill=["uniform_"]),
    "another argument": tensor(arguments={"generator": 1}),
    "a list as an argument": tensor(arguments={"a": [1]}),
    "no key": tensor(key=None),
    "a key that is none": tensor(key="0x12"),
    "a key too many": tensor(fill="zeros_", arguments={}),
    "another dtype": tensor(dtype="object"),
    "a shape that is none": tensor(shape=[-1]),
    "a shape of text": tensor(shape="4"),
    "a shape that is too large": tensor(shape=[2**40, 2**40]),
    "another operator": {
        "shape": [4], "dtype": "float32", "memory": [[16, "cpu"]], "result": VIEW,
        "steps": [{"do": "aten.set_.source_Tensor", "with": [[VIEW, VIEW], {}], "out": [None]}],
    },
    "an operator of another library": {
        "shape": [4], "dtype": "float32", "memory": [[16, "cpu"]], "result": VIEW,
        "steps": [{"do": "torch.load.default", "with": [["x"], {}], "out": []}],
    },
    "too much memory": {
        "shape": [4], "dtype": "float32", "memory": [[16, "cpu"], [2**50, "cpu"]], "result": VIEW, "steps": [],
    },
    "beyond the memory": {
        "shape": [4], "dtype": "float32", "memory": [[12, "cpu"]], "result": VIEW, "steps": [],
    },
    "memory that there is not": {
        "shape": [4], "dtype": "float32", "memory": [[16, "cpu"]], "result": VIEW | {"in": 1}, "steps": [],
    },
    "values of another size": {
        "shape": [4], "dtype": "float32", "memory": [[16, "cpu"]], "result": VIEW,
        "steps": [{"do": "constant", "values": {"dtype": "float32", "shape": [4], "base64": "AAAA"}, "out": [VIEW]}],
    },
}  # fmt: skip


def file_of(tensors: dict[str, Any]) -> bytes:
    data = {"format": _recipe_file.FORMAT, "schema": 1, "values": _recipe_file.values_version()}
    return json.dumps(data | {"tensors": tensors, "tied": {}}).encode()


@pytest.mark.parametrize("what", DAMAGED)
def test_damaged_files(what: str, path: Path) -> None:
    path.write_bytes(file_of({"weight": tensor()}))
    assert Recipe.load(path).draw("weight").shape == (4,)
    path.write_bytes(file_of({"weight": DAMAGED[what]}))
    with pytest.raises(ValueError, match="damaged: weight"):
        Recipe.load(path)


def bombs() -> dict[str, Any]:
    arange = {"do": "aten.arange.default", "with": [[2**40], {"dtype": {"dtype": "float32"}}], "out": [VIEW]}
    repeat = {"do": "aten.repeat.default", "with": [[VIEW, [2**40]], {}], "out": [VIEW | {"in": 1}]}
    base = {"shape": [4], "dtype": "float32", "memory": [[16, "cpu"], [16, "cpu"]], "result": VIEW}
    return {
        "arange": base | {"steps": [arange]},
        "repeat": base | {"steps": [repeat]},
        "negative deviation": tensor(fill="normal_", arguments={"mean": 0, "std": -1}),
        "no matrix": tensor(fill="orthogonal_", arguments={"gain": 1.0}),
        "wrong arguments": base
        | {"steps": [{"do": "aten.mul_.Tensor", "with": [[3, "x"], {}], "out": [None]}]},
    }


@pytest.mark.parametrize("what", bombs())
def test_nothing_is_done_before_all_is_checked(what: str, path: Path) -> None:
    path.write_bytes(file_of({"weight": bombs()[what], "first": tensor()}))
    with torch.device("meta"):
        model = nn.Module()
        model.first, model.weight = nn.Parameter(torch.empty(4)), nn.Parameter(torch.empty(4))
    recipe = Recipe.load(path)
    with pytest.raises(ValueError, match="does not fit the model:\nweight: "):
        recipe.materialize_(model)
    assert model.first.is_meta and model.weight.is_meta
    with pytest.raises(Exception):  # noqa: B017
        recipe.draw("weight")


def test_fuzzed_files(recipe: Recipe, path: Path) -> None:
    """Cut anywhere, with bytes changed, or with values of JSON exchanged: an error, or a recipe that can be drawn."""
    recipe.save(path)
    text, r = path.read_bytes(), random.Random(0)
    refused = 0
    for number in range(400):
        changed = bytearray(text)
        if number % 4 == 0:
            changed = changed[: r.randrange(len(changed))]
        elif number % 4 == 1:
            for _ in range(r.randrange(1, 4)):
                changed[r.randrange(len(changed))] = r.randrange(256)
        else:
            changed = bytearray(json.dumps(exchanged(json.loads(text), r)).encode())
        path.write_bytes(changed)
        try:
            found = Recipe.load(path)
        except ValueError:
            refused += 1
            continue
        model = deferred(Model)[0]
        before = [t for t in values(model).values() if t.is_meta]
        try:
            found.materialize_(model)
        except ValueError as error:
            assert "does not fit" in str(error)
            assert all(t.is_meta for t in before), "the model was changed"
    assert 200 < refused < 400


def exchanged(data: Any, r: random.Random) -> Any:
    """The same with one value somewhere exchanged for something else."""
    places: list[tuple[Any, Any]] = []

    def collect(value: Any) -> None:
        for key in value if isinstance(value, dict) else range(len(value)):
            places.append((value, key))
            if isinstance(value[key], (dict, list)):
                collect(value[key])

    collect(data)
    holder, key = r.choice(places)
    holder[key] = r.choice(
        [
            None,
            -1,
            0,
            1,
            2**31,
            2**63,
            1.5,
            "float64",
            "normal_",
            "zeros_",
            "aten.add.Tensor",
            [],
            [1],
            {},
            True,
            VIEW,
        ]
    )
    return data
