"""fastinit.enabled() beside other people's code: attributes on torch.Tensor, compilers, forks, tasks, failures."""

import asyncio
import copy
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import init

import fastinit
from fastinit import _C

METHODS = ("normal_", "uniform_", "zero_", "fill_", "copy_", "clone")


@pytest.fixture(autouse=True)
def no_trace() -> Iterator[None]:
    before = {name: torch.Tensor.__dict__.get(name) for name in METHODS}
    yield
    assert {name: torch.Tensor.__dict__.get(name) for name in METHODS} == before


def run(program: str) -> None:
    """Run a program in a process of its own, which must end well."""
    code = "import torch, fastinit\nfrom torch.nn import init\n" + textwrap.dedent(program)
    variables = os.environ | {"PYTHONPATH": str(Path(fastinit.__file__).parents[1])}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=variables,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


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


def test_forks_beside_blocks() -> None:
    """A child has the lock as it was at the fork, but not the thread that held it."""
    run(
        """
        import os, signal, threading
        def open_and_close():
            while not done:
                with fastinit.enabled():
                    pass
        done = False
        threads = [threading.Thread(target=open_and_close) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(60):
                child = os.fork()
                if child == 0:
                    signal.alarm(20)
                    with fastinit.enabled():
                        torch.empty(3).normal_()
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            done = True
        """
    )


# ---- Forward-mode automatic differentiation --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("fill", [init.uniform_, init.normal_, init.zeros_, *(CALLS[m] for m in METHODS[:4])])
def test_tangents_become_zero(fill: Callable[[torch.Tensor], Any]) -> None:
    with fastinit.enabled(), forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.ones(3), torch.ones(3))
        fill(dual)
        tangent = forward_ad.unpack_dual(dual).tangent
        assert tangent is None or not tangent.any()


# ---- strict ----------------------------------------------------------------------------------------------------------

DRAWING: dict[str, Callable[[], Any]] = {
    "_standard_gamma": lambda: torch.distributions.Gamma(1.0, 1.0).sample(),
    "_sample_dirichlet": lambda: torch.distributions.Beta(1.0, 1.0).sample(),
    "_sample_dirichlet, of more": lambda: torch.distributions.Dirichlet(torch.ones(3)).sample(),
    "_standard_gamma, by StudentT": lambda: torch.distributions.StudentT(3.0).sample(),
    "native_dropout": lambda: torch.native_dropout(torch.ones(9), 0.5, True),
    "bernoulli_": lambda: nn.functional.dropout(torch.ones(9)),
    "randperm": lambda: torch.randperm(5),
    "multinomial": lambda: torch.multinomial(torch.ones(5), 2),
}
NOT_DRAWING: tuple[Callable[[], Any], ...] = (
    lambda: torch.native_dropout(torch.ones(9), 0.5, False),
    lambda: nn.functional.dropout(torch.ones(9), training=False),
    lambda: nn.functional.scaled_dot_product_attention(*torch.ones(3, 1, 2, 4, 8)),
    lambda: nn.functional.rrelu(torch.ones(9), training=False),
)


@pytest.mark.parametrize("what", DRAWING)
def test_strict_sees(what: str) -> None:
    with fastinit.enabled(strict=True) as report, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        DRAWING[what]()
    assert what.partition(",")[0] in {fell.function for fell in report.fallthrough}


def test_strict_sees_nothing_where_nothing_is_drawn() -> None:
    with fastinit.enabled(strict=True) as report:
        for call in NOT_DRAWING:
            call()
    assert not report.fallthrough


def test_tasks_are_apart() -> None:
    """Blocks of asyncio's tasks interleave in one thread, and each sees its own."""

    async def work(mine: int, turn: list[asyncio.Event]) -> list[int]:
        await turn[0].wait()
        with fastinit.enabled(strict=True) as report:
            turn[1].set()
            await turn[2].wait()
            for _ in range(mine):
                torch.randn(3)
                init.normal_(torch.empty(3))
            turn[3].set()
            await turn[4].wait()
            torch.randn(3)
        assert not torch.utils._python_dispatch._get_current_dispatch_mode() or mine == 1
        turn[5].set()
        return [fell.calls for fell in report.fallthrough] + [report.functions["normal_"].calls]

    async def program() -> list[list[int]]:
        e = [asyncio.Event() for _ in range(7)]
        first = asyncio.create_task(work(1, [e[0], e[1], e[2], e[3], e[4], e[6]]))
        e[0].set()
        second = asyncio.create_task(work(2, [e[1], e[2], e[3], e[4], e[6], e[5]]))
        return [await first, await second]

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert asyncio.run(program()) == [[1, 1, 1], [2, 1, 2]]
    assert torch.utils._python_dispatch._get_current_dispatch_mode() is None
    assert not torch.utils._python_dispatch.is_in_torch_dispatch_mode()


