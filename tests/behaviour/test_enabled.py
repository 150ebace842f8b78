"""fastinit.enabled(): torch's initialisation runs on fastinit's kernels, in the block and nowhere else."""

import inspect
import threading
import warnings
from collections.abc import Callable
from operator import methodcaller
from typing import Any

import pytest
import torch
from test_parity import BETTER, PARAMETERS, STRICTER, TENSORS, check_same, label
from torch import nn
from torch.autograd import forward_ad
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
from blocks import METHODS, elsewhere, is_on, run, seeded
from fastinit import _C
from fills import assert_same
from testing import FIXED, FUNCTIONS, RANDOM, arguments, observe, shape, untouched

pytestmark = pytest.mark.usefixtures("one_thread", "no_trace")

NAMED = (uniform_, normal_, trunc_normal_, xavier_uniform_, xavier_normal_, kaiming_uniform_, kaiming_normal_)
NAMED += (orthogonal_, sparse_, constant_, ones_, zeros_, eye_, dirac_)
BY_NAME = {function.__name__: function for function in NAMED}
TABLE = {name: getattr(init, name) for name in FUNCTIONS}  # as transformers keeps one


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


def test_slopes_whose_squares_are_no_floats() -> None:
    for slope in range(10**8, 10**8 + 20):
        tensor = torch.empty(6, 8, dtype=torch.float64)
        expected = seeded(fastinit.kaiming_uniform_, tensor, slope)
        with fastinit.enabled():
            assert_same(seeded(init.kaiming_uniform_, tensor, slope), expected)


def test_an_interrupt_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python calls the handler of a signal wherever it runs, and here within torch's function for the gain."""
    calls = iter((KeyboardInterrupt,))

    def calculate_gain(*arguments: Any) -> float:
        for error in calls:
            raise error
        return init.calculate_gain(*arguments)

    monkeypatch.setattr(fastinit._fans, "calculate_gain", calculate_gain)
    unknown = "".join(("re", "lu"))  # by the identity of the string
    with fastinit.enabled() as report, pytest.raises(KeyboardInterrupt):
        init.kaiming_normal_(torch.empty(3, 4), nonlinearity=unknown)
    assert not report.functions


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


def same_as_torch(call: Callable[[], torch.Tensor]) -> None:
    """The call gives torch's own values in the block."""
    torch.manual_seed(5)
    expected = call()
    with fastinit.enabled():
        torch.manual_seed(5)
        assert torch.equal(call(), expected)


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


def test_other_dtypes() -> None:
    same_as_torch(lambda: torch.empty(9, dtype=torch.int32).random_())
    with fastinit.enabled():
        with pytest.raises(NotImplementedError, match="normal_kernel_cpu"):
            torch.empty(3, dtype=torch.int64).normal_()
        with pytest.raises(NotImplementedError, match="Float8"):
            init.normal_(torch.empty(3, dtype=torch.float8_e8m0fnu))


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
        for name in METHODS:
            with pytest.raises(TypeError):
                torch.Tensor.__dict__[name]()


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


# ---- Forward-mode automatic differentiation --------------------------------------------------------------------------

DRAWN_OR_SET = (
    methodcaller("normal_"),
    methodcaller("uniform_"),
    methodcaller("zero_"),
    methodcaller("fill_", 3.0),
)


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
@pytest.mark.parametrize("fill", [init.uniform_, init.normal_, init.zeros_, *DRAWN_OR_SET])
def test_tangents_become_zero(fill: Callable[[torch.Tensor], Any]) -> None:
    with fastinit.enabled(), forward_ad.dual_level():
        dual = forward_ad.make_dual(torch.ones(3), torch.ones(3))
        fill(dual)
        tangent = forward_ad.unpack_dual(dual).tangent
        assert tangent is None or not tangent.any()


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
