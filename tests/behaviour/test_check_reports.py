"""Where findings come from and how they are shown: lines, merging, text, pictures, the command, the helper for tests."""

import inspect
import json
import pickle
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import init

import fastinit
import fastinit.testing
from fastinit.__main__ import main
from fastinit._check import sources, text, theory
from fastinit._check.trace import MOST_EVENTS
from fastinit.testing import Finding, Findings, assert_initialized

pytestmark = pytest.mark.usefixtures("one_thread", "no_trace")
FAULTY = ("truncation-without-effect", "never-filled", "drawn-again")


class Net(nn.Module):
    """Three layers, and faults of three severities."""

    def __init__(self, layers: int = 3, width: int = 32) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(width, width) for _ in range(layers)])
        self.scale = nn.Parameter(torch.empty(width))
        for layer in self.layers:
            my_trunc_normal_(layer.weight)
        self.head = nn.Linear(width, 4)


def my_trunc_normal_(weight: Tensor) -> None:
    init.trunc_normal_(weight, std=0.02)


def line_of(words: str, of: Any) -> int:
    lines, first = inspect.getsourcelines(of)
    return first + next(i for i, line in enumerate(lines) if words in line)


def seen() -> tuple[Net, fastinit.Report]:
    with fastinit.enabled(call_sites=True) as report:
        model = Net()
    return model, report


def by_kind(found: Findings) -> dict[str, Finding]:
    assert len({finding.kind for finding in found}) == len(found)
    return {finding.kind: finding for finding in found}


# ---- Lines and merging ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["enabled", "deferred"])
def test_lines_and_names(way: str) -> None:
    """What is the same of several parameters is one finding, and it names the line that chose the fill."""
    if way == "enabled":
        model, report = seen()
        found = by_kind(report.check(model))
    else:
        with fastinit.deferred(call_sites=True) as block:
            model = Net()
        found = by_kind(block.recipe(model).check(model))
    assert set(found) == set(FAULTY)
    cut = found["truncation-without-effect"]
    assert cut.names == tuple(f"layers.{i}.weight" for i in range(3))
    assert (cut.file, cut.line) == (__file__, line_of("my_trunc_normal_(", Net))  # not the helper's own line
    assert cut.fill == "trunc_normal_(mean=0, std=0.02, a=-2, b=2)" and cut.caller is None
    empty = found["never-filled"]
    assert empty.names == ("scale",) and empty.fill == ""
    assert (empty.file, empty.line) == (__file__, line_of("torch.empty", Net))
    again = found["drawn-again"]
    assert again.names == tuple(f"layers.{i}.weight" for i in range(3))
    assert f"{3 * 32 * 32:,} random values" in again.problem


def test_the_worst_first_and_by_severity() -> None:
    model, report = seen()
    found = report.check(model)
    assert [finding.severity for finding in found] == ["error", "warning", "note"]
    assert found.counts == {"error": 1, "warning": 1, "note": 1}
    assert [finding.kind for finding in found.of("error")] == ["never-filled"]
    assert pickle.loads(pickle.dumps(found)) == found


def test_measures_are_merged_as_a_range() -> None:
    def build() -> nn.Module:
        model = nn.Sequential(
            nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 32, 3), nn.Conv2d(32, 32, 3, groups=32)
        )
        for layer in model:
            assert isinstance(layer, nn.Conv2d)
            init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
        return model

    with fastinit.enabled(call_sites=True) as report:
        model = build()
    found = by_kind(report.check(model))["fans-depthwise"]
    assert found.names == ("0.weight", "2.weight") and " 0.177 to 0.354 times " in found.problem


def test_shared_parameters_count_once() -> None:
    with fastinit.enabled(call_sites=True) as report:
        model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        model[1].weight = model[0].weight
        my_trunc_normal_(model[0].weight)
    assert by_kind(report.check(model))["truncation-without-effect"].names == ("0.weight",)


