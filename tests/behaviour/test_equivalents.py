"""Functions of other libraries that fastinit.enabled() exchanges, and torch's factories of random tensors."""

import importlib
import sys
import warnings
from collections.abc import Callable, Iterator
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from torch.nn import init

import fastinit
from blocks import elsewhere, seeded
from fastinit._enabled import equivalents
from testing import untouched

pytestmark = pytest.mark.usefixtures("one_thread", "no_trace")

# A library of ours, whose functions do what those of others do: a value that is uniform, and the inverse error function.
LIBRARY = '''
import math
import torch


def helper(tensor, low, high):
    tensor.uniform_(math.erf(low / math.sqrt(2)), math.erf(high / math.sqrt(2)))
    return tensor.erfinv_().mul_(math.sqrt(2)).clamp_(low, high)


def cut_normal_(tensor, std=1.0, a=-2.0, b=2.0):
    """{docstring}"""
    with torch.no_grad():
        return helper(tensor, a, b).mul_(std)  # {comment}
'''


def stand_in(tensor: torch.Tensor, std: float, a: float, b: float) -> torch.Tensor:
    return fastinit.trunc_normal_(tensor, 0.0, std, a * std, b * std)


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ModuleType]]:
    """Imports a library from text."""
    monkeypatch.syspath_prepend(tmp_path)
    table, made = [*equivalents.table], []

    def make(name: str, text: str = LIBRARY, now: bool = True) -> Any:
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        made.append(name)
        return importlib.import_module(name) if now else None

    yield make
    equivalents.table[:] = table
    for name in made:
        sys.modules.pop(name, None)
        equivalents.looked_at.discard(name)
        for full in [full for full in equivalents.exchanged if full.startswith(f"{name}.")]:
            del equivalents.exchanged[full]


# ---- What a function looks like --------------------------------------------------------------------------------------


def test_fingerprints(library: Callable[..., Any]) -> None:
    one = fastinit.fingerprint(library("one").cut_normal_)
    other_words = LIBRARY.replace("{docstring}", "Other words.").replace("{comment}", "and others")
    typed = other_words.replace("(tensor, std=1.0,", "(tensor: torch.Tensor, std: float = 1.0,")
    assert fastinit.fingerprint(library("same", typed).cut_normal_) == one
    other = LIBRARY.replace(".mul_(std)", ".mul_(2 * std)")
    assert fastinit.fingerprint(library("other", other).cut_normal_) != one
    helper = LIBRARY.replace(".clamp_(low, high)", "")
    assert fastinit.fingerprint(library("helper", helper).cut_normal_) != one, "what it calls counts"
    with pytest.raises(TypeError, match="builtin"):
        fastinit.fingerprint(torch.randn)


# ---- The exchange ----------------------------------------------------------------------------------------------------


def test_a_function_is_exchanged(library: Callable[..., Any]) -> None:
    module = library("ours")
    code, imported = module.cut_normal_.__code__, module.cut_normal_
    entry = fastinit.register_equivalent(imported, stand_in)
    assert fastinit.equivalents()[-1] is entry and str(entry) == "ours.cut_normal_"
    with fastinit.enabled() as report:
        tensor = torch.empty(200)
        torch.manual_seed(1)
        assert imported(tensor, 0.5, b=1.0) is tensor
    assert torch.equal(tensor, seeded(fastinit.trunc_normal_, torch.empty(200), 0.0, 0.5, -1.0, 0.5, seed=1))
    assert report.equivalents == {"ours.cut_normal_": 1}
    assert "exchanged, 1×: ours.cut_normal_" in str(report)
    assert report.functions.keys() == {"trunc_normal_"}
    fill = report.last_fill(tensor)
    assert fill is not None and fill.matches(tensor)
    assert module.cut_normal_.__code__ is code
    theirs = seeded(imported, torch.empty(200), 0.5, b=1.0)
    assert not torch.equal(theirs, seeded(fastinit.trunc_normal_, torch.empty(200), 0.0, 0.5, -1.0, 0.5))


