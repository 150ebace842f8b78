"""What must not go wrong when something else does: the call fails with a clear error, or the values are right.

Most of it happens in a process of its own, which may die without taking the other tests along.
"""

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import fastinit
from fills import FILLS, Call, assert_same, threads

linux_only = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a matter of Linux")

PREAMBLE = """
import os, signal, sys, threading, time
import torch
import fastinit

def values(n, seed):
    return fastinit.normal_(torch.empty(n), generator=torch.Generator().manual_seed(seed))
"""


def run(program: str, **environment: str) -> str:
    """Runs a program that has to end well, and returns what it printed."""
    variables = os.environ | {"PYTHONPATH": str(Path(fastinit.__file__).parents[1])} | environment
    command = [sys.executable, "-c", PREAMBLE + textwrap.dedent(program)]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"exit status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@linux_only
def test_no_memory_on_another_thread() -> None:
    """What a helper cannot allocate is the caller's error; and the next call works."""
    printed = run(
        """
        import resource
        torch.set_num_threads(2)
        batch = torch.empty(8, 1000, 1000)
        small = torch.empty(64, 200, 200)
        for _ in range(10):
            fastinit.batched_orthogonal_(small)  # the helper is there, with all that it needs once
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 20), used + (2 << 20)))
        try:
            fastinit.batched_orthogonal_(batch)
        except (MemoryError, RuntimeError) as error:
            print(type(error).__name__, error)
        fastinit.batched_orthogonal_(small)
        print("filled")
        """
    )
    if printed == "filled\n":  # the helper came too late to need any
        pytest.skip("one thread had memory enough")
    assert ("bad_alloc" in printed or "MemoryError" in printed) and printed.endswith("filled\n"), printed


@linux_only
@pytest.mark.parametrize("call", ["normal_", "orthogonal_", "sparse_"])
def test_no_memory(call: str) -> None:
    """A limit on the address space: what needs memory says so, and what does not need any works."""
    printed = run(
        f"""
        import resource
        torch.set_num_threads(1)  # a new thread would need memory for its stack
        tensor = torch.full((3000, 3000), 7.0, dtype=torch.bfloat16)
        arguments = (0.5,) if "{call}" == "sparse_" else ()
        fastinit.{call}(torch.empty(20, 20), *arguments)
        used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (used + (12 << 20), used + (12 << 20)))
        try:
            fastinit.{call}(tensor, *arguments)
        except (MemoryError, RuntimeError) as error:
            print(type(error).__name__, error)
        else:
            print("filled", bool((tensor != 7).all()))
        """
    )
    if call == "orthogonal_":  # has float32 matrices to make
        assert "can't allocate memory" in printed or "bad_alloc" in printed or "MemoryError" in printed, (
            printed
        )
    else:
        assert printed == "filled True\n"