def test_a_caller_outside_of_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line in a library that chose the fill, and the program's line that called the library."""
    package = tmp_path / "site-packages" / "somebodys"
    package.mkdir(parents=True)
    code = "from torch import nn\n\ndef make():\n    layer = nn.Linear(8, 8)\n"
    code += "    nn.init.trunc_normal_(layer.weight, std=0.02)\n    return layer\n"
    (package / "__init__.py").write_text(code)
    monkeypatch.syspath_prepend(str(package.parent))
    import somebodys  # type: ignore[import-not-found]

    with fastinit.enabled(call_sites=True) as report:
        model = somebodys.make()
    found = by_kind(report.check(model))["truncation-without-effect"]
    assert (found.file, found.line) == (str(package / "__init__.py"), 5)
    assert found.caller == (__file__, line_of("somebodys.make()", test_a_caller_outside_of_packages))
    assert "at somebodys/__init__.py:5, called from " in str(report.check(model)).replace("\n    ", " ")


# ---- Reports of other kinds ----------------------------------------------------------------------------------


def test_without_call_sites() -> None:
    """No lines, and nobody knows what torch.empty, zeros and randn made."""
    with fastinit.enabled() as report:
        model = Net()
        model.other = nn.Parameter(torch.zeros(3))
        model.rows = nn.Parameter(torch.zeros(8, 4))
        init.normal_(model.rows[:2].detach())
    found = report.check(model)
    assert {finding.kind for finding in found} == {"truncation-without-effect", "drawn-again", "not-seen"}
    assert all(finding.file is None for finding in found)
    assert {name for f in found if f.kind == "not-seen" for name in f.names} == {"scale", "other", "rows"}
    assert next(f for f in found if f.kind == "truncation-without-effect").names[0] == "layers.0.weight"


def test_arithmetic_that_a_plain_report_does_not_see() -> None:
    """Then the values are not those of the fill, and nothing is said of its distribution."""
    with fastinit.enabled() as report:
        layer = nn.Linear(32, 32)
        my_trunc_normal_(layer.weight)
        with torch.no_grad():
            layer.weight.mul_(2)
    assert {finding.kind for finding in report.check(layer)} == {"drawn-again"}


def test_converted_models_are_unknown() -> None:
    with fastinit.enabled(call_sites=True) as report:
        layer = nn.Linear(8, 8)
    layer = layer.to(torch.bfloat16)
    found = report.check(layer)
    assert [(f.kind, f.severity, f.names) for f in found] == [("not-seen", "note", ("weight", "bias"))]


def test_a_meta_model_in_enabled_has_no_findings() -> None:
    with fastinit.enabled(call_sites=True) as report, torch.device("meta"):
        model = Net()
    assert report.check(model) == []


def test_what_python_makes_is_known() -> None:
    with fastinit.enabled(call_sites=True) as report:
        model = nn.Module()
        model.scale = nn.Parameter(torch.tensor(2.5))
        model.rows = nn.Parameter(torch.tensor([[1.0, 2.0]]))
        model.array = nn.Parameter(torch.as_tensor([1.0, 2.0]))
    assert report.check(model) == []


def test_conversions_in_a_deferred_block_keep_what_was_drawn() -> None:
    with fastinit.deferred() as block:
        layer = nn.Linear(16, 16, bias=False)
        init.normal_(layer.weight)
        layer = layer.to(torch.bfloat16)
    assert [finding.kind for finding in block.recipe(layer).check(layer)] == ["drawn-again"]


def test_a_loop_without_end() -> None:
    """Nothing is claimed of memory that was written to more often than is remembered."""
    with fastinit.enabled(call_sites=True) as report:
        layer = nn.Linear(8, 8)
        for _ in range(MOST_EVENTS + 1):
            init.normal_(layer.weight)
    trace = report._trace
    assert trace is not None and trace.of(layer.weight) is not None
    assert len(trace.of(layer.weight).events) == MOST_EVENTS  # type: ignore[union-attr]
    assert "never-filled" not in {finding.kind for finding in report.check(layer)}


def test_values_that_nobody_saw_change() -> None:
    """By numpy: a value that the distribution does not allow."""
    with fastinit.enabled(call_sites=True) as report:
        layer = nn.Linear(64, 64)
        init.normal_(layer.weight, std=0.02)
        layer.weight.detach().numpy()[3, 4] = 1.0
    found = {finding.kind: finding for finding in report.check(layer)}
    assert "50 standard deviations" in found["outlier"].problem


