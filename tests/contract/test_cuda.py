"""On a CUDA device: the CPU's bits, the stream, the generator, graphs, errors. `make gpu-check` runs this among others.

Values are compared with the CPU's under the same key, which the tests of the contract have checked.
"""

import math
import os

import pytest
import torch
from torch import Tensor

import fastinit
from fills import CASES, FILLS, KEY, REAL, Call, assert_same, int64

pytestmark = [pytest.mark.cuda, pytest.mark.filterwarnings("ignore:mean is more than 2 std")]

every_fill = pytest.mark.parametrize(
    ("name", "dtype"), CASES, ids=lambda case: str(case).removeprefix("torch.")
)
DRAWN = {name: fill for name, fill in FILLS.items() if name not in ("sparse",)}


def poisoned(*shape: int, dtype: torch.dtype = torch.float32, device: str = "cuda") -> Tensor:
    """Memory in which a value that was not written, or one that should not have been, shows."""
    return torch.full(shape, math.nan, dtype=dtype, device=device)


def shape_for(fill: Call, elements: int) -> tuple[int, ...]:
    return (elements // 3, 3) if fill.matrix else (elements,)


# ---------------------------------------------------------------------------------------------------------------
# The CPU's bits


@every_fill
def test_contiguous_of_any_size_and_alignment(name, dtype):
    fill = FILLS[name]
    for elements in (3, 15, 1020, 4101, 1_000_002):
        shape = shape_for(fill, elements)
        want = fill.new(*shape, dtype=dtype)
        for offset in range(9 if elements < 5000 else 2):
            memory = poisoned(offset + elements + 8, dtype=dtype)
            fill(memory[offset : offset + elements].view(shape))
            assert_same(memory[offset : offset + elements].cpu(), want, f"{elements} from {offset}")
            assert memory[:offset].isnan().all() and memory[offset + elements :].isnan().all()


LAYOUTS = {
    "transposed": ((370, 1301), lambda t: t.t(), (1301, 370)),
    "columns of a matrix": ((610, 400), lambda t: t[:, 3:300], (610, 297)),
    "aligned columns": ((610, 640), lambda t: t[:, 16:480], (610, 464)),
    "every other column": ((450, 46), lambda t: t[:, ::2], (450, 23)),
    "one column": ((11000, 3), lambda t: t[:, 1:2], (11000, 1)),
    "channels last": ((50, 3, 3, 70), lambda t: t.permute(0, 3, 1, 2), (50, 70, 3, 3)),
    "reversed dimensions": ((2, 3, 4, 5, 6), lambda t: t.permute(4, 3, 2, 1, 0), (6, 5, 4, 3, 2)),
}


@every_fill
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(name, dtype, layout):
    fill = FILLS[name]
    base, view_of, shape = LAYOUTS[layout]
    if fill.matrix and len(shape) != 2:
        pytest.skip("for two dimensions only")
    memory = poisoned(*base, dtype=dtype)
    view = view_of(memory)
    fill(view)
    assert_same(view.cpu(), fill.new(*shape, dtype=dtype))
    view.fill_(math.nan)
    assert memory.isnan().all(), "something beside the view was written"


@every_fill
def test_a_key_in_the_memory_of_the_device(name, dtype):
    fill = FILLS[name]
    shape = shape_for(fill, 3000)
    tensor = poisoned(*shape, dtype=dtype)
    getattr(torch.ops.fastinit, fill.op).key(tensor, *fill.parameters, key=int64(KEY).cuda())
    assert_same(tensor.cpu(), fill.new(*shape, dtype=dtype))


@every_fill
def test_a_cpu_generator(name, dtype):
    fill = FILLS[name]
    shape = shape_for(fill, 3000)
    ours, theirs = (torch.Generator().manual_seed(7) for _ in range(2))
    on_device = fill.draw(poisoned(*shape, dtype=dtype), ours)
    assert_same(on_device.cpu(), fill.draw(poisoned(*shape, dtype=dtype, device="cpu"), theirs))
    assert torch.equal(ours.get_state(), theirs.get_state()), "one key each"


@pytest.mark.parametrize("rows", [1, 5, 256, 257, 4096, 5000])
def test_sparse_matrices_of_any_height(rows):
    fill = FILLS["sparse"]
    for columns in (1, 3, 4, 1021):
        for dtype in (torch.float32, torch.bfloat16, torch.complex64):
            want = fill.new(rows, columns, dtype=dtype)
            assert_same(fill(poisoned(rows, columns, dtype=dtype)).cpu(), want, f"{columns} columns")
            assert_same(
                fill(poisoned(columns, rows, dtype=dtype).t()).cpu(), want, f"{columns} columns, transposed"
            )


def test_rejected_again_and_again():
    for parameters in ((0.0, 1.0, 0.5, 100.0), (0.0, 1.0, -0.01, 3.0), (0.0, 1.0, 8.0, math.inf)):
        fill = Call("trunc_normal_", parameters)
        for dtype in REAL:
            assert_same(
                fill(poisoned(300_000, dtype=dtype)).cpu(), fill.new(300_000, dtype=dtype), f"{parameters}"
            )


def test_every_radius():
    """2^27 squared radii: the square root's short cut (lanes_thread.h) is right for each, or bits differ."""
    fill = Call("normal_", (0.0, 1.0))
    assert_same(fill(poisoned(2**28)).cpu(), fill.new(2**28))


def test_every_quotient():
    """2^28 quotients of polynomials: the division's short cut is right for each, or bits differ."""
    fill = Call("trunc_normal_", (0.0, 1.0, -2.0, 2.0))
    assert_same(fill(poisoned(2**28)).cpu(), fill.new(2**28))


def equal_in_parts(on_device: Tensor, on_host: Tensor, elements: int = 2**28) -> bool:
    return all(
        torch.equal(a, b.cuda())
        for a, b in zip(on_device.split(elements), on_host.split(elements), strict=True)
    )


def needs_bytes(count: int) -> None:
    host = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    device, _ = torch.cuda.mem_get_info()
    if min(host, device) < count + 2**31:
        pytest.skip(f"needs {count / 2**30:.0f} GiB on the device and as much on the host")


@pytest.mark.parametrize(
    ("op", "parameters", "dtype"),
    [
        ("normal_", (0.0, 1.0), torch.bfloat16),
        ("trunc_normal_", (0.0, 1.0, -2.0, 2.0), torch.bfloat16),
        ("uniform_", (0.0, 1.0), torch.float32),
    ],
    ids=lambda value: str(value).removeprefix("torch."),
)
def test_more_than_2_to_the_32_elements(op, parameters, dtype):
    elements = 2**32 + 4099
    needs_bytes(elements * dtype.itemsize)
    fill = Call(op, parameters)
    on_device = fill(torch.empty(elements, dtype=dtype, device="cuda"))
    on_host = fill(torch.empty(elements, dtype=dtype))
    assert equal_in_parts(on_device, on_host)


def test_more_than_2_to_the_32_elements_that_are_not_contiguous():
    rows = 2**31 + 3
    needs_bytes(4 * rows)
    fill = Call("uniform_", (0.0, 1.0))
    whole = fill(torch.empty(rows, 2, dtype=torch.bfloat16, device="cuda"))
    sides = [column.clone() for column in whole.unbind(1)]
    view = whole.view(2, rows).t()  # the same memory, filled by columns
    fill(view)
    assert all(torch.equal(a, b) for a, b in zip(sides, view.unbind(1), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_orthogonal_agrees_with_the_cpu_to_rounding(dtype):
    on_device = fastinit.orthogonal_(
        torch.empty(300, 200, dtype=dtype, device="cuda"), generator=torch.Generator()
    )
    on_host = fastinit.orthogonal_(torch.empty(300, 200, dtype=dtype), generator=torch.Generator())
    eps = torch.finfo(dtype).eps
    # Entries are below 1/2; a product in another order may round one of 16 bits the other way.
    assert (on_device.cpu() - on_host).abs().max() <= (1e-5 if dtype == torch.float32 else eps / 4)
    q = on_device.double()
    assert (q.T @ q - torch.eye(200, device="cuda", dtype=torch.float64)).abs().max() < 32 * eps


@pytest.mark.parametrize("dtype", REAL, ids=str)
def test_orthogonal_under_autocast(dtype):
    def draw() -> Tensor:
        tensor = torch.empty(700, 500, dtype=dtype, device="cuda")
        return fastinit.orthogonal_(tensor, generator=torch.Generator())

    expected = draw()
    with torch.autocast("cuda", torch.bfloat16):
        assert_same(draw(), expected)


@pytest.mark.parametrize("library", ["cublas", "cublaslt"])
def test_orthogonal_has_float32_s_accuracy_where_tf32_is_allowed(library):
    previous = torch.backends.cuda.preferred_blas_library(), torch.get_float32_matmul_precision()
    torch.backends.cuda.preferred_blas_library(library)
    torch.set_float32_matmul_precision("high")
    try:
        q = fastinit.orthogonal_(torch.empty(1024, 1024, device="cuda")).double()
    finally:
        torch.backends.cuda.preferred_blas_library(previous[0])
        torch.set_float32_matmul_precision(previous[1])
    assert (q.T @ q - torch.eye(1024, device="cuda", dtype=torch.float64)).abs().max() <= 1e-6


# ---------------------------------------------------------------------------------------------------------------
# Streams, devices, memory

A_WHILE = 200_000_000  # cycles, a tenth of a second


@pytest.mark.parametrize("name", FILLS)
def test_the_current_stream_is_used_and_the_host_does_not_wait(name):
    fill = FILLS[name]
    shape = shape_for(fill, 3000)
    fill(poisoned(*shape))  # the first launch of a kernel may wait: it is being loaded
    tensor, key = poisoned(*shape), int64(KEY).cuda()
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(A_WHILE)
        getattr(torch.ops.fastinit, fill.op).key(tensor, *fill.parameters, key=key)
    assert not stream.query(), "the host waited for the device"
    assert tensor.isnan().all(), "the fill did not wait for its stream"
    assert not stream.query()
    stream.synchronize()
    assert_same(tensor.cpu(), fill.new(*shape))


def test_no_memory_but_the_key_s():
    tensor = poisoned(2**22)
    for fill in (Call("normal_", (0.0, 1.0)), Call("trunc_normal_", (0.0, 1.0, -2.0, 2.0))):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        fill.draw(tensor)
        assert torch.cuda.max_memory_allocated() - before <= 512
        assert torch.cuda.memory_allocated() == before


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_the_tensor_s_device_is_used_and_the_current_one_stays():
    fill = FILLS["truncated, normal proposal"]
    for device in (1, 0, 1):
        for current in (0, 1):
            with torch.cuda.device(current):
                tensor = fill(poisoned(5000, device=f"cuda:{device}"))
                assert torch.cuda.current_device() == current
                assert_same(tensor.cpu(), fill.new(5000))
                fill.draw(tensor)  # and with that device's default generator
                assert torch.cuda.current_device() == current


# ---------------------------------------------------------------------------------------------------------------
# Keys


@pytest.mark.parametrize("name", FILLS)
def test_manual_seed_decides(name):
    fill = FILLS[name]

    def draw() -> Tensor:
        return fill.draw(poisoned(*shape_for(fill, 3000)))

    torch.cuda.manual_seed(1)
    first, second = draw(), draw()
    torch.cuda.manual_seed(1)
    assert torch.equal(draw(), first) and torch.equal(draw(), second)
    assert not torch.equal(first, second)
    torch.cuda.manual_seed(2)
    assert not torch.equal(draw(), first)


@pytest.mark.parametrize("name", FILLS)
def test_the_generator_advances_by_the_same_whatever_the_size(name):
    fill = FILLS[name]
    states = []
    for elements in (3, 3_000_000):
        torch.cuda.manual_seed(3)
        before = torch.cuda.get_rng_state()
        fill.draw(poisoned(*shape_for(fill, elements)))
        states.append(torch.cuda.get_rng_state())
        assert not torch.equal(states[-1], before)
    assert torch.equal(*states)


@pytest.mark.parametrize("given", [False, True], ids=["default", "given"])
def test_a_key_is_what_random_would_draw(given):
    """Within a graph random_ draws it, outside of one the host computes it: a captured fill is no other than an eager one."""
    fill = FILLS["normal"]
    for seed in (0, 1, 2**63 + 12345, -1):
        generator = torch.Generator("cuda").manual_seed(seed) if given else None
        if not given:
            torch.cuda.manual_seed(seed)
        source = generator or torch.cuda.default_generators[torch.cuda.current_device()]
        for offset in (0, 4, 4096, 2**34 - 4, 2**40):
            source.set_offset(offset)
            key = torch.empty((), dtype=torch.int64, device="cuda").random_(
                -(2**63), None, generator=generator
            )
            after = source.get_state()
            source.set_offset(offset)
            tensor = fill.draw(poisoned(1000), generator)
            assert torch.equal(source.get_state(), after)
            expected = poisoned(1000)
            getattr(torch.ops.fastinit, fill.op).key(expected, *fill.parameters, key=key)
            assert_same(tensor, expected)


def test_state_and_fork():
    fill = FILLS["normal"]
    state = torch.cuda.get_rng_state()
    first = fill.draw(poisoned(100))
    torch.cuda.set_rng_state(state)
    with torch.random.fork_rng(devices=[torch.cuda.current_device()]):
        assert torch.equal(fill.draw(poisoned(100)), first)
        fill.draw(poisoned(100))
    assert torch.equal(torch.cuda.get_rng_state(), state)
    assert torch.equal(fill.draw(poisoned(100)), first)


def test_the_cpu_s_default_generator_is_left_alone():
    state = torch.get_rng_state()
    FILLS["normal"].draw(poisoned(100))
    assert torch.equal(torch.get_rng_state(), state)


def test_a_generator_of_the_device():
    fill = FILLS["normal"]
    state = torch.cuda.get_rng_state()
    first, second = (fill.draw(poisoned(100), torch.Generator("cuda").manual_seed(5)) for _ in range(2))
    assert torch.equal(first, second)
    assert torch.equal(torch.cuda.get_rng_state(), state), "the default generator was asked"


# ---------------------------------------------------------------------------------------------------------------
# Graphs


@pytest.mark.parametrize("name", FILLS)
def test_each_replay_of_a_graph_draws_anew(name):
    fill = FILLS[name]
    tensor = poisoned(*shape_for(fill, 3000))
    fill.draw(tensor)  # loads the kernels, which may not be done while capturing
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        fill.draw(tensor)

    def replay() -> Tensor:
        tensor.fill_(math.nan)
        graph.replay()
        return tensor.clone()

    torch.cuda.manual_seed(11)
    first, second = replay(), replay()
    assert not first.isnan().any() and not second.isnan().any()
    assert not torch.equal(first, second)
    torch.cuda.manual_seed(11)
    assert torch.equal(replay(), first)


def test_a_graph_repeats_nothing_silently():
    """A CPU generator's key would be a constant of the graph."""
    fill, tensor = FILLS["normal"], poisoned(100)
    fill.draw(tensor)
    generator = torch.Generator().manual_seed(0)
    state = generator.get_state()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        with pytest.raises(RuntimeError, match="graph would repeat"):
            fill.draw(tensor, generator)
        tensor.zero_()  # torch dislikes empty graphs
    assert torch.equal(generator.get_state(), state)


# ---------------------------------------------------------------------------------------------------------------
# Errors


def test_what_is_rejected_on_the_cpu_is_rejected_here():
    state = torch.cuda.get_rng_state()
    with pytest.raises(RuntimeError, match="share memory"):
        fastinit.normal_(torch.empty(3, device="cuda").expand(2, 3))
    with pytest.raises(NotImplementedError, match="dtype"):
        fastinit.normal_(torch.empty(3, device="cuda", dtype=torch.int32))
    with pytest.raises(RuntimeError, match="std"):
        fastinit.normal_(torch.empty(3, device="cuda"), std=-1.0)
    with pytest.raises(RuntimeError, match="generator"):
        fastinit.normal_(torch.empty(3), generator=torch.Generator("cuda"))
    assert torch.equal(torch.cuda.get_rng_state(), state), "a key was taken by a call that failed"


def test_empty_tensors():
    for name in DRAWN:
        assert FILLS[name].draw(torch.empty(0, 3, device="cuda")).numel() == 0


def test_compiled():
    generator_free = torch.compile(lambda t: fastinit.normal_(t), fullgraph=True, backend="eager")
    torch.cuda.manual_seed(4)
    want = fastinit.normal_(poisoned(100))
    torch.cuda.manual_seed(4)
    assert torch.equal(generator_free(poisoned(100)), want)
