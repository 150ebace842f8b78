"""What the functions promise beside torch's behaviour: generators, overrides, compilation, messages, examples."""

import doctest
import importlib
import os
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastinit
from testing import FUNCTIONS, RANDOM, arguments, observe, shape, untouched

OPS: dict[str, tuple[float, ...]] = {
    "uniform_": (-1.0, 2.0),
    "normal_": (1.0, 0.5),
    "trunc_normal_": (0.0, 1.0, -2.0, 2.0),
    "sparse_": (0.4, 0.01),
    "orthogonal_": (1.5,),
}

every_function = pytest.mark.parametrize("name", FUNCTIONS)
every_random_function = pytest.mark.parametrize("name", RANDOM)


def fill(name: str, tensor: torch.Tensor | None = None, **options: Any) -> torch.Tensor:
    tensor = torch.zeros(shape(name)) if tensor is None else tensor
    return getattr(fastinit, name)(tensor, *arguments(name), **options)


# ---------------------------------------------------------------------------------------------------------------
# Generators


@every_random_function
def test_generator_decides_on_every_value(name: str) -> None:
    with untouched():
        first, second = (torch.Generator().manual_seed(seed) for seed in (1, 1))
        a, b = fill(name, generator=first), fill(name, generator=second)
        c, d = fill(name, generator=first), fill(name, generator=torch.Generator().manual_seed(2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)
    assert not torch.equal(a, d)


@every_random_function
def test_default_generator(name: str) -> None:
    torch.manual_seed(1)
    a, b = fill(name), fill(name)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        c = fill(name)
    assert torch.equal(fill(name, generator=torch.Generator().manual_seed(1)), a)
    assert torch.equal(a, c)
    assert not torch.equal(a, b)


@every_random_function
def test_meta_draws_nothing(name: str) -> None:
    generator = torch.Generator()
    with untouched(), untouched(generator):
        tensor = torch.empty(shape(name), device="meta")
        assert fill(name, tensor) is tensor
        assert fill(name, tensor, generator=generator) is tensor


@pytest.mark.cuda
@every_random_function
def test_cuda_generator_is_no_good_for_the_cpu(name: str) -> None:
    generator = torch.Generator("cuda")
    with untouched(), untouched(generator):
        outcome = observe(
            getattr(fastinit, name), torch.zeros(shape(name)), *arguments(name), generator=generator
        )
    assert isinstance(outcome.error, RuntimeError)
    assert "generator" in str(outcome.error) and "cuda" in str(outcome.error)
    assert not outcome.wrote


@every_random_function
def test_messages_name_the_function_at_fault(name: str) -> None:
    """An error of the native part says which argument it is about, in one line, and shows no tensor's values."""
    for tensor in (torch.zeros(shape(name), dtype=torch.int64), torch.zeros(1, 4).expand(6, 4)):
        with pytest.raises(RuntimeError, match=r"fastinit\.\w+_: ") as caught:
            fill(name, tensor)
        assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match="generator") as caught:
        fill(name, generator="a string")
    assert "\n" not in str(caught.value)


# ---------------------------------------------------------------------------------------------------------------
# __torch_function__ and __torch_dispatch__


class Overriding(torch.Tensor):
    """Answers every call with what it was asked."""

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func, args, kwargs


