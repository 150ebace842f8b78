"""What the functions promise beside torch's behaviour: generators, overrides, compilation, messages, examples."""

import inspect
import itertools
import math
import random
import re
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastinit
from fastinit import _C
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
@pytest.mark.filterwarnings(
    "ignore:torch.quantize_per_tensor", "ignore:Sparse CSR", "ignore:.*torch.jit.script"
)
@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype")
def test_messages_name_the_function_at_fault(name: str) -> None:
    """An error of the native part says which argument it is about, in one line, and shows no tensor's values."""
    wrong = {
        "dtype": torch.zeros(shape(name), dtype=torch.int64),
        "memory": torch.zeros(1, 4).expand(6, 4),
        "QInt8": torch.quantize_per_tensor(torch.zeros(shape(name)), 1.0, 0, torch.qint8),
        "Sparse": torch.zeros(shape(name)).to_sparse(),
        "SparseCsr": torch.zeros(shape(name)).to_sparse_csr(),
        "Mkldnn": torch.zeros(shape(name)).to_mkldnn(),
    }
    if name in ("uniform_", "normal_", "trunc_normal_"):  # the others ask for its sizes, which it has none of
        wrong["nested"] = torch.nested.nested_tensor([torch.zeros(2, 4), torch.zeros(3, 4)])
    for word, tensor in wrong.items():
        with pytest.raises(RuntimeError, match=rf"fastinit\.{name}: .*{word}") as caught:
            fill(name, tensor)
        assert "\n" not in str(caught.value)
    with pytest.raises(TypeError, match=rf"{name}\(\): argument 'generator'") as caught:
        fill(name, generator="a string")
    assert "\n" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*nested tensors is in prototype")
def test_nested_tensors_of_one_value() -> None:
    tensor = torch.nested.nested_tensor([torch.zeros(2, 4), torch.zeros(3, 4)])
    for call, value in ((fastinit.ones_, 1.0), (fastinit.zeros_, 0.0)):
        assert all((part == value).all() for part in call(tensor).unbind())


WRONG_PARAMETERS = [
    ("normal_", {"mean": "0"}, TypeError, r"normal_\(\): argument 'mean' must be float, not str"),
    ("trunc_normal_", {"mean": "0"}, TypeError, r"trunc_normal_\(\): argument 'mean' must be float, not str"),
    ("trunc_normal_", {"b": None}, TypeError, r"trunc_normal_\(\): argument 'b' must be float, not NoneType"),
    ("sparse_", {"sparsity": "0"}, TypeError, r"sparse_\(\): argument 'sparsity' must be float, not str"),
    ("xavier_normal_", {"gain": "0"}, TypeError, "gain must be a number, not str"),
    ("normal_", {"std": 1e39}, RuntimeError, "std is out of bounds for float32, .* Float .*: 1e"),
    ("normal_", {"std": math.inf}, RuntimeError, "std must be finite, but is inf"),
    ("normal_", {"std": 1e38}, RuntimeError, "may be as large as .* out of bounds for Float"),
    ("kaiming_normal_", {"a": math.inf}, RuntimeError, "a must be finite"),
    (
        "trunc_normal_",
        {"a": 1e39, "b": 1e40},
        RuntimeError,
        r"Float has no number in \[a, b\], with a=1e\+39",
    ),
    ("trunc_normal_", {"a": 1.0, "b": 0.0}, RuntimeError, "a must not be above b"),
    ("uniform_", {"a": 1 + 2**-30, "b": 1 + 2**-29}, RuntimeError, r"Float has no number in \[a, b\), with"),
]


@pytest.mark.parametrize(("name", "parameters", "error", "message"), WRONG_PARAMETERS)
@pytest.mark.filterwarnings("ignore:mean is more than 2 std")
def test_messages_about_parameters(name: str, parameters: Any, error: type[Exception], message: str) -> None:
    tensor = torch.zeros(6, 4)
    with untouched(), pytest.raises(error, match=message):
        getattr(fastinit, name)(tensor, **parameters)
    assert not tensor.any()


def test_orthogonal_values_beyond_the_dtype() -> None:
    with untouched(), pytest.raises(RuntimeError, match="gain is out of bounds for Half: 100000"):
        fastinit.orthogonal_(torch.zeros(3, 3, dtype=torch.float16), 1e5)


