"""fastinit.enabled(): torch's initialisation runs on fastinit's kernels, in the block and nowhere else."""

import copy
import doctest
import functools
import gc
import inspect
import linecache
import pickle
import re
import threading
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_parity import BETTER, PARAMETERS, STRICTER, TENSORS, check_same, label
from torch import nn
from torch.nn import init
from torch.nn import init as alias
from torch.nn.init import (
    constant_,
    dirac_,
    eye_,
    kaiming_normal_,
    kaiming_uniform_,
    normal_,
    ones_,
    orthogonal_,
    sparse_,
    trunc_normal_,
    uniform_,
    xavier_normal_,
    xavier_uniform_,
    zeros_,
)

import fastinit
from fills import assert_same, bits_of, int64
from testing import FIXED, FUNCTIONS, RANDOM, arguments, observe, shape, untouched

NAMED = (uniform_, normal_, trunc_normal_, xavier_uniform_, xavier_normal_, kaiming_uniform_, kaiming_normal_)
NAMED += (orthogonal_, sparse_, constant_, ones_, zeros_, eye_, dirac_)
BY_NAME = {function.__name__: function for function in NAMED}
TABLE = {name: getattr(init, name) for name in FUNCTIONS}  # as transformers keeps one

ORIGINALS = {name: (getattr(init, name), getattr(init, name).__code__) for name in FUNCTIONS}
METHODS = ("uniform_", "normal_", "zero_", "fill_", "copy_")


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def no_trace() -> Iterator[None]:
    """After every test here, all is as it was."""
    yield
    assert not is_on()
    for name, (function, code) in ORIGINALS.items():
        assert getattr(init, name) is function and function.__code__ is code
    assert not any(name in torch.Tensor.__dict__ for name in METHODS)


def seeded(fill: Callable[..., Any], *args: Any, seed: int = 5, **kwargs: Any) -> torch.Tensor:
    torch.manual_seed(seed)
    result = fill(*args, **kwargs)
    assert isinstance(result, torch.Tensor)
    return result.detach().clone()


def is_on() -> bool:
    """Whether torch's initialisation gives fastinit's values here and now."""
    theirs, ours = (seeded(module.uniform_, torch.empty(20)) for module in (init, fastinit))
    return torch.equal(theirs, ours)


# ---- What runs fastinit's kernels ------------------------------------------------------------------------------------

WAYS: dict[str, Callable[[str], Callable[..., torch.Tensor]]] = {
    "attribute": lambda name: getattr(torch.nn.init, name),
    "alias of the module": lambda name: getattr(alias, name),
    "imported by name": BY_NAME.__getitem__,
    "table": TABLE.__getitem__,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name: str, way: str) -> None:
    expected = seeded(getattr(fastinit, name), torch.empty(shape(name)), *arguments(name))
    with fastinit.enabled():
        drawn = seeded(WAYS[way](name), torch.empty(shape(name)), *arguments(name))
        by_keyword = seeded(WAYS[way](name), tensor=torch.empty(shape(name)), **keywords(name))
    assert_same(drawn, expected)
    assert_same(by_keyword, expected)
    after = seeded(WAYS[way](name), torch.empty(shape(name)), *arguments(name))
    assert torch.equal(after, expected) == (name in FIXED)


def keywords(name: str) -> dict[str, Any]:
    names = list(inspect.signature(getattr(init, name)).parameters)[1:]
    return dict(zip(names, arguments(name), strict=False))


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if hasattr(init, name[:-1])])
def test_deprecated_names(name: str) -> None:
    expected = seeded(getattr(fastinit, name), torch.empty(shape(name)), *arguments(name))
    with fastinit.enabled(), pytest.warns(FutureWarning, match="deprecated") as caught:
        drawn = seeded(getattr(init, name[:-1]), torch.empty(shape(name)), *arguments(name))
    assert_same(drawn, expected)
    assert len(caught) == 1


