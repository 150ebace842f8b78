"""C7: a fill takes exactly one key from its generator, whatever it fills; and none where nothing is filled."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import fastinit
from fills import COMPLEX, FILLS, REAL, Call, assert_same, int64, next_key
from testing import untouched

inf, nan = math.inf, math.nan

# torch's, and fastinit's for its sake; what it warns of does not happen here.
pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.filterwarnings("ignore:mean is more than 2 std"),
]


ORTHOGONAL = Call("orthogonal_", (1.5,), matrix=True)
ALL = {**FILLS, "orthogonal": ORTHOGONAL}
every_fill = pytest.mark.parametrize("name", ALL)


def seeded(seed: int = 11) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def tensors(fill: Call) -> dict[str, torch.Tensor]:
    """Small and large, of every dtype, in several layouts."""
    shapes: list[tuple[int, ...]] = [(1, 1), (3, 5), (5, 3), (200, 300)]
    if not fill.matrix:
        shapes += [(), (1,), (2,), (4099,), (2, 3, 4)]
    found = {
        f"{shape}, {dtype}": torch.empty(shape, dtype=dtype) for shape in shapes for dtype in fill.dtypes
    }
    found["transposed"] = torch.empty(40, 30).t()
    found["sliced"] = torch.empty(40, 30)[::2, 1::3]
    found["leaf requiring grad"] = torch.nn.Parameter(torch.empty(6, 7))
    return found


@every_fill
def test_one_fill_takes_one_key(name: str) -> None:
    fill = ALL[name]
    for what, tensor in tensors(fill).items():
        generator, reference = seeded(), seeded()
        for _ in range(3):
            with untouched():
                fill.draw(tensor, generator)
            key = next_key(reference)
            assert torch.equal(generator.get_state(), reference.get_state()), what
            # That key, and nothing else, decides on the values.
            again = fill(torch.empty(tensor.shape, dtype=tensor.dtype), key)
            if fill.op != "orthogonal_":  # C9: its products may differ by rounding between layouts
                assert_same(tensor, again, what)
            else:
                assert torch.allclose(tensor.float(), again.float(), atol=0.02), what


@every_fill
def test_default_generator(name: str) -> None:
    """Without a generator: the default one of the CPU, with the meaning of manual_seed, get_state and fork_rng."""
    fill = ALL[name]

    def draw() -> torch.Tensor:
        return fill.draw(torch.empty(7, 9))

    torch.manual_seed(11)
    first, state, second = draw(), torch.get_rng_state(), draw()
    assert_same(first, fill.draw(torch.empty(7, 9), seeded()), "the same seed in a generator of one's own")
    assert not torch.equal(first, second)
    torch.set_rng_state(state)
    assert_same(draw(), second, "the state put back")
    after = torch.get_rng_state()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(11)
        assert_same(draw(), first, "the seed inside of fork_rng")
    assert torch.equal(torch.get_rng_state(), after), "fork_rng"


@every_fill
def test_generator_state_carries_on(name: str) -> None:
    fill, generator = ALL[name], seeded()
    fill.draw(torch.empty(3, 3), generator)
    twin = generator.clone_state()
    state = generator.get_state()
    expected = [fill.draw(torch.empty(5, 4), generator) for _ in range(3)]
    other = torch.Generator()
    other.set_state(state)
    for values in expected:
        assert_same(fill.draw(torch.empty(5, 4), twin), values, "clone_state")
        assert_same(fill.draw(torch.empty(5, 4), other), values, "set_state")


def test_a_cached_normal_value_of_torch_does_not_matter() -> None:
    """torch keeps every second value of a small normal_ in the generator. That is no part of a key."""
    plain, cached = seeded(), seeded()
    torch.empty(1, dtype=torch.float64).normal_(generator=cached)
    torch.empty(1, dtype=torch.float64).normal_(generator=plain)
    torch.empty(1, dtype=torch.float64).normal_(generator=cached)  # from the cache: the engine does not move
    assert_same(
        fastinit.normal_(torch.empty(5), generator=plain), fastinit.normal_(torch.empty(5), generator=cached)
    )


@every_fill
def test_zero_elements_take_no_key(name: str) -> None:
    """As in torch, where a fill of nothing leaves the generator as it was."""
    fill, generator = ALL[name], seeded()
    with untouched(), untouched(generator):
        for dtype in fill.dtypes:
            for shape in ((0, 3), (3, 0), (0, 0)):
                tensor = torch.empty(shape, dtype=dtype)
                op = getattr(torch.ops.fastinit, fill.op)
                op(tensor, *fill.parameters)
                op(tensor, *fill.parameters, generator=generator)
                op.key(tensor, *fill.parameters, key=int64(1))


@every_fill
def test_a_key_given_directly_draws_nothing(name: str) -> None:
    fill = ALL[name]
    with untouched():
        values = [fill.new(6, 7, key=key) for key in (0, 1, 1 << 32, 1 << 63, (1 << 64) - 1)]
    for i, a in enumerate(values):
        assert all(not torch.equal(a, b) for b in values[:i]), "two keys, the same values"


def test_a_key_is_one_int64_or_one_for_each_index() -> None:
    tensor, keys = torch.empty(3, 100), torch.tensor([77, 78, 77])
    torch.ops.fastinit.uniform_.key(tensor[0], 0.0, 1.0, key=keys[0])
    assert_same(tensor[0], Call("uniform_", (0.0, 1.0)).new(100, key=77))
    torch.ops.fastinit.uniform_.key(tensor, 0.0, 1.0, key=keys)
    for row, key in zip(tensor, keys.tolist(), strict=True):
        assert_same(row, Call("uniform_", (0.0, 1.0)).new(100, key=key))


BAD_KEYS: dict[str, Callable[[], torch.Tensor]] = {
    "int32": lambda: torch.tensor(1, dtype=torch.int32),
    "float": lambda: torch.tensor(1.0),
    "one, for the first of several": lambda: torch.tensor([1]),
    "two": lambda: torch.tensor([1, 2]),
    "none": lambda: torch.empty(0, dtype=torch.int64),
}


@pytest.mark.parametrize("what", BAD_KEYS)
def test_other_keys_are_refused(what: str) -> None:
    tensor = torch.full((5,), 7.0)
    with pytest.raises(ValueError, match="key"):
        torch.ops.fastinit.uniform_.key(tensor, 0.0, 1.0, key=BAD_KEYS[what]())
    assert (tensor == 7.0).all()


# op, parameters, tensor: each is refused, and then nothing may have happened
REFUSED: list[tuple[str, tuple[float, ...], Callable[[], torch.Tensor]]] = [
    *(
        ("uniform_", p, lambda: torch.full((3, 4), 7.0))
        for p in [(1.0, 0.0), (nan, 1.0), (0.0, nan), (0.0, inf), (-inf, 0.0)]
    ),
    ("uniform_", (-3e38, 3e38), lambda: torch.full((3, 4), 7.0)),
    ("uniform_", (0.0, 1e39), lambda: torch.full((3, 4), 7.0)),
    ("uniform_", (0.0, 1e5), lambda: torch.full((3, 4), 7.0, dtype=torch.float16)),
    *(
        ("normal_", p, lambda: torch.full((3, 4), 7.0))
        for p in [(0.0, -1.0), (nan, 1.0), (0.0, nan), (inf, 1.0), (0.0, inf)]
    ),
    ("normal_", (1e39, 1.0), lambda: torch.full((3, 4), 7.0)),
    *(
        ("trunc_normal_", p, lambda: torch.full((3, 4), 7.0))
        for p in [
            (0.0, -1.0, -2.0, 2.0),
            (nan, 1.0, -2.0, 2.0),
            (0.0, nan, -2.0, 2.0),
            (0.0, 1.0, nan, 2.0),
            (0.0, 1.0, -2.0, nan),
            (0.0, 1.0, 2.0, -2.0),
            (0.0, 1.0, inf, inf),
            (0.0, 1.0, -inf, -inf),
            (0.0, inf, -2.0, 2.0),
            (inf, 1.0, -2.0, 2.0),
            (0.0, 1.0, 1e39, 1e40),  # no float32 lies in there
            (0.0, 1.0, -inf, -1e39),
        ]
    ),
    ("trunc_normal_", (0.0, 1.0, -2.0, 2.0), lambda: torch.full((3, 4), 7.0, dtype=torch.complex64)),
    *(
        ("sparse_", p, lambda: torch.full((3, 4), 7.0))
        for p in [(1.5, 1.0), (-0.1, 1.0), (nan, 1.0), (0.5, -1.0), (0.5, inf)]
    ),
    ("sparse_", (0.5, 1.0), lambda: torch.full((3, 4, 5), 7.0)),
    ("orthogonal_", (nan,), lambda: torch.full((3, 4), 7.0)),
    ("orthogonal_", (1.0,), lambda: torch.full((3,), 7.0)),
    *(
        (fill.op, fill.parameters, make)
        for fill in ALL.values()
        for make in (
            lambda: torch.full((3, 4), 7, dtype=torch.int64),
            lambda: torch.full((3, 4), 7, dtype=torch.float8_e8m0fnu),
            lambda: torch.full((1, 4), 7.0).expand(3, 4),
            lambda: torch.full((3, 4), 7.0).to_sparse(),
        )
    ),
]


@pytest.mark.parametrize(("op", "parameters", "make"), REFUSED)
def test_what_is_refused_takes_no_key(op: str, parameters: Any, make: Callable[[], torch.Tensor]) -> None:
    generator, tensor, before = seeded(), make(), make()
    version = tensor._version
    with untouched(), untouched(generator):
        for call in (
            lambda: getattr(torch.ops.fastinit, op)(tensor, *parameters, generator=generator),
            lambda: getattr(torch.ops.fastinit, op)(tensor, *parameters),
            lambda: getattr(torch.ops.fastinit, op).key(tensor, *parameters, key=int64(1)),
        ):
            with pytest.raises((RuntimeError, ValueError, NotImplementedError)):
                call()
    assert tensor._version == version
    assert torch.equal(tensor.to_dense().to(torch.complex128), before.to_dense().to(torch.complex128))


@every_fill
def test_dtype_and_layout_do_not_move_the_generator_differently(name: str) -> None:
    """After fills of anything, the next fill is the same: a model's later layers do not depend on its earlier dtypes."""
    fill, ends = ALL[name], []
    for dtype in (*REAL, *COMPLEX):
        if dtype in fill.dtypes:
            generator = seeded()
            for shape in ((1, 1), (30, 20)):
                fill.draw(torch.empty(shape, dtype=dtype), generator)
            ends.append(fastinit.uniform_(torch.empty(4), generator=generator))
    assert all(torch.equal(end, ends[0]) for end in ends)