def test_call_sites_leave_nothing_behind_and_nest() -> None:
    from torch.utils._python_dispatch import _get_current_dispatch_mode

    with fastinit.enabled(call_sites=True) as outer:
        with fastinit.enabled(call_sites=True) as inner:
            layer = nn.Linear(4, 4)
        other = nn.Linear(4, 4)
    assert _get_current_dispatch_mode() is None
    assert outer.check(layer) == inner.check(layer) == [] == outer.check(other)
    assert [finding.kind for finding in inner.check(other)] == ["not-seen"]


def test_the_values_are_the_same() -> None:
    built = []
    for call_sites in (False, True):
        torch.manual_seed(0)
        with fastinit.enabled(call_sites=call_sites):
            built.append(nn.TransformerEncoderLayer(32, 4))
    assert all(torch.equal(a, b) for a, b in zip(built[0].parameters(), built[1].parameters(), strict=True))


def test_recipes_from_files_and_without_a_model(tmp_path: Path) -> None:
    with fastinit.deferred(call_sites=True) as block:
        model = Net()
    recipe = block.recipe(model)
    recipe.save(tmp_path / "recipe.json")
    loaded = fastinit.Recipe.load(tmp_path / "recipe.json")
    kinds = {finding.kind: finding for finding in loaded.check(model)}
    assert set(kinds) == {"never-filled", "truncation-without-effect"}
    assert kinds["truncation-without-effect"].file is None
    assert {finding.kind for finding in loaded.check()} == {"never-filled", "truncation-without-effect"}


def test_deferred_without_call_sites() -> None:
    """The line of an allocation is known all the same."""
    with fastinit.deferred() as block:
        model = Net()
    found = by_kind(block.recipe(model).check(model))
    assert set(found) == set(FAULTY)
    assert found["never-filled"].line == line_of("torch.empty", Net)
    assert found["truncation-without-effect"].line is None


def test_recipes_of_large_models_draw_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fastinit._steps.Made.draw", lambda self: pytest.fail("something was drawn"))
    with fastinit.deferred(call_sites=True) as block:
        model = nn.Linear(8, 8)
    recipe = block.recipe(model)
    assert recipe.check(model, values=False) == []
    monkeypatch.setattr(sources, "MOST_VALUES", 8)
    assert recipe.check(model) == []
    with pytest.raises(pytest.fail.Exception, match="something was drawn"):
        recipe.check(model, values=True)


# ---- Shards --------------------------------------------------------------------------------------------------


@pytest.fixture
def four_ranks() -> Iterator[Any]:
    """A mesh of four ranks, of which there is this one: nothing is communicated."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.testing._internal.distributed.fake_pg import FakeStore

    dist.init_process_group("fake", rank=0, world_size=4, store=FakeStore())
    yield init_device_mesh("cpu", (4,))
    dist.destroy_process_group()


@pytest.mark.parametrize("call_sites", [True, False])
def test_shards(four_ranks: Any, call_sites: bool) -> None:
    """The local tensor of a DTensor is one rank's part; the DTensor itself is the whole."""
    from torch.distributed.tensor import DTensor, Shard

    found = {}
    for name, fill in {
        "local": lambda weight: init.xavier_uniform_(weight.to_local()),
        "normal": lambda weight: init.normal_(weight.to_local(), std=0.02),
        "whole": init.xavier_uniform_,
        "zeros": lambda weight: init.zeros_(weight.to_local()),
    }.items():
        with fastinit.enabled(call_sites=call_sites) as report:
            layer = nn.Module()
            local = torch.empty(16, 32)
            layer.weight = nn.Parameter(DTensor.from_local(local, four_ranks, [Shard(0)], run_check=False))
            with torch.no_grad():
                fill(layer.weight)
        found[name] = {finding.kind: finding.problem for finding in report.check(layer)}
    assert {name: set(kinds) for name, kinds in found.items()} == {
        "local": {"ranks", "fans-shard"},
        "normal": {"ranks"},
        "whole": set(),
        "zeros": set(),
    }
    assert "shape (64, 32)" in found["local"]["ranks"] and "1.414 times" in found["local"]["fans-shard"]