def test_private_helpers_of_torch() -> None:
    """Old libraries call these."""
    with fastinit.enabled():
        drawn = seeded(init._no_grad_normal_, torch.empty(9), 1.0, 2.0)
    assert_same(drawn, seeded(fastinit.normal_, torch.empty(9), 1.0, 2.0))


CALLS: dict[str, tuple[Callable[..., torch.Tensor], Callable[..., torch.Tensor]]] = {
    "normal_": (lambda t, **k: t.normal_(**k), lambda t, **k: fastinit.normal_(t, **k)),
    "normal_(1, 2)": (lambda t, **k: t.normal_(1, 2, **k), lambda t, **k: fastinit.normal_(t, 1, 2, **k)),
    "normal_(std)": (lambda t, **k: t.normal_(std=2, **k), lambda t, **k: fastinit.normal_(t, std=2, **k)),
    "uniform_": (lambda t, **k: t.uniform_(**k), lambda t, **k: fastinit.uniform_(t, **k)),
    "uniform_(1, 2)": (lambda t, **k: t.uniform_(1, 2, **k), lambda t, **k: fastinit.uniform_(t, 1, 2, **k)),
    "uniform_(from, to)": (
        lambda t, **k: t.uniform_(**{"from": -1, "to": 0}, **k),
        lambda t, **k: fastinit.uniform_(t, -1, 0, **k),
    ),
}
VIEWS: dict[str, Callable[[], torch.Tensor]] = {
    "plain": lambda: torch.empty(6, 8),
    "bfloat16": lambda: torch.empty(6, 8, dtype=torch.bfloat16),
    "complex": lambda: torch.empty(6, 8, dtype=torch.complex64),
    "data": lambda: nn.Parameter(torch.empty(6, 8)).data,
    "detached": lambda: nn.Parameter(torch.empty(6, 8)).detach(),
    "slice": lambda: torch.empty(9, 8)[2:8],
    "slice of data": lambda: nn.Parameter(torch.empty(9, 8)).data[2:8, ::2],
    "transposed": lambda: torch.empty(8, 6).t(),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("call", CALLS)
def test_methods(call: str, view: str) -> None:
    theirs, ours = CALLS[call]
    with fastinit.enabled():
        tensor = VIEWS[view]()
        torch.manual_seed(5)
        assert theirs(tensor) is tensor
        assert_same(tensor, seeded(ours, VIEWS[view]()))
        g, h = torch.Generator().manual_seed(1), torch.Generator().manual_seed(1)
        with untouched():
            assert_same(theirs(VIEWS[view](), generator=g), ours(VIEWS[view](), generator=h))


def test_a_parameter_under_no_grad() -> None:
    p = nn.Parameter(torch.empty(6, 8))
    with fastinit.enabled(), torch.no_grad():
        drawn = seeded(p[1:].normal_)
    assert_same(drawn, seeded(fastinit.normal_, torch.empty(5, 8)))


@pytest.mark.parametrize("device", ["context", "default"])
def test_under_a_device_context(device: str) -> None:
    """A device context is a function mode, of which there are others."""

    def draw() -> list[torch.Tensor]:
        made = [seeded(getattr(init, name), torch.empty(shape(name)), *arguments(name)) for name in RANDOM]
        return [*made, seeded(torch.empty(5).normal_)]

    expected = [seeded(getattr(fastinit, n), torch.empty(shape(n)), *arguments(n)) for n in RANDOM]
    expected.append(seeded(fastinit.normal_, torch.empty(5)))
    with fastinit.enabled() as report:
        if device == "context":
            with torch.device("cpu"):
                found = draw()
        else:
            torch.set_default_device("cpu")
            try:
                found = draw()
            finally:
                torch.set_default_device(None)
    for a, b in zip(found, expected, strict=True):
        assert_same(a, b)
    assert report.functions.keys() == {*RANDOM, "Tensor.normal_"}
    assert all(row.calls == 1 for row in report.functions.values())


@pytest.mark.cuda
@pytest.mark.parametrize("name", [*FUNCTIONS, "method"])
def test_cuda(name: str) -> None:
    made = torch.empty(shape(name), device="cuda")
    theirs = torch.Tensor.normal_ if name == "method" else getattr(init, name)
    ours = fastinit.normal_ if name == "method" else getattr(fastinit, name)
    expected = seeded(ours, torch.empty_like(made), *arguments(name))
    with fastinit.enabled() as report:
        torch.manual_seed(5)
        (made.normal_ if name == "method" else lambda *a: theirs(made, *a))(*arguments(name))
    assert_same(made.cpu(), expected.cpu())
    layer = nn.Module()
    layer.weight = nn.Parameter(made)
    fill = report.parameters(layer)["weight"]
    assert fill is not None and fill.matches(made)


# ---- What passes through ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TENSORS)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_tensors_as_in_torch(name: str, kind: str) -> None:
    """In the block the outcome is torch's, whatever the tensor: its errors too. Only what torch cannot do is done."""
    make = lambda: TENSORS[kind](shape(name))  # noqa: E731
    tensor, other = make(), make()
    theirs = observe(getattr(init, name), tensor, *arguments(name))
    with fastinit.enabled():
        ours = observe(getattr(init, name), other, *arguments(name))
    if (name, kind) in BETTER:
        assert ours.error is None and ours.returned_it and ours.wrote
    elif theirs.error:
        assert type(ours.error) is type(theirs.error) and str(ours.error) == str(theirs.error)
    else:
        if (name, kind) in STRICTER:
            ours.drew = theirs.drew
        check_same(theirs, ours)


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS, ids=[*map(label, PARAMETERS)])
def test_parameters_as_in_torch(name: str, parameters: dict[str, Any]) -> None:
    theirs = observe(getattr(init, name), torch.full(shape(name), 7.0), **parameters)
    with fastinit.enabled():
        ours = observe(getattr(init, name), torch.full(shape(name), 7.0), **parameters)
    assert type(ours.error) is type(theirs.error)
    assert str(ours.error) == str(theirs.error)
    assert ours.returned_it == theirs.returned_it and ours.wrote == theirs.wrote
    assert set(ours.warnings) == set(theirs.warnings)