@pytest.mark.parametrize(
    ("mean", "std", "dtype"),
    [(1e5, 1.0, torch.float16), (0.0, 1e4, torch.float16), (3e38, 1e37, torch.bfloat16)],
)
def test_normal_values_beyond_the_dtype(mean: float, std: float, dtype: torch.dtype) -> None:
    with untouched(), pytest.raises(RuntimeError, match="out of bounds for"):
        fastinit.normal_(torch.zeros(3, dtype=dtype), mean, std)


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
    assert kwargs.pop("tensor") is tensor and kwargs == {"gain": 2.0, "generator": None, "key": None}


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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "there is a performance drop ..."
        try:
            result = torch.vmap(lambda tensor: fill(name, tensor), randomness=randomness)(batch)
        except RuntimeError as error:
            assert "vmap" in str(error)
            return
    assert randomness != "error" or name not in RANDOM
    if name in RANDOM:
        assert torch.equal(result[0], result[1]) == (randomness == "same")


@every_random_function
def test_vmap_over_something_else(name: str) -> None:
    """A tensor that is no batch is filled once if all samples may see the same values; torch decides."""
    tensor = torch.zeros(shape(name))

    def draw(sample: torch.Tensor) -> torch.Tensor:
        return sample + fill(name, tensor).sum()

    for randomness in ("error", "different"):
        with untouched(), pytest.raises(RuntimeError, match="vmap"):
            torch.vmap(draw, randomness=randomness)(torch.ones(3))
        assert not tensor.any()
    torch.manual_seed(1)
    torch.vmap(draw, randomness="same")(torch.ones(3))
    torch.manual_seed(1)
    assert torch.equal(tensor, fill(name))


@every_function
@pytest.mark.filterwarnings("ignore:.*torch.jit.script")  # forward_ad's own
def test_forward_mode_tangents_become_zero(name: str) -> None:
    """What was drawn depends on nothing: in torch as here."""
    for function in (getattr(torch.nn.init, name), getattr(fastinit, name)):
        with forward_ad.dual_level():
            dual = forward_ad.make_dual(torch.ones(shape(name)), torch.ones(shape(name)))
            try:
                function(dual, *arguments(name))
            except RuntimeError:
                assert function is not getattr(fastinit, name)  # torch's linalg has no formula for it
                continue
            tangent = forward_ad.unpack_dual(dual).tangent
            assert tangent is None or not tangent.any()


# Elements of these meet, or do not, far beyond 2^30 elements from each other.
INTERLEAVED = [
    ((3, 2**20), (2**31 + 1, 2**11), False),
    ((3, 2**20), (2**30, 2**11), True),
    ((2, 3, 5), (7 * 2**30, 5 * 2**30, 3 * 2**30), True),  # 7 + 3 = 2 * 5
    ((2, 2, 2, 2), (27 * 2**28, 9 * 2**28, 3 * 2**28, 2**28), False),
    ((4, 3, 3, 3), (27 * 2**28, 9 * 2**28, 3 * 2**28, 2**28), False),
    ((4, 3, 3, 4), (27 * 2**28, 9 * 2**28, 3 * 2**28, 2**28), True),
    ((1000, 1000, 1000), (2**22 + 1, 2**21 + 3, 2**20 + 7), True),
    ((1000, 1000, 1000), (10**15 + 37, 10**15 + 10**9 + 7, 10**15 + 31 * 10**10 + 9), False),
]


@pytest.mark.parametrize(("sizes", "strides", "shares"), INTERLEAVED)
def test_interleaved_strides(sizes: tuple[int, ...], strides: tuple[int, ...], shares: bool) -> None:
    tensor = torch.empty(0, device="meta").as_strided(sizes, strides)
    if shares:
        with pytest.raises(RuntimeError, match="share memory"):
            fastinit.normal_(tensor)
    else:
        fastinit.normal_(tensor)


def test_interleaved_strides_at_random() -> None:
    """Against the offsets themselves."""
    draw = random.Random(5)
    found = {True: 0, False: 0}
    for _ in range(3000):
        dims = draw.randint(2, 5)
        sizes = tuple(draw.randint(1, 5) for _ in range(dims))
        strides = tuple(draw.randint(1, 60) for _ in range(dims))
        offsets = [
            sum(i * s for i, s in zip(index, strides, strict=True))
            for index in itertools.product(*map(range, sizes))
        ]
        shares = len(set(offsets)) < len(offsets)
        found[shares] += 1
        try:
            fastinit.normal_(torch.empty(0, device="meta").as_strided(sizes, strides))
        except RuntimeError:
            assert shares, (sizes, strides)
        else:
            assert not shares, (sizes, strides)
    assert min(found.values()) > 300