def test_blocks_that_leave_equivalents_alone(library: Callable[..., Any]) -> None:
    module = library("ours")
    theirs = seeded(module.cut_normal_, torch.empty(50))
    fastinit.register_equivalent(module.cut_normal_, stand_in)
    with fastinit.enabled(equivalents=False) as report:
        module.cut_normal_(torch.empty(50))
        with fastinit.enabled() as inner:
            module.cut_normal_(torch.empty(50))
    assert report.functions["Tensor.uniform_"].calls == 1
    assert report.equivalents == inner.equivalents == {"ours.cut_normal_": 1}
    with fastinit.enabled(call_sites=True) as report:
        module.cut_normal_(torch.empty(50))
    with fastinit.deferred(call_sites=True):
        module.cut_normal_(torch.empty(50))
    assert report.functions.keys() == {"Tensor.uniform_"} and not report.equivalents, "a check is of them"
    assert torch.equal(seeded(module.cut_normal_, torch.empty(50)), theirs)
    with elsewhere() as ask, fastinit.enabled():
        assert torch.equal(ask(lambda: seeded(module.cut_normal_, torch.empty(50))), theirs), "another thread"
    fastinit.enable(equivalents=False)
    try:
        drawn = seeded(module.cut_normal_, torch.empty(50))
        fastinit.disable()
        fastinit.enable()
        assert not torch.equal(seeded(module.cut_normal_, torch.empty(50)), drawn)
    finally:
        fastinit.disable()
    assert torch.equal(seeded(module.cut_normal_, torch.empty(50)), theirs)


def test_a_function_that_looks_otherwise_is_left_alone(library: Callable[..., Any]) -> None:
    module = library("changed")
    fastinit.register_equivalent("changed:cut_normal_", stand_in, ["0123456789abcdef"])
    with fastinit.enabled() as report:
        module.cut_normal_(torch.empty(50))
    assert not report.equivalents and report.functions.keys() == {"Tensor.uniform_"}


def test_a_module_that_is_imported_in_a_block(library: Callable[..., Any]) -> None:
    library("late", now=False)
    fastinit.register_equivalent("late:cut_normal_", stand_in)
    with fastinit.enabled() as report:
        late = importlib.import_module("late")
        assert type(late.__loader__).__module__ == "_frozen_importlib_external", "as it would have been"
        late.cut_normal_(torch.empty(50))
    assert report.equivalents == {"late.cut_normal_": 1}
    assert equivalents.finder not in sys.meta_path