def test_warnings_point_at_the_caller() -> None:
    def observed() -> list[tuple[str, int]]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            init.trunc_normal_(torch.empty(3), mean=5)
            init.kaiming_uniform_(torch.empty(0, 3))
        return [(warning.filename, warning.lineno) for warning in caught]

    start = observed.__code__.co_firstlineno
    expected = [(__file__, start + 3), (__file__, start + 4)]
    with fastinit.enabled():
        assert observed() == expected
        others: list[tuple[str, int]] = []
        thread = threading.Thread(target=lambda: others.extend(observed()))
        thread.start()
        thread.join()
    assert others[1] == expected[1]  # the first is at a line of torch, as it is without fastinit
    assert observed() == others


def same_as_torch(call: Callable[[], torch.Tensor]) -> None:
    """The call gives torch's own values in the block."""
    torch.manual_seed(5)
    expected = call()
    with fastinit.enabled():
        torch.manual_seed(5)
        assert torch.equal(call(), expected)


def test_other_dtypes() -> None:
    same_as_torch(lambda: torch.empty(9, dtype=torch.int32).random_())
    with fastinit.enabled():
        with pytest.raises(NotImplementedError, match="normal_kernel_cpu"):
            torch.empty(3, dtype=torch.int64).normal_()
        with pytest.raises(NotImplementedError, match="Float8"):
            init.normal_(torch.empty(3, dtype=torch.float8_e4m3fn))


def test_values_that_fastinit_refuses() -> None:
    same_as_torch(lambda: init.normal_(torch.empty(12).as_strided((3, 4), (1, 1))))
    same_as_torch(lambda: torch.empty(9).normal_(float("inf")))