def test_a_task_that_outlives_the_block_of_its_creation() -> None:
    async def program() -> None:
        opened, closed = asyncio.Event(), asyncio.Event()

        async def child() -> torch.Tensor:
            await closed.wait()
            return torch.empty(5).normal_()

        with fastinit.enabled() as report:
            task = asyncio.create_task(child())
            await asyncio.sleep(0)
            opened.set()
        closed.set()
        torch.manual_seed(1)
        drawn = await task
        torch.manual_seed(1)
        assert torch.equal(drawn, torch.empty(5).normal_())
        assert not report.functions

    asyncio.run(program())


# ---- Reports ---------------------------------------------------------------------------------------------------------


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
        for seen in report._memory[layer.weight.untyped_storage()].fills.values():
            seen.key = torch.tensor(seen.key - 2**64 if seen.key >= 2**63 else seen.key)
        with monkeypatch.context() as patch:
            patch.setattr(torch.Tensor, "item", lambda self: pytest.fail("a key was read"))
            twin = copy.deepcopy(layer)
            with torch.no_grad():
                twin.weight[0].copy_(layer.weight[1])
    fill = report.parameters(twin)["weight"]
    assert fill is not None and isinstance(fill.before[0].source.key, int)
    original = report.parameters(layer)["weight"]
    assert original is not None and original.matches(layer.weight)


# ---- Failures --------------------------------------------------------------------------------------------------------


def test_a_failure_after_the_checks_is_raised() -> None:
    """Memory runs out in orthogonal_ when the key is taken: torch must not go on with the next one."""
    run(
        """
        import resource
        n = 4000
        tensor = torch.empty(n, n, dtype=torch.bfloat16)
        torch.nn.init.orthogonal_(torch.empty(3, 3))
        with fastinit.enabled() as report:
            init.orthogonal_(torch.empty(3, 3))
            used = int(open("/proc/self/statm").read().split()[0]) * 4096
            resource.setrlimit(resource.RLIMIT_AS, (used + 8 * n * n // 10, resource.RLIM_INFINITY))
            state = torch.get_rng_state()
            try:
                init.orthogonal_(tensor)
            except (RuntimeError, MemoryError) as error:
                assert "memory" in str(error) or "bad_alloc" in str(error), error
            else:
                raise AssertionError("nothing was raised")
        assert report.functions["orthogonal_"].calls == 1
        """
    )


@pytest.mark.parametrize(
    ("function", "shape"), [("eye_", (3, 4)), ("dirac_", (3, 3, 5)), ("delta_orthogonal_", (4, 3, 3))]
)
def test_a_failure_after_the_first_write_is_raised(
    function: str, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    write = _C.zero_ if function == "delta_orthogonal_" else _C.fill_

    def fail(*args: Any) -> None:
        write(*args)
        raise RuntimeError("the device has gone")

    monkeypatch.setattr(_C, write.__name__, fail)
    called = getattr(fastinit if function == "delta_orthogonal_" else init, function)
    with fastinit.enabled(), pytest.raises(RuntimeError, match="the device has gone"):
        called(torch.ones(shape))


def test_a_refusal_draws_nothing_from_a_generator_that_others_use() -> None:
    """Fills that torch has to do, beside fills of another thread: nothing is put back that the other one has taken."""
    generator, keys, done = torch.Generator().manual_seed(1), [], threading.Event()

    def refused() -> None:
        with fastinit.enabled():
            while not done.is_set():
                with pytest.raises(NotImplementedError):
                    init.normal_(torch.ones(3, dtype=torch.int64), generator=generator)

    thread = threading.Thread(target=refused)
    thread.start()
    with fastinit.enabled() as report:
        layer = nn.Linear(3, 4)
        for _ in range(2000):
            init.normal_(layer.weight, generator=generator)
            fill = report.parameters(layer)["weight"]
            assert fill is not None
            keys.append(fill.key)
    done.set()
    thread.join()
    reference = torch.Generator().manual_seed(1)
    expected = [torch.empty((), dtype=torch.int64).random_(-(2**63), None, generator=reference) for _ in keys]
    assert keys == [int(key) % 2**64 for key in expected]