# ---- Theory ---------------------------------------------------------------------------------------------------


FILLS: list[tuple[str, dict[str, Any]]] = [
    ("normal_", {"mean": 0.5, "std": 2.0}),
    ("uniform_", {"a": -1.0, "b": 3.0}),
    ("trunc_normal_", {"mean": 0.0, "std": 1.0, "a": -2.0, "b": 2.0}),
    ("trunc_normal_", {"mean": 1.0, "std": 2.0, "a": 0.0, "b": float("inf")}),
    ("xavier_uniform_", {"gain": 2.0}),
    ("xavier_normal_", {"gain": 1.0}),
    ("kaiming_uniform_", {"a": 5**0.5, "mode": "fan_in", "nonlinearity": "leaky_relu"}),
    ("kaiming_normal_", {"a": 0.0, "mode": "fan_out", "nonlinearity": "relu"}),
    ("orthogonal_", {"gain": 1.5}),
    ("sparse_", {"sparsity": 0.25, "std": 0.1}),
    ("constant_", {"val": 0.3}),
    ("ones_", {}),
    ("zeros_", {}),
]


@pytest.mark.parametrize(("name", "arguments"), FILLS)
def test_theory(name: str, arguments: dict[str, Any]) -> None:
    torch.manual_seed(0)
    shape = (500, 400)
    weight = getattr(fastinit, name)(torch.empty(shape), **arguments).double()
    found = theory.of_fill(name, arguments, shape)
    assert found is not None
    tolerance = max(0.01 * found.std, 1e-6)
    assert abs(float(weight.mean()) - found.mean) < tolerance
    assert abs(float(weight.std(correction=0)) - found.std) < tolerance
    low, high = found.limits(weight.numel())
    assert low - 1e-6 <= float(weight.min()) and float(weight.max()) <= high + 1e-6
    if found.density(found.mean) is not None:
        lows = torch.linspace(float(weight.min()), float(weight.max()), 2001).double()
        total = sum(found.density(float(x)) or 0.0 for x in lows) * float(lows[1] - lows[0])
        assert abs(total - 1) < 0.01
    radius = 0.7 * found.std
    assert abs(float((weight.abs() < radius).double().mean()) - found.share_within(radius)) < 0.01 or (
        found.family in ("other", "sparse")
    )


def test_theory_of_chains() -> None:
    """Of operators after a fill; and none where an operator is not known."""
    found = theory.of_fill("uniform_", {"a": -0.9, "b": 0.9}, (500, 400))
    for operator, numbers in (("aten.erfinv_", ()), ("aten.mul_", (3.0,)), ("aten.add_", (1.0,))):
        found = theory.after(found, operator, numbers)
    torch.manual_seed(0)
    values = torch.empty(500, 400).uniform_(-0.9, 0.9).erfinv_().mul_(3).add_(1)
    assert found is not None and not found.open_end
    assert abs(float(values.std()) / found.std - 1) < 0.01 and abs(float(values.mean()) - 1) < 0.02
    assert theory.after(found, "aten.tanh_", ()) is None
    assert theory.after(found, "aten.mul_", (None,)) is None
    assert theory.after(found, "aten.clamp_", (0.9, 1.1)) is None  # cuts most of it
    assert theory.of_fill("nobodys_", {}, (3, 4)) is None
    assert theory.of_fill("normal_", {"mean": 0.0, "std": float("nan")}, (3, 4)) is None


# ---- Text and pictures -------------------------------------------------------------------------------------------


def test_text_fits_a_terminal() -> None:
    model, report = seen()
    long = "/a/directory/with/a/very/long/name" * 3
    found = report.check(model)
    found.append(
        Finding(
            "gain", "note", (long,) * 9, "normal_(std=1.0)", "A" * 60 + " b" * 60, "C.", long, 3, (long, 4)
        )
    )
    words = [line for line in str(found).splitlines() if long not in line]
    assert max(map(len, words)) <= 100 and str(found).endswith("1 error, 1 warning, 2 notes")
    assert "and 5 more" in str(found)
    table = text.fills_table(sources.from_report(report, model))
    assert max(map(len, table.splitlines())) <= 100
    assert "trunc_normal_(mean=0, std=0.02, a=-2, b=2)" in table and "nothing" in table
    assert max(map(len, str(report).splitlines())) <= 100