class Recording(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.functions: list[Any] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.functions.append(func)
        return func(*args, **(kwargs or {}))


def test_subclass_overrides_delta_orthogonal() -> None:
    tensor = torch.zeros(4, 2, 3).as_subclass(Overriding)
    function, args, kwargs = fastinit.delta_orthogonal_(tensor, gain=2.0)
    assert (function, args) == (fastinit.delta_orthogonal_, ())
    assert kwargs.pop("tensor") is tensor and kwargs == {"gain": 2.0, "generator": None}


@every_function
def test_subclass_overrides(name: str) -> None:
    tensor = torch.zeros(shape(name)).as_subclass(Overriding)
    function, args, kwargs = fill(name, tensor)
    assert function is getattr(fastinit, name)
    assert args == ()
    assert kwargs.pop("tensor") is tensor
    # The rest can be passed on as it is.
    assert getattr(fastinit, name)(torch.zeros(shape(name)), **kwargs) is not None


@every_function
def test_mode_overrides(name: str) -> None:
    tensor = torch.nn.Parameter(torch.zeros(shape(name)))
    with Recording() as mode:
        assert fill(name, tensor) is tensor
    assert mode.functions[0] is getattr(fastinit, name)


@every_function
def test_inside_a_default_device(name: str) -> None:
    tensor = torch.zeros(shape(name))
    with torch.device("meta"):
        assert fill(name, tensor) is tensor
    assert tensor.device.type == "cpu" and (tensor != 0).any() == (name != "zeros_")


@every_function
def test_fake_tensors(name: str) -> None:
    with untouched(), FakeTensorMode():
        tensor = torch.empty(shape(name))
        assert fill(name, tensor) is tensor
        assert isinstance(tensor, FakeTensor)


@every_random_function
def test_dispatch_mode_sees_the_op(name: str) -> None:
    class Seeing(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return func(*args, **(kwargs or {}))

    seen: list[Any] = []
    with Seeing():
        fill(name, torch.zeros(shape(name)))
    assert [op for op in seen if op.namespace == "fastinit"]
    assert not [op for op in seen if torch.Tag.nondeterministic_seeded in op.tags and op.namespace == "aten"]


# ---------------------------------------------------------------------------------------------------------------
# Autograd, inference mode, vmap


@every_function
def test_autograd_sees_a_change_and_no_operation(name: str) -> None:
    weight = torch.nn.Parameter(torch.zeros(shape(name)))
    product = weight * weight  # saves the weight for its gradient
    fill(name, weight)
    assert weight.grad_fn is None and weight.is_leaf and weight.requires_grad
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        product.sum().backward()


@every_function
def test_inside_inference_mode(name: str) -> None:
    ordinary = torch.zeros(shape(name))
    with torch.inference_mode():
        inference = torch.zeros(shape(name))
        assert fill(name, inference) is inference
        assert fill(name, ordinary) is ordinary
    assert name == "zeros_" or (inference != 0).any()


@every_function
@pytest.mark.parametrize("randomness", ["error", "same", "different"])
def test_vmap_works_or_says_that_it_does_not(name: str, randomness: str) -> None:
    batch = torch.zeros(2, *shape(name))
    with warnings.catch_warnings(action="ignore"):  # "there is a performance drop ..."
        try:
            result = torch.vmap(lambda tensor: fill(name, tensor), randomness=randomness)(batch)
        except RuntimeError as error:
            assert "vmap" in str(error) or "atching rule" in str(error)
            return
    assert randomness != "error" or name not in RANDOM
    if name in RANDOM:
        assert torch.equal(result[0], result[1]) == (randomness == "same")


# ---------------------------------------------------------------------------------------------------------------
# The ops, and torch.compile


def samples() -> dict[str, torch.Tensor]:
    return {
        "contiguous": torch.zeros(6, 4),
        "transposed": torch.zeros(4, 6).t(),
        "float64": torch.zeros(6, 4, dtype=torch.float64),
        "bfloat16": torch.zeros(6, 4, dtype=torch.bfloat16),
        "requires grad": torch.zeros(6, 4, requires_grad=True),
    }


@pytest.mark.parametrize("kind", samples())
@pytest.mark.parametrize("op", OPS)
def test_opcheck(op: str, kind: str) -> None:
    packet = getattr(torch.ops.fastinit, op)
    torch.library.opcheck(packet.key, (samples()[kind], *OPS[op]), {"key": torch.tensor(5)})
    torch.library.opcheck(
        packet.default,
        (samples()[kind], *OPS[op]),
        # Two runs from one generator differ, as they should; opcheck would compare them.
        test_utils=("test_schema", "test_autograd_registration", "test_faketensor"),
    )


@pytest.mark.parametrize("op", OPS)
def test_tags(op: str) -> None:
    packet = getattr(torch.ops.fastinit, op)
    assert torch.Tag.nondeterministic_seeded in packet.default.tags
    assert torch.Tag.nondeterministic_seeded not in packet.key.tags


@pytest.mark.parametrize("op", OPS)
def test_key_op_is_a_function_of_the_key(op: str) -> None:
    packet = getattr(torch.ops.fastinit, op)
    with untouched():
        results = []
        for key in (5, 5, 6, -1):
            results.append(torch.zeros(6, 4))
            assert packet.key(results[-1], *OPS[op], key=torch.tensor(key)) is None
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    assert not torch.equal(results[0], results[3])


@pytest.mark.parametrize("op", OPS)
def test_views_that_are_conjugated_or_negated_when_read(op: str) -> None:
    """They read as the values of the fill; and an op that returns nothing must not be left to torch's own kernels."""
    packet = getattr(torch.ops.fastinit, op)
    complex_too = op != "trunc_normal_"

    def check(view: torch.Tensor, whole: torch.Tensor) -> None:
        expected = torch.zeros(view.shape, dtype=view.dtype)
        packet.key(expected, *OPS[op], key=torch.tensor(5))
        untouched_part, version = whole.clone().imag[0], view._version
        packet.key(view, *OPS[op], key=torch.tensor(5))
        assert torch.equal(view, expected) and (view.is_conj() or view.is_neg())
        assert torch.equal(whole.imag[0], untouched_part) and view._version == version + 1
        torch.manual_seed(1)
        packet(view, *OPS[op])
        torch.manual_seed(1)
        packet(expected, *OPS[op])
        assert torch.equal(view, expected)

    whole = torch.full((7, 4), 2 + 3j)
    check(whole[1:].conj().imag, whole)
    check(torch._neg_view(whole[1:].real), whole)
    if complex_too:
        check(whole[1:].conj(), whole)
        check(torch._neg_view(whole[1:]), whole)
        check(torch._neg_view(whole[1:].conj()), whole)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
@every_function
def test_compile(name: str, backend: str, dynamic: bool) -> None:
    """One graph, the same values as without it, and the default generator moves on the same way."""

    def initialise(weight: torch.Tensor) -> torch.Tensor:
        return fill(name, weight) * 2

    eager, compiled = (torch.nn.Parameter(torch.zeros(shape(name))) for _ in range(2))
    torch._dynamo.reset()
    program = torch.compile(initialise, backend=backend, fullgraph=True, dynamic=dynamic)
    for _ in range(2):
        torch.manual_seed(1)
        expected = initialise(eager)
        state = torch.get_rng_state()
        torch.manual_seed(1)
        result = program(compiled)
        assert torch.equal(torch.get_rng_state(), state)
        assert torch.equal(compiled, eager)
        assert torch.equal(result, expected)


@pytest.mark.long  # inductor compiles C++
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # its own
def test_compile_with_inductor() -> None:
    def initialise(weight: torch.Tensor) -> torch.Tensor:
        fastinit.kaiming_normal_(weight)
        return weight * 2

    torch.manual_seed(1)
    expected = initialise(torch.zeros(6, 4))
    torch.manual_seed(1)
    weight = torch.zeros(6, 4)
    assert torch.equal(torch.compile(initialise, fullgraph=True)(weight), expected)
    assert torch.equal(weight * 2, expected)


# ---------------------------------------------------------------------------------------------------------------
# The package


@pytest.mark.parametrize(
    "module", ["fastinit", "fastinit.init", "fastinit._fans", "fastinit._enabled", "fastinit._report"]
)
def test_examples(module: str) -> None:
    result = doctest.testmod(importlib.import_module(module), verbose=False)
    assert result.attempted > 0
    assert result.failed == 0


@every_function
def test_docstring_has_every_part(name: str) -> None:
    text = getattr(fastinit, name).__doc__
    assert re.match(r"[A-Z][^\n]+\.\n", text), "one sentence first"
    for part in ("Args:", "Returns:", "Example:"):
        assert part in text
    for argument in arguments_of(name):
        assert re.search(rf"^        {argument}: ", text, re.MULTILINE), argument


def arguments_of(name: str) -> list[str]:
    code = getattr(fastinit, name).__code__
    return list(code.co_varnames[: code.co_argcount])


def test_version() -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    assert f'version = "{fastinit.__version__}"' in pyproject.read_text()


def test_import_beside_another_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "1.13.1")
    with pytest.raises(
        ImportError, match=r"was built with torch 2\..*, and this is torch 1\.13\.1; build it with"
    ):
        importlib.reload(importlib.import_module("fastinit._load"))


@pytest.mark.parametrize(
    "compiled_part, expected",
    [
        (None, r"its compiled part is missing from .*"),
        ("_C.cpython-27-x86_64-linux-gnu.so", r"its compiled part is for another Python \(_C.cpython-27.*\)"),
        ("_C.abi3.so", r"its compiled part does not fit this machine or the installed torch .* \(.*\)"),
    ],
)
def test_import_without_the_compiled_part(compiled_part: str | None, expected: str, tmp_path: Path) -> None:
    source = Path(fastinit.__file__).parent
    shutil.copytree(source, tmp_path / "fastinit", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    if compiled_part:
        (tmp_path / "fastinit" / compiled_part).write_bytes(b"not a library")
    done = subprocess.run(
        [sys.executable, "-c", "import fastinit"],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert re.fullmatch(rf"ImportError: fastinit cannot be imported: {expected}; build it with .*", last), (
        last
    )