@pytest.mark.parametrize(("call", "shape"), [("trunc_normal_", (1 << 25,)), ("orthogonal_", (1500, 1500))])
def test_keyboard_interrupt(call: str, shape: tuple[int, ...]) -> None:
    """It is raised when the fill has ended, which is then complete."""
    run(
        f"""
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        torch.set_num_threads(1)
        tensor = torch.empty({shape})
        fill = lambda: fastinit.{call}(tensor, generator=torch.Generator().manual_seed(3))
        started = time.monotonic()
        expected = fill().clone()
        duration = time.monotonic() - started
        tensor.fill_(float("nan"))
        threading.Timer(duration / 4, os.kill, (os.getpid(), signal.SIGINT)).start()
        try:
            fill()
            time.sleep(10)
        except KeyboardInterrupt:
            assert torch.equal(tensor, expected)
        else:
            raise AssertionError("no KeyboardInterrupt")
        """
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.parametrize("call", ["values(1 << 21, 5)", "fastinit.orthogonal_(torch.empty(700, 700))"])
def test_fork_after_use(call: str) -> None:
    """Threads do not survive a fork: the child must not wait for them."""
    run(
        f"""
        def drawn():  # as numpy's: torch itself would wait
            torch.manual_seed(5)
            return {call}.numpy().tobytes()

        torch.set_num_threads(3)
        expected = drawn()
        child = os.fork()
        if child == 0:
            signal.alarm(60)
            os._exit(0 if drawn() == expected else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert drawn() == expected  # the parent still can
        """
    )


def test_generator_destroyed_meanwhile() -> None:
    """Only the key is taken from it, and whoever fills holds it so long."""
    run(
        """
        import gc
        n = 1 << 22
        expected = [values(n, seed) for seed in range(4)]
        for seed in range(4):
            holder = [torch.Generator().manual_seed(seed)]
            tensor = torch.empty(n)
            thread = threading.Thread(target=lambda: fastinit.normal_(tensor, generator=holder.pop()))
            thread.start()
            while holder:
                pass
            gc.collect()
            thread.join()
            assert torch.equal(tensor, expected[seed])
        """
    )


CALLS = (
    "fastinit.normal_(tensor)",
    "fastinit.sparse_(tensor, 0.5)",
    "fastinit.orthogonal_(tensor)",
    "fastinit.eye_(tensor)",
    "fastinit.ones_(tensor)",
    "tensor.normal_()",
)


@pytest.mark.parametrize(
    "tensor",
    [
        "torch.empty(300, 400).share_memory_()",
        "torch.from_numpy(__import__('numpy').empty((300, 400), dtype='float32'))",
        "torch.frombuffer(bytearray(480000), dtype=torch.float32).view(300, 400)",
        "torch.from_dlpack(torch.empty(300, 400))",
    ],
)
def test_storages_that_are_not_torchs_own(tensor: str) -> None:
    """Shared memory above all: what has been through a queue of torch.multiprocessing, say."""
    run(
        f"""
        tensor = {tensor}
        resizable = tensor.untyped_storage().resizable()
        for enabled in (False, True):
            if enabled:
                fastinit.enable()
            for call in {CALLS}:
                exec(call)
        assert tensor.untyped_storage().resizable() == resizable
        """
    )


def test_a_storage_that_is_replaced_meanwhile() -> None:
    """The fill writes to the memory that it began with."""
    run(
        """
        n = 1 << 23
        for _ in range(10):
            tensor = torch.empty(n)
            thread = threading.Thread(target=fastinit.trunc_normal_, args=(tensor,))
            thread.start()
            time.sleep(0.002)
            tensor.set_(torch.empty(3).untyped_storage(), 0, (3,))
            thread.join()
        """
    )


@pytest.mark.parametrize(
    "call",
    [
        fastinit.normal_,
        fastinit.orthogonal_,
        fastinit.eye_,
        fastinit.ones_,
        fastinit.zeros_,
        lambda tensor: fastinit.constant_(tensor, 0.5),
        lambda tensor: fastinit.constant_(tensor, torch.tensor(0.5)),
    ],
)
def test_a_tensor_beyond_its_storage(call: Callable[[torch.Tensor], torch.Tensor]) -> None:
    """What is left of a tensor whose storage was freed, or could not be enlarged."""
    tensor = torch.empty(4, 5)
    tensor.untyped_storage().resize_(79)
    with pytest.raises(RuntimeError, match="goes beyond its storage of 79 bytes"):
        call(tensor)
    tensor.untyped_storage().resize_(80)
    call(tensor)


@pytest.mark.parametrize("name", ["uniform", "truncated, normal proposal", "sparse"])
def test_more_threads_than_cores(name: str) -> None:
    fill: Call = FILLS[name]
    with threads(1):
        expected = fill.new(1025, 1031)
    for count in range(2, 65):
        with threads(count):
            assert_same(fill.new(1025, 1031), expected, f"{count} threads")


def test_exit_during_a_fill() -> None:
    """The interpreter ends while a daemon thread fills."""
    run(
        """
        tensor = torch.empty(1 << 24)
        threading.Thread(target=lambda: [fastinit.trunc_normal_(tensor) for _ in range(100)], daemon=True).start()
        time.sleep(0.05)
        """
    )