def test_json_and_markdown() -> None:
    model, report = seen()
    data = json.loads(report.to_json(model))
    weight = data["parameters"]["layers.0.weight"]
    assert (
        weight["fills"] == ["trunc_normal_(mean=0, std=0.02, a=-2, b=2)"] and abs(weight["std"] - 0.02) < 1e-9
    )
    assert (
        weight["line"] == line_of("my_trunc_normal_(", Net) and abs(weight["measured"]["std"] - 0.02) < 0.002
    )
    assert [finding["kind"] for finding in data["findings"]] == [f.kind for f in report.check(model)]
    assert data["functions"]["trunc_normal_"]["calls"] == 3
    assert set(json.loads(report.to_json())) == {"functions", "fallthrough"}
    shown = report.to_markdown(model)
    assert "| trunc_normal_ | 3 | 3,072 | 3,072 |" in shown and "| error | never-filled | scale |" in shown
    columns = [{line.count("|") for line in table.splitlines()} for table in shown.strip().split("\n\n")]
    assert len(columns) == 3 and all(len(counts) == 1 for counts in columns)
    assert report.to_markdown().count("\n\n") == 0


def test_json_has_no_infinities() -> None:
    with fastinit.enabled(call_sites=True) as report:
        layer = nn.Linear(8, 8)
        init.trunc_normal_(layer.weight, std=0.02, a=-0.01, b=float("inf"))
    assert "Infinity" not in report.to_json(layer)