def test_two_interleaved_strides_take_no_time() -> None:
    began = time.process_time()
    fastinit.normal_(torch.empty(0, device="meta").as_strided((2**31, 2**31), (2**31 + 1, 2**31 + 3)))
    assert time.process_time() - began < 1


def test_interleaved_strides_that_take_too_long() -> None:
    """The search ends, and the message does not say more than is known."""
    strides = (
        100000000000031,
        123456789012347,
        141421356237309,
        161803398874989,
        173205080756887,
        223606797749979,
    )
    with pytest.raises(RuntimeError, match="takes too long to find out"):
        fastinit.normal_(torch.empty(0, device="meta").as_strided((100,) * 6, strides))


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


@pytest.mark.filterwarnings(
    "ignore:The .grad attribute of a Tensor that is not a leaf"
)  # opcheck's own, in torch 2.15
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


BACKENDS = ["eager", "aot_eager", pytest.param("inductor", marks=pytest.mark.long)]  # which compiles C++


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # inductor's own
def test_compiled_fills_take_their_keys_in_order(backend: str) -> None:
    """Those too whose values nobody reads, and which a compiler may leave out."""

    def program(x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, ...]:
        unused = fastinit.normal_(torch.empty(5))
        fastinit.normal_(y)
        fastinit.uniform_(unused)
        fastinit.kaiming_normal_(x)
        fastinit.zeros_(y)
        return y + 1, x * 2, fastinit.trunc_normal_(torch.empty(3)), fastinit.uniform_(torch.empty(3))

    torch._dynamo.reset()
    torch.manual_seed(1)
    expected = program(torch.zeros(6, 4), torch.zeros(4))
    state = torch.get_rng_state()
    torch.manual_seed(1)
    found = torch.compile(program, backend=backend, fullgraph=True)(torch.zeros(6, 4), torch.zeros(4))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_training_step(backend: str) -> None:
    """A fill in a graph that has a backward pass."""

    def step(weight: torch.Tensor) -> torch.Tensor:
        noise = fastinit.normal_(torch.empty(6, 4))
        fastinit.normal_(torch.empty(2))
        return (weight * noise * fastinit.uniform_(torch.empty(4))).sum()

    torch._dynamo.reset()
    gradients = []
    for run in (step, torch.compile(step, backend=backend, fullgraph=True)):
        weight = torch.nn.Parameter(torch.ones(6, 4))
        torch.manual_seed(1)
        run(weight).backward()
        gradients.append(weight.grad)
    assert torch.equal(*gradients)


# ---------------------------------------------------------------------------------------------------------------
# Parts of a larger tensor


PARTS = {  # of a whole of 12 x 10
    "all": ((12, 10), (0, 0)),
    "rows": ((5, 10), (3, 0)),
    "columns": ((12, 3), (0, 7)),
    "corner": ((4, 6), (8, 4)),
    "one": ((1, 1), (11, 9)),
    "no rows": ((0, 10), (12, 0)),
    "no columns": ((12, 0), (0, 10)),
}


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize("op", ["uniform_", "normal_", "trunc_normal_", "sparse_"])
def test_parts_have_the_values_of_the_whole(op: str, dtype: torch.dtype, part: str) -> None:
    """And take one key as the whole does, even where they have no elements."""
    if dtype.is_complex and op == "trunc_normal_":
        return
    packet, (sizes, offset) = getattr(torch.ops.fastinit, op), PARTS[part]
    torch.manual_seed(1)
    whole = torch.zeros(12, 10, dtype=dtype)
    packet(whole, *OPS[op])
    state = torch.get_rng_state()
    expected = whole[offset[0] :, offset[1] :][: sizes[0], : sizes[1]]
    for values in (torch.zeros(sizes, dtype=dtype), torch.zeros(sizes[::-1], dtype=dtype).t()):
        torch.manual_seed(1)
        packet.part(values, *OPS[op], shape=(12, 10), first=offset, length=sizes)
        assert torch.equal(values, expected)
        assert torch.equal(torch.get_rng_state(), state)


RUNS = {  # of rows and columns: (first, length) of each
    "rows in three": ([(0, 2), (3, 1), (9, 3)], [(0, 10)]),
    "columns in two": ([(0, 12)], [(1, 3), (8, 1)]),
    "both": ([(1, 4), (6, 6)], [(0, 1), (2, 1), (4, 6)]),
}


