"""What the CUDA kernels cost, counted in their machine code: `python -m benchmarks.instructions`. No GPU is needed.

Compiles csrc/cuda/fill.cu for one architecture and disassembles it. Of each kernel for contiguous memory it takes the
loop over whole, aligned tiles, and in it the path from one round to the next with the fewest instructions that stores
every pack: the branches for rare cases are not taken. Instructions a value are those that one thread issues.

Needs nvcc, and nvdisasm (of the CUDA toolkit, or of the package nvidia-cuda-nvdisasm).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
import toolchain  # noqa: E402

ELEMENT = {"f": ("float32", 4), "d": ("float64", 8), "4Half": ("float16", 2), "8BFloat16": ("bfloat16", 2)}
OPS = {
    "13UniformOnGrid": "uniform_",
    "7UniformI": "uniform_ of tiny numbers",
    "6NormalI": "normal_",
    "17TruncatedNormalIn": "trunc_normal_",
    "15TruncatedNormalI": "trunc_normal_",
    "6Sparse": "sparse_",
}
BYTES = {"float32": 4, "float64": 8, "float16": 2, "bfloat16": 2}
METHODS = ("normal", "half normal", "uniform", "exponential")  # by rejection
RANGES = ("near", "central", "wide")  # of quantiles


class Gpu(NamedTuple):
    name: str
    multiprocessors: int
    gigahertz: float
    stores: float  # bytes a second that a plain fill is assumed to reach


# Clocks and peak bandwidths as NVIDIA states them: 3.35, 4.8 and 8 TB/s, of which stores are taken to reach 87 %.
GPUS = {
    "90": (Gpu("H100", 132, 1.755, 2.9e12), Gpu("H200", 132, 1.755, 4.2e12)),
    "100": (Gpu("B200", 148, 1.85, 6.9e12),),
}
THREADS_A_CLOCK = 128  # of a multiprocessor: four schedulers, a warp each
# What a multiprocessor does for 64 threads a clock, by the CUDA programming guide's table of throughputs.
HALF_RATE = (
    "LOP3",
    "SHF",
    "FMNMX",
    "I2F",
    "IADD3",
    "VIADD",
    "ISETP",
    "FSETP",
    "FSEL",
    "SEL",
    "PRMT",
    "LEA",
    "F2F",
)
VALUES = 2**30


@dataclass
class Block:
    """Instructions without a jump in or out between them."""

    instructions: list[str] = field(default_factory=list)
    next: list[int] = field(default_factory=list)

    def count(self, name: str) -> int:
        return sum(operation(line).startswith(name) for line in self.instructions)


def operation(line: str) -> str:
    return re.sub(r"^@!?U?P\w+ ", "", line).split()[0]


def blocks_of(lines: list[str]) -> list[Block]:
    """The control flow of one kernel, as nvdisasm -c writes it."""
    blocks, labels, jumps = [Block()], {}, []
    for line in lines:
        if label := re.match(r"(\.L_x_\d+):", line):
            if blocks[-1].instructions:
                blocks[-1].next.append(len(blocks))
                blocks.append(Block())
            labels[label[1]] = len(blocks) - 1
            continue
        if not (found := re.search(r"/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;", line)):
            continue
        text = re.sub(r"\s+", " ", found[1])
        blocks[-1].instructions.append(text)
        name = operation(text)
        if name.split(".")[0] in ("BRA", "EXIT", "RET", "BRX", "JMP"):
            conditional = text.startswith("@") or re.search(r"BRA(\.\w+)* !?U?P\d", text) is not None
            if target := re.search(r"`\((\.L_x_\d+)\)", text):
                jumps.append((len(blocks) - 1, target[1]))
            if conditional:
                blocks[-1].next.append(len(blocks))
            blocks.append(Block())
    for block, label in jumps:
        blocks[block].next.append(labels[label])
    for block in blocks:
        block.next = [i for i in block.next if i < len(blocks)]
    return blocks


def loops_of(blocks: list[Block]) -> list[tuple[int, frozenset[int]]]:
    """(head, members) of every loop: what reaches a jump backwards without passing the place it goes to."""
    before: list[list[int]] = [[] for _ in blocks]
    for i, block in enumerate(blocks):
        for j in block.next:
            before[j].append(i)
    members: dict[int, set[int]] = {}
    for i, block in enumerate(blocks):
        for head in block.next:
            if head > i:
                continue
            found, todo = members.setdefault(head, {head}), [i]
            while todo:
                if (j := todo.pop()) not in found:
                    found.add(j)
                    todo += before[j]
    return [(head, frozenset(found)) for head, found in members.items()]


def shortest(blocks: list[Block], inside: frozenset[int], start: int, end: int) -> list[int] | None:
    """The blocks after `start` up to `end` on the way with the fewest instructions; None if there is no way."""
    best: dict[int, tuple[int, list[int]]] = {start: (0, [])}
    todo = [start]
    done: set[int] = set()
    while todo:
        here = min(todo, key=lambda i: best[i][0])
        todo.remove(here)
        if here == end and best[here][1]:
            break
        if here in done:
            continue
        done.add(here)
        for there in blocks[here].next:
            if there not in inside:
                continue
            cost = best[here][0] + len(blocks[there].instructions)
            if there not in best or cost < best[there][0] or (there == start == end and not best[there][1]):
                best[there] = (cost, [*best[here][1], there])
                todo.append(there)
    return best[end][1] if end in best else None


class Count(NamedTuple):
    op: str
    dtype: str
    method: str
    values: int  # of one round of a thread
    instructions: Counter[str]

    @property
    def a_value(self) -> float:
        return self.instructions.total() / self.values

    @property
    def integers(self) -> float:
        """Instructions a value for the units that take two clocks for a warp."""
        return sum(n for name, n in self.instructions.items() if name.startswith(HALF_RATE)) / self.values


def prediction(counted: Count, gpu: Gpu) -> str:
    """A line of the table in docs/gpu.md."""
    clocks = gpu.multiprocessors * gpu.gigahertz * 1e9 / VALUES
    bounds = {
        "issue": counted.a_value / THREADS_A_CLOCK / clocks,
        "integers": 2 * counted.integers / THREADS_A_CLOCK / clocks,
        "stores": VALUES * BYTES[counted.dtype] / gpu.stores,
    }
    bound = max(bounds, key=lambda name: bounds[name])
    times = " | ".join(f"{1e3 * seconds:.2f} ms" for seconds in bounds.values())
    return f"| {gpu.name} | {times} | {bound} | {bounds['stores'] / bounds[bound]:.2f} |"


def kernels(disassembly: str) -> Iterator[tuple[str, list[str]]]:
    for part in re.split(r"^\.text\.", disassembly, flags=re.M)[1:]:
        name, _, body = part.partition(":\n")
        yield name, body.splitlines()


def count(name: str, lines: list[str]) -> Count | None:
    """The loop over whole tiles of a kernel for contiguous memory."""
    element = re.search(r"10ContiguousI(?:NS_)?(4Half|8BFloat16|f|d)E?Li(\d)", name)
    op = re.search("|".join(OPS), name)
    if element is None or op is None:
        return None
    dtype, size = ELEMENT[element[1]]
    pack = int(element[2]) * (32 if size == 2 else 16) // (4 if size == 2 else 1)
    store = f"STG.E.{8 * pack}"
    rejecting, quantiles = (re.search(rf"{kind}E(\d)", name) for kind in ("Method", "Range"))
    method = METHODS[int(rejecting[1])] if rejecting else RANGES[int(quantiles[1])] if quantiles else ""
    blocks = blocks_of(lines)
    loops = loops_of(blocks)
    innermost: dict[int, tuple[int, frozenset[int]]] = {}
    for i in range(len(blocks)):
        around = [loop for loop in loops if i in loop[1]]
        if around and blocks[i].count(store):
            innermost[i] = min(around, key=lambda loop: len(loop[1]))
    stores = Counter()
    for i, loop in innermost.items():
        stores[loop] += blocks[i].count(store)
    (head, members), packs = max(stores.items(), key=lambda item: item[1])
    path, here = [], head
    for stop in [*(i for i in sorted(innermost) if innermost[i] == (head, members)), head]:
        if stop == head and here == head and path:
            break
        if stop != here or stop == head:
            way = shortest(blocks, members, here, stop)
            if way is None:  # the stores are not on one path
                return None
            path += way
        here = stop
    taken = Counter(operation(line) for i in path for line in blocks[i].instructions)
    return Count(OPS[op[0]], dtype, method, packs * pack // size, taken)


def disassemble(architecture: str) -> str:
    cuda = toolchain.find_cuda()
    nvdisasm = shutil.which("nvdisasm") or shutil.which("/usr/local/cuda/bin/nvdisasm")
    if isinstance(cuda, str) or nvdisasm is None:
        raise SystemExit(f"cannot count: {cuda if isinstance(cuda, str) else 'nvdisasm not found'}")
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "fill.cubin")
        target = f"-gencode=arch=compute_{architecture},code=sm_{architecture}"
        source = str(ROOT / "csrc" / "cuda" / "fill.cu")
        subprocess.run(
            [*cuda.nvcc, target, *toolchain.CUDA_FLAGS, "-cubin", source, "-o", cubin],
            check=True,
            env=os.environ | {"LC_ALL": "C"},
        )
        return subprocess.run([nvdisasm, "-c", cubin], check=True, capture_output=True, text=True).stdout


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--arch", default="90", help="such as 100; default: %(default)s")
    parser.add_argument(
        "--kinds", metavar="REGEX", help="of these kernels, also how many of which instruction"
    )
    parser.add_argument(
        "--predict", action="store_true", help="what that means on devices of this architecture"
    )
    parser.add_argument("--sass", type=Path, help="a disassembly that there is already")
    args = parser.parse_args()
    text = args.sass.read_text() if args.sass else disassemble(args.arch)
    for counted in sorted(filter(None, (count(*kernel) for kernel in kernels(text)))):
        what = " ".join(filter(None, (counted.op, counted.method, counted.dtype)))
        print(f"{what:40}{counted.a_value:8.2f} instructions a value, {counted.values} values a round")
        if args.predict:
            for gpu in GPUS.get(args.arch, ()):
                print(prediction(counted, gpu))
        if args.kinds and re.search(args.kinds, what):
            for name, times in counted.instructions.most_common():
                print(f"    {name:30}{times / counted.values:8.3f}")


if __name__ == "__main__":
    main()