@pytest.mark.parametrize("way", ["enabled", "deferred"])
def test_pictures(way: str, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    from fastinit._check.plot import plot

    if way == "enabled":
        model, report = seen()
        report.plot(tmp_path / "model.png", model)
    else:
        with fastinit.deferred(call_sites=True) as block:
            model = Net()
        plot(tmp_path / "model.png", sources.from_recipe(block.recipe(model), model, values=False))
    assert (tmp_path / "model.png").read_bytes()[:4] == b"\x89PNG"
    assert (tmp_path / "model.png").stat().st_size > 20_000


@pytest.mark.parametrize("build", [lambda: nn.LayerNorm(4), lambda: nn.Sequential(), lambda: nn.Linear(3, 1)])
def test_pictures_of_little(build: Any, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    with fastinit.enabled(call_sites=True) as report, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Initializing zero-element")
        model = build()
    report.plot(tmp_path / "model.svg", model)
    assert "<svg" in (tmp_path / "model.svg").read_text()


# ---- The helper for tests ------------------------------------------------------------------------------------------


def test_assert_initialized() -> None:
    model, report = seen()
    with pytest.raises(AssertionError, match="never-filled: scale"):
        assert_initialized(model, report)
    assert_initialized(model, report, ignore=["never-filled"])
    with pytest.raises(AssertionError, match="truncation-without-effect"):
        assert_initialized(model, report, severity="warning", ignore=["never-filled"])
    with fastinit.deferred(call_sites=True) as block:
        layer = nn.Linear(8, 8)
    assert_initialized(layer, block.recipe(layer), severity="note")
    with fastinit.enabled() as plain:
        layer = nn.Linear(8, 8)
    with pytest.raises(ValueError, match="call_sites=True"):
        assert_initialized(layer, plain)


# ---- The command ------------------------------------------------------------------------------------------------------


@dataclass
class Done:
    returncode: int
    stdout: str
    stderr: str


@pytest.fixture
def command(program: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """The command in this process."""

    def run(*args: str) -> Done:
        monkeypatch.chdir(program)
        monkeypatch.setattr(sys, "path", ["", *sys.path])
        status = main(["check", *args])
        return Done(status, *capsys.readouterr())

    return run


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a module of models, and a configuration."""
    path = tmp_path_factory.mktemp("program")
    (path / "models.py").write_text(
        "import torch, numpy\nfrom torch import nn\n\n"
        "class Models:\n"
        "    @staticmethod\n"
        "    def good(width, bias=True):\n"
        "        return nn.Linear(width, width, bias=bias)\n\n"
        "def bad(width=8):\n"
        "    layer = nn.Linear(width, width)\n"
        "    layer.scale = nn.Parameter(torch.empty(width))\n"
        "    return layer\n\n"
        "def alone(config):\n"
        "    layer = bad(config['width'])\n"
        "    assert not layer.weight.is_meta, 'this model needs memory'\n"
        "    return layer\n\n"
        "def numbers():\n"
        "    layer = nn.Linear(4, 4)\n"
        "    layer.weight.data.set_(torch.from_numpy(numpy.ones((4, 4), 'f4')))\n"
        "    return layer\n\n"
        "def refuses():\n"
        "    raise RuntimeError('not today')\n"
    )
    (path / "config.py").write_text("config = {'width': 4}\n")
    (path / "many.py").write_text("args = (4,)\nkwargs = {'bias': False}\n")
    (path / "none.py").write_text("width = 4\n")
    return path


def test_the_command(command: Any, program: Path) -> None:
    good = command("models:Models.good", "8", "bias=False")
    assert good.returncode == 0, good.stderr
    assert good.stdout.startswith("models:Models.good: 1 parameters of 64 elements, built without memory")
    assert "0 errors, 0 warnings, 0 notes" in good.stdout
    bad = command("models:bad", "--plot", "bad.png")
    assert bad.returncode == 1 and "error: never-filled: scale" in bad.stdout and "models.py:11" in bad.stdout
    assert (program / "bad.png").stat().st_size > 10_000


def test_the_command_in_memory_and_as_json(command: Any) -> None:
    done = command("models:bad", "width=16", "--eager", "--json")
    data = json.loads(done.stdout)
    assert done.returncode == 1 and data["built"] == "in memory"
    assert data["parameters"]["weight"]["shape"] == [16, 16]
    assert [finding["kind"] for finding in data["findings"]] == ["never-filled"]
    assert data["findings"][0]["line"] == 11
    shown = command("models:bad", "--eager")
    assert re.search(r"^kaiming_uniform_ +1 ", shown.stdout, re.M)


def test_the_command_with_a_configuration(command: Any) -> None:
    done = command("models:Models.good", "--config", "many.py")
    assert done.returncode == 0 and "1 parameters of 16 elements" in done.stdout
    wrong = command("models:Models.good", "--config", "none.py")
    assert wrong.returncode == 2 and "sets neither config nor args nor kwargs" in wrong.stderr
    assert command("models:Models.good", "--config", "nothing.py").returncode == 2


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("models", "not of the form module:callable"),
        ("models:nothing", "has no attribute 'nothing'"),
        ("nomodule:f", "No module named 'nomodule'"),
        ("builtins:dict", "gives a dict, which is no torch.nn.Module"),
    ],
)
def test_the_command_without_a_model(command: Any, factory: str, message: str) -> None:
    done = command(factory)
    assert done.returncode == 2 and message in done.stderr and "Traceback" not in done.stderr


def test_models_that_need_memory(command: Any) -> None:
    done = command("models:alone", "--config", "config.py")
    assert done.returncode == 2 and "AssertionError: this model needs memory" in done.stderr
    done = command("models:numbers")
    assert done.returncode == 0 and "built in memory" in done.stdout
    assert "It cannot be built without memory" in done.stderr


def test_errors_of_the_factory_are_shown(command: Any) -> None:
    done = command("models:refuses")
    assert done.returncode == 2 and "RuntimeError: not today" in done.stderr


def test_the_command_in_a_process(program: Path) -> None:
    args = [sys.executable, "-m", "fastinit", "check", "models:bad"]
    done = subprocess.run(args, capture_output=True, text=True, cwd=program, check=False)
    assert done.returncode == 1 and "error: never-filled: scale" in done.stdout, done.stderr
    assert "at models.py:11" in done.stdout and done.stderr == ""
