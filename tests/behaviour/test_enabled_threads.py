"""fastinit.enabled(): blocks that nest, in threads, tasks and forked processes."""

import asyncio
import threading
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.nn import init

import fastinit
from blocks import elsewhere, is_on, run

pytestmark = pytest.mark.usefixtures("one_thread", "no_trace")


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


@pytest.mark.parametrize("block", ["enabled()", "keys_by_name(layer)", "deferred()"])
def test_forks_beside_blocks(block: str) -> None:
    """A child has the lock as it was at the fork, but not the thread that held it."""
    run(
        """
        import os, signal, threading
        layer = torch.nn.Linear(2, 2)
        with fastinit.BLOCK:
            torch.empty(3).normal_()  # loads what is loaded at first use, which would take each child seconds
        def open_and_close():
            while not done:
                with fastinit.BLOCK:
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
                    with fastinit.BLOCK:
                        torch.empty(3).normal_()
                    os._exit(0)
                assert os.waitpid(child, 0)[1] == 0
        finally:
            done = True
        """.replace("BLOCK", block)
    )


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