@pytest.mark.parametrize("place", ["last", "first"])
def test_a_module_that_another_finder_finds(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Editable installations and import hooks have finders of their own."""

    class Other(MetaPathFinder, Loader):
        def find_spec(self, fullname: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
            for finder in [*sys.meta_path]:  # all the others, before it looks itself
                if finder is not self and finder.find_spec(fullname, path, target) is not None:
                    return None
            return ModuleSpec(fullname, self) if fullname == "elsewhere" else None

        def exec_module(self, module: ModuleType) -> None:
            exec("def of_mine_(tensor): return tensor.fill_(7)", vars(module))

    finders = [*sys.meta_path]
    monkeypatch.setattr(sys, "meta_path", [Other(), *finders] if place == "first" else [*finders, Other()])
    monkeypatch.setattr(equivalents, "table", [*equivalents.table])
    fastinit.register_equivalent("elsewhere:of_mine_", fastinit.zeros_)
    with fastinit.enabled() as report:
        module = importlib.import_module("elsewhere")
        del sys.modules["elsewhere"]
        assert type(module.__loader__) is Other
        assert not module.of_mine_(torch.ones(3)).any()
    assert report.equivalents == {"elsewhere.of_mine_": 1}
    del equivalents.exchanged["elsewhere.of_mine_"]


def test_modules_that_are_not_known_are_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    """They may be loaded when they are, and fail to."""

    class Lazy(ModuleType):
        def __getattribute__(self, name: str) -> Any:
            raise ImportError("its library is not there")

    monkeypatch.setitem(sys.modules, "lazy_one", Lazy("lazy_one"))
    monkeypatch.setattr(equivalents, "looked_at", equivalents.looked_at - {"lazy_one"})
    with fastinit.enabled():
        pass


def test_registered_within_a_block(library: Callable[..., Any]) -> None:
    module = library("within")
    with fastinit.enabled() as report:
        module.cut_normal_(torch.empty(50))
        fastinit.register_equivalent(module.cut_normal_, stand_in)
        module.cut_normal_(torch.empty(50))
        fastinit.register_equivalent("within:cut_normal_", lambda tensor, std, a, b: fastinit.zeros_(tensor))
        assert not module.cut_normal_(torch.empty(50)).any()
    assert report.equivalents == {"within.cut_normal_": 2}


def test_what_a_stand_in_refuses_is_done_by_the_original(library: Callable[..., Any]) -> None:
    module = library("refused")
    fastinit.register_equivalent(module.cut_normal_, stand_in)
    with fastinit.enabled() as report:
        assert not module.cut_normal_(torch.ones(3), 0.0).any()  # a std of 0 is an error of trunc_normal_
    assert not report.equivalents and report.functions.keys() == {"Tensor.uniform_"}

    def breaks_off(tensor: torch.Tensor, std: float, a: float, b: float) -> None:
        fastinit.normal_(tensor)
        raise OSError("too late")

    fastinit.register_equivalent(module.cut_normal_, breaks_off)
    with fastinit.enabled(), pytest.raises(OSError, match="too late"):
        module.cut_normal_(torch.ones(3))


def test_functions_that_cannot_be_registered(library: Callable[..., Any]) -> None:
    module = library("wrong", "def f(*tensors): pass\ndef g(tensor): pass\nh = g\ndel g\n")
    with pytest.raises(ValueError, match="variable"):
        fastinit.register_equivalent(module.f, stand_in)
    with pytest.raises(ValueError, match="under its name"):
        fastinit.register_equivalent(module.h, stand_in)
    with pytest.raises(TypeError, match="builtin"):
        fastinit.register_equivalent(torch.randn, stand_in)
    with pytest.raises(ValueError, match="module:name"):
        fastinit.register_equivalent("wrong.f", stand_in)


def test_compiled_code_keeps_to_the_original(library: Callable[..., Any]) -> None:
    module = library("compiled")
    fastinit.register_equivalent(module.cut_normal_, stand_in)

    def build(x: torch.Tensor) -> torch.Tensor:
        return module.cut_normal_(x.clone()) + 1

    def compiled() -> torch.Tensor:
        torch._dynamo.reset()
        return seeded(torch.compile(build, backend="aot_eager", fullgraph=True), torch.ones(30))

    expected = compiled()
    with fastinit.enabled():
        assert torch.equal(compiled(), expected)
    torch._dynamo.reset()


# ---- The libraries ---------------------------------------------------------------------------------------------------

ARGUMENTS: list[dict[str, float]] = [{}, {"std": 0.02}, {"mean": 0.5, "std": 0.7, "a": -0.5, "b": 1.5}]


@pytest.mark.parametrize("arguments", ARGUMENTS, ids=str)
@pytest.mark.parametrize("entry", fastinit.equivalents(), ids=str)
def test_the_distribution_is_that_of_the_original(
    entry: fastinit.Equivalent, arguments: dict[str, float]
) -> None:
    if entry.module == "transformers.models.*":
        pytest.importorskip("transformers.models.siglip.modeling_siglip")
        module = sys.modules["transformers.models.siglip.modeling_siglip"]
    elif entry.module == "diffusers.pipelines.*":
        module = pytest.importorskip("diffusers.pipelines.deprecated.unidiffuser.modeling_uvit")
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # timm's old place has one
            module = pytest.importorskip(entry.module)
    function = vars(module).get(entry.name)
    if function is None or function.__module__ != module.__name__:
        pytest.skip("this version has it elsewhere")
    assert fastinit.fingerprint(function) in entry.fingerprints
    count = 2**18
    torch.manual_seed(0)
    theirs, ours = torch.empty(count), torch.empty(count)
    result = function(theirs, **arguments)
    with fastinit.enabled() as report:
        again = function(ours, **arguments)
    assert (result is None) == (again is None) and (again is None or again is ours)
    assert sum(report.equivalents.values()) == 1 and report.functions.keys() == {"trunc_normal_"}
    assert ks_2samp(theirs.numpy(), ours.numpy()).pvalue > 1e-4
    error = theirs.std().item() / count**0.5
    assert abs(theirs.mean() - ours.mean()) < 6 * error
    assert abs(theirs.std() - ours.std()) < 6 * error
    assert ours.min() >= theirs.min() - 0.05 and ours.max() <= theirs.max() + 0.05


# ---- Factories -------------------------------------------------------------------------------------------------------

FACTORIES: dict[str, tuple[Callable[[], torch.Tensor], Callable[..., Any], tuple[Any, ...]]] = {
    "rand": (lambda: torch.rand(3, 4), init.uniform_, ()),
    "rand of float64": (lambda: torch.rand((3, 4), dtype=torch.float64), init.uniform_, ()),
    "rand out": (lambda: torch.rand(3, 4, out=torch.empty(0)), init.uniform_, ()),
    "randn": (lambda: torch.randn([3, 4]), init.normal_, ()),
    "randn of complex": (lambda: torch.randn(3, 4, dtype=torch.complex64), init.normal_, ()),
    "randn with a generator": (
        lambda: torch.randn(3, 4, generator=torch.Generator().manual_seed(5)),
        init.normal_,
        (),
    ),
    "rand_like": (lambda: torch.rand_like(torch.empty(4, 3).T), init.uniform_, ()),
    "rand_like by keyword": (lambda: torch.rand_like(input=torch.empty(3)), init.uniform_, ()),
    "rand without requires_grad": (lambda: torch.rand(3, requires_grad=None), init.uniform_, ()),
    "randn_like": (lambda: torch.randn_like(torch.empty(3, 4), dtype=torch.bfloat16), init.normal_, ()),
    "normal": (lambda: torch.normal(1.0, 2.0, (3, 4)), init.normal_, (1.0, 2.0)),
    "normal out": (lambda: torch.normal(0, 2, [3, 4], out=torch.empty(0)), init.normal_, (0.0, 2.0)),
}


@pytest.mark.parametrize("name", FACTORIES)
def test_factories(name: str) -> None:
    make, function, arguments = FACTORIES[name]
    theirs, before = seeded(make), {n: getattr(torch, n) for n in ("rand", "randn", "normal")}
    with fastinit.enabled() as report:
        assert torch.equal(seeded(make), theirs) and not report.functions
    with fastinit.enabled(factories=True) as report:
        drawn = seeded(make)
        again = seeded(function, torch.empty_like(theirs), *arguments)
    assert (drawn.shape, drawn.stride(), drawn.dtype) == (theirs.shape, theirs.stride(), theirs.dtype)
    assert torch.equal(drawn, again) and not torch.equal(drawn, theirs)
    assert report.equivalents == {f"torch.{name.split()[0]}": 1}
    assert torch.equal(seeded(make), theirs)
    assert all(getattr(torch, n) is function for n, function in before.items())


def test_parameters_that_are_made_by_factories() -> None:
    with fastinit.enabled(factories=True, strict=True) as report, warnings.catch_warnings():
        warnings.simplefilter("error")
        weight = torch.nn.Parameter(torch.randn(30, 20))
        leaf = torch.rand(3, requires_grad=True)
    fill = report.last_fill(weight)
    assert fill is not None and fill.function == "normal_" and fill.matches(weight)
    assert leaf.requires_grad and leaf.is_leaf
    assert not report.fallthrough


WRONG: dict[str, Callable[[], torch.Tensor]] = {
    "memory_format": lambda: torch.rand(1, 2, 3, 4, memory_format=torch.channels_last),
    "requires_grad": lambda: torch.randn(3, requires_grad=1),
    "tensor": lambda: torch.rand_like(tensor=torch.empty(3)),
    "text": lambda: torch.normal("0", "1", (3,)),
    "array": lambda: torch.normal(np.array(0.0), 1.0, (3,)),
    "a tensor of one dimension": lambda: torch.normal(torch.zeros(1), 1.0, (3,)),
    "size": lambda: torch.normal(0.0, 1.0, 3),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_errors_of_factories_are_torchs(wrong: str) -> None:
    with pytest.raises(TypeError) as theirs:
        WRONG[wrong]()
    with fastinit.enabled(factories=True), untouched(), pytest.raises(TypeError) as ours:
        WRONG[wrong]()
    assert str(ours.value) == str(theirs.value)


def test_what_factories_leave_to_torch() -> None:
    ints = torch.randint(3, (5,))
    with fastinit.enabled(factories=True) as report:
        with pytest.raises(RuntimeError, match="Long"):
            torch.randn(3, dtype=torch.int64)
        with pytest.raises(RuntimeError):
            torch.rand_like(ints)
        with pytest.raises(TypeError):
            torch.rand("3")
        torch.normal(torch.zeros(3), torch.ones(3))
        assert torch.rand(3, device="meta").is_meta and torch.rand(0).numel() == 0
        with torch.device("meta"):
            assert torch.randn(3).is_meta
        torch.func.vmap(lambda x: x + torch.randn(3), randomness="different")(torch.zeros(4, 3))
        with elsewhere() as ask:
            ask(lambda: torch.randn(3))
        with fastinit.enabled():
            torch.randn(3)
    assert not report.functions and not report.equivalents


def test_a_block_within_a_block_of_factories() -> None:
    randn = torch.randn
    with fastinit.enabled(factories=True) as outer:
        with fastinit.enabled(factories=True):
            torch.randn(3)
        torch.randn(3)
    assert outer.equivalents == {"torch.randn": 2} and torch.randn is randn
    with fastinit.enabled(factories=True), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "randn", lambda *size: torch.zeros(*size))
        assert not torch.randn(3).any()
    assert torch.randn is randn


def test_patches_that_outlast_a_block_of_factories() -> None:
    randn, expected = torch.randn, seeded(torch.randn, 3)
    try:
        for ends in ("after its block", "never"):
            with fastinit.enabled(factories=True):
                found = torch.randn
                torch.randn = lambda *size, found=found, **options: found(*size, **options)
            if ends == "after its block":
                torch.randn = found
            with fastinit.enabled(factories=True) as report:
                assert not torch.equal(seeded(torch.randn, 3), expected)
                with fastinit.enabled():
                    assert torch.equal(seeded(torch.randn, 3), expected)
            assert report.equivalents == {"torch.randn": 1}
            assert torch.equal(seeded(torch.randn, 3), expected)
            assert (torch.randn is randn) == (ends == "after its block")
    finally:
        torch.randn = randn


def test_compiling_with_factories() -> None:
    def build(x: torch.Tensor) -> torch.Tensor:
        return x + torch.randn(3)

    def compiled() -> torch.Tensor:
        torch._dynamo.reset()
        return seeded(torch.compile(build, backend="aot_eager", fullgraph=True), torch.ones(3))

    expected = compiled()
    with fastinit.enabled(factories=True):
        assert torch.equal(compiled(), expected)
    assert torch.equal(compiled(), expected)
    torch._dynamo.reset()