def test_autograd_as_in_torch() -> None:
    with fastinit.enabled():
        leaf = nn.Parameter(torch.ones(3))
        with pytest.raises(RuntimeError, match="leaf Variable that requires grad"):
            leaf.normal_()
        assert torch.equal(leaf, torch.ones(3))
        inner = leaf * 1
        inner.normal_()
        inner.sum().backward()
        assert leaf.grad is not None and torch.equal(leaf.grad, torch.zeros(3))


def test_methods_refuse_what_torch_refuses() -> None:
    with fastinit.enabled():
        for wrong in (lambda t: t.normal_(a=1), lambda t: t.uniform_(a=1), lambda t: t.normal_(0, 1, None)):
            with pytest.raises(TypeError):
                wrong(torch.empty(3))
        with pytest.raises(TypeError):
            torch.empty(3).uniform_(0, **{"from": 1})


class Overriding(torch.Tensor):
    """A subclass that has its own way of filling."""

    calls: list[Any] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__.endswith("_"):
            cls.calls.append(func)
            return args[0] if args else kwargs["tensor"]
        return super().__torch_function__(func, types, args, kwargs)


def test_subclasses_that_override() -> None:
    def calls() -> list[Any]:
        Overriding.calls.clear()
        for name in ("normal_", "kaiming_uniform_", "xavier_normal_", "constant_", "zeros_"):
            tensor = torch.full((3, 4), 7.0).as_subclass(Overriding)
            getattr(init, name)(tensor, *arguments(name))
            tensor.uniform_()
            assert (tensor.as_subclass(torch.Tensor) == 7).all()
        return list(Overriding.calls)

    expected = calls()
    with fastinit.enabled():
        assert calls() == expected


