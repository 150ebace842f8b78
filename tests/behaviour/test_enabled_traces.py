"""fastinit.enabled() leaves nothing behind: in functions, in torch.Tensor, in what compilers keep."""

import copy
import inspect
import linecache
import pickle
import warnings
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn
from torch.nn import init

import fastinit
from blocks import METHODS, run, seeded
from testing import FUNCTIONS

pytestmark = pytest.mark.usefixtures("one_thread", "no_trace")

# ---- Functions and methods -------------------------------------------------------------------------------------------


def facts(function: Any) -> dict[str, Any]:
    return {
        "signature": inspect.signature(function),
        "doc": function.__doc__,
        "name": (function.__name__, function.__qualname__, function.__module__),
        "source": inspect.getsource(function),
        "file": inspect.getsourcefile(function),
        "line": inspect.getsourcelines(function)[1],
        "defaults": (function.__defaults__, function.__kwdefaults__),
        "annotations": function.__annotations__,
        "argument spec": inspect.getfullargspec(function),
    }


@pytest.mark.parametrize("name", FUNCTIONS)
def test_inspect_and_pickle(name: str) -> None:
    for module in (init, fastinit):
        function = getattr(module, name)
        before, code, pickled = facts(function), function.__code__, pickle.dumps(function)
        with fastinit.enabled():
            assert getattr(module, name) is function
            assert facts(function) == before
            assert pickle.dumps(function) == pickled and pickle.loads(pickled) is function
            assert copy.deepcopy(function) is function
        linecache.checkcache()
        assert facts(function) == before and function.__code__ is code
        assert pickle.loads(pickled) is function


def test_methods_leave_no_trace() -> None:
    before = {name: getattr(torch.Tensor, name) for name in METHODS}
    names, kept = set(torch.Tensor.__dict__), torch.Tensor.normal_
    with fastinit.enabled():
        held = torch.Tensor.normal_
        assert held.__doc__ == kept.__doc__ and held.__name__ == kept.__name__
    assert set(torch.Tensor.__dict__) == names
    assert all(getattr(torch.Tensor, name) is method for name, method in before.items())
    # One that a program has kept from the block goes on as torch's.
    assert torch.equal(seeded(held, torch.empty(9)), seeded(kept, torch.empty(9)))
    tensor, weight = torch.ones(3), nn.Parameter(torch.ones(3))
    assert torch.equal(pickle.loads(pickle.dumps(tensor)), tensor)
    assert torch.equal(copy.deepcopy(weight), weight)


# ---- Attributes that others have put on torch.Tensor -----------------------------------------------------------------

inherited = {name: getattr(torch._C.TensorBase, name) for name in METHODS}
CALLS: dict[str, Callable[[torch.Tensor], Any]] = {
    "normal_": lambda tensor: tensor.normal_(0.0, 2.0),
    "uniform_": lambda tensor: tensor.uniform_(1.0, 2.0),
    "zero_": lambda tensor: tensor.zero_(),
    "fill_": lambda tensor: tensor.fill_(3.0),
    "copy_": lambda tensor: tensor.copy_(torch.ones(3)),
    "clone": lambda tensor: tensor.clone(),
}


