"""Times on a CUDA device, without what the host does."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch

SLEEPS = (2_000_000, 20_000_000, 200_000_000)  # cycles: 1, 10 and 100 ms
MOST_CALLS = 200  # at a time: the device's queue holds about a thousand launches, and a call may take several


class Timing(NamedTuple):
    seconds: float  # of the device, for all calls
    host_seconds: float  # until all had been called
    overlapped: bool  # everything was in the queue before the device began, so that no waiting for the host is counted


def timed(call: Callable[[], Any], calls: int, sleeps: tuple[int, ...] = SLEEPS) -> Timing:
    """Time calls between two events, which wait in the queue behind a pause until all calls are there.

    A longer pause is tried where one was too short. No pause is long enough for a call that waits for the device itself, or
    for more launches than the queue holds: their time is then that of host and device together.
    """
    for sleep in sleeps:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        torch.cuda._sleep(sleep)
        start.record()
        began = time.perf_counter()
        for _ in range(calls):
            call()
        host = time.perf_counter() - began
        end.record()
        if overlapped := not start.query():
            break
    end.synchronize()
    return Timing(start.elapsed_time(end) / 1e3, host, overlapped)