class OwnMethod(torch.Tensor):
    def normal_(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.fill_(9.0)


def test_subclasses_with_methods_of_their_own() -> None:
    with fastinit.enabled():
        tensor = torch.empty(3, 4).as_subclass(OwnMethod)
        assert (init.normal_(tensor) == 9).all() and (tensor.zero_().normal_() == 9).all()


def test_errors_are_torchs_alone() -> None:
    with fastinit.enabled(), pytest.raises(NotImplementedError) as caught:
        init.normal_(torch.empty(3, dtype=torch.int64))
    assert caught.value.__context__ is None


def test_dispatch_modes_see_the_fill_alone() -> None:
    seen = []

    class Log(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    x = torch.empty(3, 4)
    with fastinit.enabled(), Log():
        init.normal_(x)
        x.uniform_()
    assert seen == ["fastinit.normal_.default", "fastinit.uniform_.default"]


def test_a_thread_that_begins_in_inference_mode() -> None:
    def work() -> bool:
        with torch.inference_mode(), fastinit.enabled():
            init.normal_(torch.empty(3))
        with fastinit.enabled():
            return is_on()

    with elsewhere() as ask:
        assert ask(work)


def test_meta_and_fake_tensors() -> None:
    from torch._subclasses.fake_tensor import FakeTensorMode

    with fastinit.enabled() as report, untouched():
        with torch.device("meta"):
            model = nn.Linear(3, 4)
        model.weight.data.normal_()
        init.trunc_normal_(model.weight)
        nn.utils.skip_init(nn.Linear, 3, 4)
        with FakeTensorMode():
            fake = nn.Linear(3, 4)
            init.orthogonal_(fake.weight.data)
            fake.weight.data.normal_()
    assert model.weight.is_meta and type(fake.weight.data).__name__ == "FakeTensor"
    assert not report.functions


def test_vmap() -> None:
    def draw(x: torch.Tensor) -> torch.Tensor:
        return torch.empty_like(x).normal_()

    same_as_torch(lambda: torch.vmap(draw, randomness="different")(torch.ones(3, 4)))


def test_other_function_modes() -> None:
    seen = []

    class Log(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    x, uniform_ = torch.empty(3, 4), torch.Tensor.uniform_
    with fastinit.enabled():
        torch.manual_seed(5)
        with Log():
            init.normal_(x)
            init.kaiming_uniform_(x)
            x.uniform_()
    assert seen[:2] == [init.normal_, init.kaiming_uniform_] and seen[-1] is uniform_


# ---- Nesting, exceptions, threads ------------------------------------------------------------------------------------


def test_it_nests() -> None:
    with fastinit.enabled() as outer:
        init.normal_(torch.empty(3))
        with fastinit.enabled() as inner:
            assert is_on()
        assert is_on()
    assert outer.functions["uniform_"].calls == 4 and inner.functions["uniform_"].calls == 2  # two in is_on


def test_exceptions() -> None:
    with pytest.raises(KeyError), fastinit.enabled():
        with pytest.raises(ZeroDivisionError), fastinit.enabled(strict=True):
            raise ZeroDivisionError
        assert is_on()
        raise KeyError
    with fastinit.enabled():
        with pytest.raises(ValueError):
            init.orthogonal_(torch.empty(3))
        assert is_on()


def test_as_a_decorator() -> None:
    @fastinit.enabled()
    def build() -> bool:
        return is_on()

    assert build() and build()


def test_generators_may_end_in_any_order() -> None:
    def block() -> Iterator[None]:
        with fastinit.enabled():
            yield

    first, second = block(), block()
    next(first)
    next(second)
    first.close()
    assert is_on()
    second.close()
    assert not is_on()

    held = block()
    next(held)
    thread = threading.Thread(target=held.close)  # closed elsewhere than it was opened
    thread.start()
    thread.join()
    assert not is_on()


@contextmanager
def elsewhere() -> Iterator[Callable[[Callable[[], Any]], Any]]:
    """Another thread, and a function that has it call something."""
    jobs: list[Callable[[], Any]] = []
    results: list[Any] = []
    ready, done = threading.Semaphore(0), threading.Semaphore(0)

    def work() -> None:
        while True:
            ready.acquire()
            job = jobs.pop()
            results.append(job())
            done.release()
            if job is stop:
                return

    def stop() -> None: ...

    def ask(job: Callable[[], Any]) -> Any:
        jobs.append(job)
        ready.release()
        assert done.acquire(timeout=60)
        return results.pop()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield ask
    finally:
        ask(stop)
        thread.join()


def test_threads_are_apart() -> None:
    contexts: list[Any] = []

    def enter() -> None:
        contexts.append(fastinit.enabled())
        contexts[-1].__enter__()

    with elsewhere() as ask:
        with fastinit.enabled():
            assert is_on() and not ask(is_on)
            ask(enter)
            assert is_on() and ask(is_on)
        assert not is_on() and ask(is_on)
        ask(lambda: contexts.pop().__exit__(None, None, None))
        assert not is_on() and not ask(is_on)


def test_many_threads() -> None:
    """Blocks that open and close in eight threads at once: each sees its own state only."""
    wrong: list[int] = []

    def work(i: int) -> None:
        g, h = torch.Generator().manual_seed(i), torch.Generator().manual_seed(i)
        for _ in range(60):
            with fastinit.enabled():
                a = init.normal_(torch.empty(5), generator=g)
                b = torch.empty(5).uniform_(generator=g)
            c = fastinit.normal_(torch.empty(5), generator=h)
            d = fastinit.uniform_(torch.empty(5), generator=h)
            e = init.normal_(torch.empty(5), generator=torch.Generator().manual_seed(i))
            f = fastinit.normal_(torch.empty(5), generator=torch.Generator().manual_seed(i))
            if not (torch.equal(a, c) and torch.equal(b, d)) or torch.equal(e, f):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_whole_program() -> None:
    with elsewhere() as ask:
        try:
            fastinit.enable()
            fastinit.enable()
            assert is_on() and ask(is_on)
            with fastinit.enabled() as report:
                assert is_on()
            assert report.functions["uniform_"].calls == 2
            assert is_on()
        finally:
            fastinit.disable()
        assert not is_on() and not ask(is_on)
        fastinit.disable()
        with fastinit.enabled():
            fastinit.enable()
            fastinit.disable()
            assert is_on() and not ask(is_on)


# ---- No trace --------------------------------------------------------------------------------------------------------


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


# ---- strict ----------------------------------------------------------------------------------------------------------


def test_strict() -> None:
    here = test_strict.__code__.co_firstlineno
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with fastinit.enabled(strict=True) as report:
            model = nn.Linear(3, 4)  # nothing to say
            model.weight.data.normal_()
            with torch.device("cpu"):
                init.trunc_normal_(model.weight)
            for _ in range(3):
                torch.empty(3).bernoulli_()
            torch.randn(3)
            torch.empty(3).exponential_()
            init.normal_(torch.empty(3, dtype=torch.float64)[:0])
            torch.empty(3, device="meta").normal_()
            init.normal_(torch.empty(1, 3), mean=float("inf"))
            torch.empty(3).fill_(0.0)
    found = [(str(w.message).split(" draws")[0], w.filename, w.lineno - here) for w in caught]
    assert found == [
        ("bernoulli_", __file__, 10),
        ("randn", __file__, 11),
        ("exponential_", __file__, 12),
        ("normal_", __file__, 15),
    ]
    assert "mean must be finite" in str(caught[-1].message)
    assert [(f.function, f.filename, f.line - here, f.calls) for f in report.fallthrough] == [
        ("bernoulli_", __file__, 10, 3),
        ("randn", __file__, 11, 1),
        ("exponential_", __file__, 12, 1),
        ("normal_", __file__, 15, 1),
    ]
    assert f"bernoulli_ at {__file__}:{here + 10}" in str(report)


def test_strict_nests() -> None:
    with fastinit.enabled(strict=True) as outer, fastinit.enabled() as between:
        with fastinit.enabled(strict=True) as inner, pytest.warns(UserWarning, match="randn") as caught:
            torch.randn(3)
        with pytest.warns(UserWarning, match="rand draws"):
            torch.rand(3)
    assert len(caught) == 1
    assert [(f.function, f.calls) for f in outer.fallthrough] == [("randn", 1), ("rand", 1)]
    assert [(f.function, f.calls) for f in inner.fallthrough] == [("randn", 1)]
    assert not between.fallthrough


def test_strict_gives_the_same_values() -> None:
    def build() -> list[torch.Tensor]:
        torch.manual_seed(5)
        return [p.detach() for p in nn.TransformerEncoderLayer(16, 2, 32).parameters()]

    with fastinit.enabled():
        expected = build()
    with fastinit.enabled(strict=True) as report:
        found = build()
    assert all(map(torch.equal, found, expected)) and not report.fallthrough


# ---- The report ------------------------------------------------------------------------------------------------------


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
    assert len(report._memory) == 0


def test_tensors_are_not_kept() -> None:
    with fastinit.enabled() as report:
        layer = nn.Linear(30, 20)
        init.constant_(layer.bias, torch.tensor(0.5))
        gone = weakref.ref(layer.weight)
        del layer
        gc.collect()
        assert gone() is None and len(report._memory) == 0
        x = torch.empty(100)
        for _ in range(100):
            x[::2].normal_()
            x[:50].uniform_()
    assert len(report._memory) == 1 and len(report._memory[x.untyped_storage()].fills) == 2


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


def test_the_document() -> None:
    text = (Path(__file__).parents[2] / "docs" / "enabled.md").read_text()
    (example,) = re.findall(r"```python\n(>>> .*?)```", text, re.DOTALL)
    test = doctest.DocTestParser().get_doctest(example, {}, "docs/enabled.md", None, None)
    assert doctest.DocTestRunner().run(test).failed == 0


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
    assert sum(e - s for s, e in zip(intervals.starts, intervals.ends, strict=True)) == len(known)


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