@pytest.mark.parametrize("runs", RUNS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize("op", ["uniform_", "normal_", "trunc_normal_", "sparse_"])
def test_parts_of_several_runs(op: str, dtype: torch.dtype, runs: str) -> None:
    if dtype.is_complex and op == "trunc_normal_":
        return
    packet, key = getattr(torch.ops.fastinit, op), torch.tensor(5)
    whole = torch.zeros(12, 10, dtype=dtype)
    packet.key(whole, *OPS[op], key=key)
    rows, columns = (torch.cat([torch.arange(n) + i for i, n in runs]) for runs in RUNS[runs])
    values = torch.zeros(len(rows), len(columns), dtype=dtype)
    first, length = zip(*RUNS[runs][0], *RUNS[runs][1], strict=True)
    packet.part(values, *OPS[op], shape=(12, 10), first=first, length=length, key=key)
    assert torch.equal(values, whole[rows][:, columns])


@pytest.mark.parametrize(("first", "length"), [(0, 120), (0, 7), (7, 26), (119, 1), (40, 0)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.complex64], ids=str)
@pytest.mark.parametrize("op", ["uniform_", "normal_", "trunc_normal_", "sparse_"])
def test_flat_parts(op: str, dtype: torch.dtype, first: int, length: int) -> None:
    if dtype.is_complex and op == "trunc_normal_":
        return
    packet, key = getattr(torch.ops.fastinit, op), torch.tensor(5)
    whole, values = torch.zeros(12, 10, dtype=dtype), torch.zeros(length, dtype=dtype)
    packet.key(whole, *OPS[op], key=key)
    packet.part(values, *OPS[op], shape=(12, 10), first=(first,), length=(length,), key=key)
    assert torch.equal(values, whole.flatten()[first : first + length])


@pytest.mark.parametrize(
    ("shape", "first", "length"),
    [
        ((12, 10), (0,), (4,)),
        ((12, 10, 1), (0, 0, 0), (4, 10, 1)),
        ((12, 10), (9, 0), (4, 10)),
        ((12, 10), (-1, 0), (4, 10)),
        ((3, 10), (0, 0), (4, 10)),
        ((12, 10), (0, 0), (3, 10)),
        ((12, 10), (0, 0, 0), (4, 10)),
        ((12, 10), (2, 0, 0), (2, 2, 10)),
        ((12, 10), (0, 2, 0, 0), (2, 2, 10, 0)),
    ],
)
def test_parts_that_do_not_fit(
    shape: tuple[int, ...], first: tuple[int, ...], length: tuple[int, ...]
) -> None:
    with untouched(), pytest.raises(ValueError, match="does not lie within a whole"):
        torch.ops.fastinit.normal_.part(torch.zeros(4, 10), 0.0, 1.0, shape=shape, first=first, length=length)


# ---------------------------------------------------------------------------------------------------------------
# What a native call tells


def test_records() -> None:
    """A record knows the last key of its thread, and whether anything has begun."""
    torch.manual_seed(1)
    expected = torch.empty((), dtype=torch.int64).random_(-(2**63), None).item() % 2**64
    with _C.Record() as outer:
        with _C.Record() as record:
            assert (record.began, record.key) == (False, None)
            with pytest.raises(RuntimeError):
                fastinit.normal_(torch.empty(3), std=-1)
            assert (record.began, record.key) == (False, None)
            fastinit.zeros_(torch.empty(3))
            assert (record.began, record.key) == (True, None)
            torch.manual_seed(1)
            tensor = fastinit.normal_(torch.empty(3))
            assert record.key == expected
            again = fastinit.normal_(torch.empty(3), generator=_C.Key(record.key))
            assert torch.equal(tensor, again) and record.key == expected
        assert (outer.began, outer.key) == (True, None)
        fastinit.normal_(torch.empty(3), generator=_C.Key(2**64 - 1))
        assert outer.key == 2**64 - 1
    with pytest.raises(TypeError, match="generator"):
        fastinit.normal_(torch.empty(3), generator=torch.tensor(3))  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------------------------
# The package


@every_function
def test_docstring_has_every_part(name: str) -> None:
    text = inspect.cleandoc(getattr(fastinit, name).__doc__)  # Python 3.13 does so itself
    assert re.match(r"[A-Z][^\n]+\.\n", text), "one sentence first"
    for part in ("Args:", "Returns:", "Example:"):
        assert part in text
    for argument in arguments_of(name):
        assert re.search(rf"^    {argument}: ", text, re.MULTILINE), argument


def arguments_of(name: str) -> list[str]:
    code = getattr(fastinit, name).__code__
    return list(code.co_varnames[: code.co_argcount])


def test_version() -> None:
    pyproject = Path(__file__).parents[2] / "pyproject.toml"
    assert f'version = "{fastinit.__version__}"' in pyproject.read_text()