@pytest.mark.parametrize("name", METHODS)
def test_a_patch_around_a_block(name: str) -> None:
    """It is called, and it is there afterwards."""
    seen = []

    def theirs(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        seen.append(name)
        return inherited[name](self, *args, **kwargs)

    with mock.patch.object(torch.Tensor, name, theirs):
        with fastinit.enabled(strict=True) as report, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            CALLS[name](torch.zeros(3))
            assert getattr(torch.Tensor, name) is theirs
            with fastinit.enabled():
                CALLS[name](torch.zeros(3))
        assert seen == [name, name]
        assert torch.Tensor.__dict__[name] is theirs
        CALLS[name](torch.zeros(3))
        assert seen == [name] * 3
    assert getattr(torch.Tensor, name) is inherited[name]
    assert name == "clone" or report.functions[f"Tensor.{name}"].calls == 2
    assert {fell.function for fell in report.fallthrough} == (
        {f"Tensor.{name}", name} if name in ("normal_", "uniform_") else set()
    )


@pytest.mark.parametrize("name", METHODS)
def test_a_mock_around_a_block(name: str) -> None:
    """A mock is no function: looked up on a tensor, it is itself."""
    with mock.patch.object(torch.Tensor, name) as theirs:
        with fastinit.enabled():
            CALLS[name](torch.zeros(3))
        theirs.assert_called_once()


@pytest.mark.parametrize("name", METHODS)
def test_a_patch_within_a_block(name: str) -> None:
    with fastinit.enabled() as report:
        CALLS[name](torch.zeros(3))
        with mock.patch.object(torch.Tensor, name) as theirs:
            CALLS[name](torch.zeros(3))
        theirs.assert_called_once()
        CALLS[name](torch.zeros(3))
    assert name == "clone" or report.functions[f"Tensor.{name}"].calls == 2


@pytest.mark.parametrize("name", METHODS)
def test_patches_that_end_in_another_order(name: str) -> None:
    before, within = mock.patch.object(torch.Tensor, name), mock.patch.object(torch.Tensor, name)
    before.start()
    with fastinit.enabled():
        before.stop()  # deletes whatever is there
        CALLS[name](torch.zeros(3))
        within.start()
    CALLS[name](torch.zeros(3))
    within.stop()  # puts back what it found
    CALLS[name](torch.zeros(3))
    assert getattr(torch.Tensor, name) is inherited[name]
    with fastinit.enabled():
        within.start()
    within.stop()
    CALLS[name](torch.zeros(3))
    torch.manual_seed(1)
    drawn = torch.empty(9).normal_()
    torch.manual_seed(1)
    assert torch.equal(drawn, torch._C.TensorBase.normal_(torch.empty(9)))


@pytest.mark.parametrize("name", METHODS)
def test_a_patch_that_outlasts_a_block_and_ends_in_the_next(name: str) -> None:
    """What it puts back is of the first block; it serves the second one, and goes with it."""
    patch = mock.patch.object(torch.Tensor, name)
    with fastinit.enabled():
        patch.start()
    with fastinit.enabled() as report:
        patch.stop()
        CALLS[name](torch.zeros(3))
    assert name == "clone" or report.functions[f"Tensor.{name}"].calls == 1
    assert name not in torch.Tensor.__dict__


def test_attributes_that_are_deleted_within_a_block() -> None:
    with fastinit.enabled():
        del torch.Tensor.normal_
        torch.zeros(3).normal_()
        with fastinit.enabled():
            torch.zeros(3).zero_()


# ---- Compilers and other keepers of functions ------------------------------------------------------------------------


def fill_in_place(x: torch.Tensor) -> torch.Tensor:
    torch.nn.init.normal_(x, 0.0, 2.0)
    torch.nn.init.zeros_(x[0])
    return x.uniform_(1.0, 2.0)


def test_jit_script() -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*torch.jit.*")
        before = torch.jit.script(fill_in_place)
        with fastinit.enabled():
            inside = torch.jit.script(fill_in_place)
            torch._C._jit_clear_class_registry()
            drawn = seeded(inside, torch.empty(3, 4))
        after = torch.jit.script(fill_in_place)
        expected = seeded(fill_in_place, torch.empty(3, 4))
        for scripted in (before, inside, after):
            assert torch.equal(seeded(scripted, torch.empty(3, 4)), expected)
        assert torch.equal(drawn, expected)
        assert before.code == inside.code == after.code


def test_compile() -> None:
    def build(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        with torch.no_grad():
            init.kaiming_uniform_(x)
            init.xavier_normal_(x)
            init.zeros_(x[0])
        return x + 1

    def compiled() -> torch.Tensor:
        return seeded(torch.compile(build, backend="aot_eager", fullgraph=True), torch.ones(3, 4))

    torch._dynamo.reset()
    expected, earlier = compiled(), torch.compile(build, backend="aot_eager", fullgraph=True)
    assert torch.equal(seeded(earlier, torch.ones(3, 4)), expected)
    with fastinit.enabled():
        assert torch.equal(compiled(), expected)
        assert torch.equal(seeded(earlier, torch.ones(3, 4)), expected)
        torch._dynamo.reset()
        assert torch.equal(compiled(), expected)
    assert torch.equal(compiled(), expected)
    assert torch.equal(seeded(earlier, torch.ones(3, 4)), expected)
    torch._dynamo.reset()
    assert torch.equal(compiled(), expected)
    torch._dynamo.reset()


def test_compile_of_methods() -> None:
    def build(x: torch.Tensor) -> torch.Tensor:
        return x.clone().normal_(0.0, 2.0) + 1

    torch._dynamo.reset()
    expected = seeded(torch.compile(build, backend="aot_eager", fullgraph=True), torch.ones(9))
    with fastinit.enabled():
        seeded(torch.compile(build, backend="aot_eager", fullgraph=True), torch.ones(9))
    after = seeded(torch.compile(build, backend="aot_eager", fullgraph=True), torch.ones(9))
    assert torch.equal(after, expected)
    torch._dynamo.reset()
    again = seeded(torch.compile(build, backend="aot_eager", fullgraph=True), torch.ones(9))
    assert torch.equal(again, expected)
    torch._dynamo.reset()


COMPILE = """
    import sys
    backend, strict = {backend!r}, {strict}
    def build(x):
        x = x.clone()
        x.normal_()
        x.zero_()
        x.fill_(2.0)
        x.copy_(x + 1)
        init.normal_(x)
        return x.uniform_() * 2
    graphs = []
    def counting(graph, inputs):
        graphs.append(graph)
        return graph
    with fastinit.enabled(strict=strict):
        torch.compile(build, backend=backend, fullgraph=True)(torch.ones(3))
        kept = torch.compile(lambda x: x * 2, backend=counting, fullgraph=True)
        kept(torch.ones(3))
        assert len(graphs) == 1, "compilation was disabled"
        overridable = {{f for functions in torch.overrides.get_overridable_functions().values() for f in functions}}
    for name in ("copy_", "normal_", "zero_", "fill_", "uniform_", "clone"):
        method = getattr(torch.Tensor, name)
        assert method in overridable, name
        arguments = {{"copy_": (torch.ones(3),), "fill_": (2.0,)}}.get(name, ())
        torch.compile(lambda x: method(x, *arguments) + 1, backend=backend, fullgraph=True)(torch.ones(3))
    torch.compile(lambda x: torch.Tensor.copy_(x, x) + 1, backend=backend, fullgraph=True)(torch.ones(3))
"""


@pytest.mark.parametrize("strict", [False, True], ids=["", "strict"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_compiling_in_a_block_leaves_nothing_behind(backend: str, strict: bool) -> None:
    run(COMPILE.format(backend=backend, strict=strict))
