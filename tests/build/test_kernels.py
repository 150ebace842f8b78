"""The library of kernels: it knows neither torch nor Python, and shows its C interface and nothing else."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from toolchain import CSRC

import fastinit
import native
from fastinit import _C

PACKAGE = Path(fastinit.__file__).parent
KERNELS = PACKAGE / "libfastinit_kernels.so"
INTERFACE = (CSRC / "kernels" / "interface.h").read_text() if CSRC.exists() else ""

pytestmark = pytest.mark.skipif(not CSRC.exists(), reason="not in a checkout")


def needed(library: Path) -> set[str]:
    command = ["readelf", "-d", str(library)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return set(re.findall(r"\(NEEDED\).*\[(.+)\]", lines))


def functions() -> set[str]:
    return set(re.findall(r"^FASTINIT_EXPORT [^(]*?(fastinit_\w+)\(", INTERFACE, re.M))


def test_the_library_needs_nothing_of_torch_or_python() -> None:
    others = {name for name in needed(KERNELS) if not re.match(r"lib(asan|ubsan|gcov)\b", name)}
    standard = {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "libstdc++.so.6", "libdl.so.2", "libpthread.so.0"}
    assert others <= standard | {"librt.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}
    assert not {
        name for name in native.symbols(KERNELS, "undefined") if re.match(r"_?Py|_ZN2at|_ZN3c10", name)
    }


def test_it_shows_its_interface_and_nothing_else() -> None:
    assert len(functions()) > 10
    assert native.symbols(KERNELS, "defined") == functions()


def test_the_module_takes_nothing_but_the_interface() -> None:
    module = Path(_C.__file__)
    assert KERNELS.name in needed(module)
    used = {name for name in native.symbols(module, "undefined") if "fastinit" in name}
    assert used and used <= functions()


def includes(*folders: str) -> Iterator[tuple[Path, str]]:
    for folder in folders:
        for path in sorted(CSRC.glob(f"{folder}/*")):
            for name in re.findall(r'^\s*#\s*include ["<](.+?)[">]', path.read_text(), re.M):
                yield path, name


def test_each_side_includes_its_own() -> None:
    """Sources of the kernels include nothing of torch's, and those of the module no kernel."""
    foreign = re.compile(r"(ATen|c10|torch|pybind11)/|Python\.h")
    found = list(includes("core", "cpu", "cuda", "kernels"))
    assert len(found) > 50 and [item for item in found if foreign.match(item[1])] == []
    ours = {name for _, name in includes("torch") if name.split("/")[0] in ("cpu", "cuda", "kernels")}
    assert ours == {"cpu/matrix.h", "kernels/interface.h"}


@pytest.mark.skipif(not shutil.which("cc"), reason="no C compiler")
def test_a_program_in_c(tmp_path: Path) -> None:
    program = tmp_path / "program"
    command = ["cc", "-std=c11", "-Wall", "-Wextra", "-pedantic", "-Werror", f"-I{CSRC}"]
    command += [str(CSRC.parent / "tests" / "native" / "interface.c"), "-o", str(program)]
    command += [f"-L{PACKAGE}", "-lfastinit_kernels", f"-Wl,-rpath,{PACKAGE}"]
    subprocess.run(command, check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()

    version = int(re.findall(r"#define FASTINIT_INTERFACE (\d+)", INTERFACE)[0])
    assert lines[0] == f"interface: fastinit's kernels have interface {version}, not {version + 1}"
    for line, key in zip(lines[1:3], (7, 11), strict=True):
        expected = fastinit.normal_(torch.empty(3, 5), 1, 2, generator=_C.Key(key))
        name, *values = line.split()
        assert name == "normal" and list(map(float.fromhex, values)) == expected.flatten().tolist()
    assert lines[3:7] == [
        "kind: fastinit's kernels know no distribution of kind 99",
        "dims: fastinit's kernels know no dtype 0 with 65 dimensions",
        "dtype: fastinit's kernels know no dtype 99 with 2 dimensions",
        "instruction set: no such CPU capability here: mmx",
    ]
    without_cuda = (
        []
        if _C.build_info()["cuda_architectures"]
        else ["CUDA: fastinit: these kernels were built without CUDA"] * 2
    )
    assert lines[7:] == [*without_cuda, "product 2 6 6 14 squares 10 16", "parallel once"]
