"""Wheels: how they are made, and, where FASTINIT_WHEELS names a folder of some, that they serve every torch they promise.

`make test-wheels` makes and tests all of them. Each environment is a new one outside the clone, with torch and the wheel in
it, and no compiler.
"""

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import native

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(not (ROOT / "wheels.py").exists(), reason="not in a checkout")
if (ROOT / "wheels.py").exists():
    import extension
    import wheels
    from manylinux import NEWEST_GLIBC, link_inputs, old_symbols

WHEELS = Path(os.environ.get("FASTINIT_WHEELS", "dist")).absolute()
PYTHONS = os.environ.get("FASTINIT_WHEELS_PYTHONS", "3.10 3.11 3.12 3.13").split()
# Python, torch, and the torch that takes its place afterwards.
MATRIX = [
    ("3.10", "2.11", ""),
    ("3.11", "2.12", "2.15"),
    ("3.12", "2.14", ""),
    ("3.13", "2.13", "2.15"),
]
IN_SHORT = "2.12"
CONTRACT = ("contract", "keys", "narrow_parts", "parts", "reproducibility", "shards", "threads")
MOST_BYTES = 12e6
MOST_IMPORT_SECONDS = 0.06

needs_wheels = pytest.mark.skipif(
    "FASTINIT_WHEELS" not in os.environ, reason="FASTINIT_WHEELS names no folder of wheels"
)


# ---------------------------------------------------------------------------------------------------------------
# How they are made


def test_what_is_kept_of_torch(tmp_path: Path) -> None:
    kept = ["torch/include/ATen/ATen.h", "torch/lib/libc10.so", "torch/lib/libtorch_python.so"]
    others = ["torch/lib/libtorch_cuda.so", "torch/nn/init.py", "torchgen/include/x.h"]
    with zipfile.ZipFile(tmp_path / "torch.whl", "w") as archive:
        for name in (*kept, *others):
            archive.writestr(name, name)
        archive.writestr("torch-9.8.7.dist-info/METADATA", "Requires-Python: >=3.11\n")
    wheels.unpack(tmp_path / "torch.whl", tmp_path / "out")
    found = {str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*") if p.is_file()}
    assert found == {*kept, "METADATA"}


def test_a_torch_is_downloaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def download(*command: str | Path) -> str:
        calls.append(command)
        folder = Path(command[command.index("-d") + 1])
        with zipfile.ZipFile(folder / "torch.whl", "w") as archive:
            archive.writestr("torch/include/a.h", "")
            archive.writestr("torch-9.8.7.dist-info/METADATA", "Name: torch\nRequires-Python: >=3.11\n")
        return ""

    monkeypatch.setattr(wheels, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(wheels, "run", download)
    for _ in range(2):
        found = wheels.torch("9.8.7")
        assert found.oldest_python == (3, 11) and (found.folder / "include" / "a.h").exists()
    assert len(calls) == 1 and "torch==9.8.7" in calls[0]
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["torch-9.8.7"], "nothing is left behind"


def test_which_python() -> None:
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    found = wheels.python(version)
    if isinstance(found, str):
        pytest.skip(found)
    assert found.tag == f"cp{version.replace('.', '')}" and version.replace(".", "") in found.suffix
    assert wheels.python("2.0") == "there is no python2.0"


def test_old_symbols() -> None:
    """What glibc 2.34 put into libc is asked of the libraries where it used to be."""
    libc = Path(f"/lib/{os.uname().machine}-linux-gnu/libc.so.6")
    if not libc.exists():
        pytest.skip(f"no {libc}")
    found = old_symbols(libc)
    names = {library: {name for some in found[library].values() for name in some} for library in found}
    if not names["libdl.so.2"]:
        pytest.skip("this glibc is an old one")
    assert "dlopen" in names["libdl.so.2"] and "pthread_create" in names["libpthread.so.0"]
    assert not {"pthread_cond_wait", "pthread_mutex_lock"} & names["libpthread.so.0"], "libc has them always"


def test_a_library_for_an_older_glibc(tmp_path: Path) -> None:
    source = tmp_path / "shared.cpp"
    source.write_text("""
#include <dlfcn.h>
#include <pthread.h>
#include <memory>
extern "C" void* opened(const std::shared_ptr<int>& p) {
  const std::shared_ptr<int> other = p;
  pthread_rwlock_t lock;
  pthread_rwlock_init(&lock, nullptr);
  return dlopen("libm.so.6", *other);
}
""")
    newest = {}
    for name, more in (("plain", []), ("old", link_inputs(native.HERE.cxx, tmp_path / "glibc"))):
        output = tmp_path / f"{name}.so"
        command = [*native.HERE.cxx, "-O2", "-shared", "-fPIC", str(source), "-o", str(output), *more]
        subprocess.run(command, check=True)
        listing = subprocess.run(["objdump", "-T", output], check=True, capture_output=True, text=True).stdout
        newest[name] = max(tuple(map(int, v.split("."))) for v in re.findall(r"GLIBC_([\d.]+)", listing))
    assert newest["old"] <= NEWEST_GLIBC
    ctypes.CDLL(str(tmp_path / "old.so"))


def test_names() -> None:
    assert extension.module_name("2.13.1+cpu") == extension.module_name("2.13.0a0+git12") == "_C_2_13"


@pytest.mark.skipif(not (ROOT / ".git").exists() or not shutil.which("git"), reason="not in a clone")
def test_the_sources_are_complete(tmp_path: Path) -> None:
    """All that git knows, but for what is about git and CI, and nothing that was built."""
    command = [
        sys.executable,
        "setup.py",
        "-q",
        "egg_info",
        "--egg-base",
        str(tmp_path),
        "sdist",
        "-d",
        str(tmp_path),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (archive,) = tmp_path.glob("torch_fastinit-*.tar.gz")
    with tarfile.open(archive) as opened:
        inside = {name.partition("/")[2] for name in opened.getnames()}
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    tracked = {name for name in listing.splitlines() if (ROOT / name).exists()}
    assert tracked - inside == {name for name in tracked if name.startswith((".ci/", ".git"))}
    assert not {name for name in inside if name.endswith((".so", ".o", ".pyc"))}


# ---------------------------------------------------------------------------------------------------------------
# The wheels


def wheel_for(python: str) -> Path:
    tag = f"cp{python.replace('.', '')}"
    (found,) = WHEELS.glob(f"torch_fastinit-*-{tag}-{tag}-*.whl")
    return found


@pytest.fixture(scope="module", params=PYTHONS)
def unpacked(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    with zipfile.ZipFile(wheel_for(request.param)) as archive:
        archive.extractall(folder)
    return folder


@needs_wheels
@pytest.mark.parametrize("python", PYTHONS)
def test_size_and_tags(python: str) -> None:
    wheel = wheel_for(python)
    assert wheel.stat().st_size < MOST_BYTES
    tag = re.search(r"-manylinux_2_(\d+)_\w+\.whl$", wheel.name)
    assert tag is not None and (2, int(tag[1])) <= NEWEST_GLIBC, wheel.name
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    assert not [name for name in names if re.search(r"libtorch|libc10|libcudart|tests?/|csrc/", name)]
    assert f"fastinit/{extension.KERNELS}" in names and "fastinit/py.typed" in names


@needs_wheels
def test_symbols(unpacked: Path) -> None:
    """Each module finds all it needs in its torch's libraries, the kernels, Python and the system's libraries."""
    package = unpacked / "fastinit"
    modules = sorted(package.glob("_C_*.so"))
    assert modules
    kernels = native.symbols(package / extension.KERNELS, "defined")
    system = set()
    for name in ("libc.so.6", "libm.so.6", "libstdc++.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2"):
        command = [*native.HERE.cxx, f"-print-file-name={name}"]
        path = subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
        system |= native.symbols(Path(path), "defined")
    for module in modules:
        sections = subprocess.run(
            ["readelf", "-SlW", module], check=True, capture_output=True, text=True
        ).stdout
        assert ".dynsym" in sections and not re.search(r"\.symtab|\.debug_info", sections), "stripped"
        assert re.search(r"GNU_STACK .* RW ", sections), "no executable stack"
        release = module.name.split(".")[0].removeprefix("_C_").replace("_", ".")
        (version,) = (v for v in wheels.TORCHES if v.startswith(f"{release}."))
        found = kernels | system
        for library in wheels.TORCH_LIBRARIES:
            found |= native.symbols(wheels.torch(version).folder / "lib" / library, "defined")
        command = ["nm", "-D", "--undefined-only", str(module)]
        lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        missing = set(re.findall(r" U ([^@\s]+)", lines)) - found  # and not those that may be missing
        assert not [name for name in missing if not re.match("_?Py", name)], module.name


class Environment:
    """A virtual environment of that Python in a folder of its own."""

    def __init__(self, folder: Path, python: str) -> None:
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"
        found = wheels.python(python)
        if isinstance(found, str):
            pytest.skip(found)
        subprocess.run([found.program, "-m", "venv", folder / "venv"], check=True)

    def run(self, *arguments: str | Path) -> str:
        environment = {
            k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "FASTINIT", "PYENV"))
        }
        environment |= {"PATH": str(self.python.parent), "CC": "false", "CXX": "false"}
        command = [str(self.python), *map(str, arguments)]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{command}\n{done.stdout[-6000:]}\n{done.stderr[-6000:]}"
        return done.stdout

    def install(self, *arguments: str | Path) -> None:
        self.run("-m", "pip", "install", "--quiet", "--only-binary=:all:", *arguments)

    def files(self) -> list[str]:
        every = (str(path.relative_to(self.folder)) for path in (self.folder / "venv").rglob("*"))
        return [name for name in every if "fastinit" in name.lower()]


IMPORT = """
import time, torch
before = time.process_time()  # other programs may run
import fastinit
print(time.process_time() - before)
"""


def check(environment: Environment, torch: str) -> None:
    info = json.loads(environment.run("-m", "fastinit", "info", "--json"))
    assert info["versions"]["torch"].startswith(f"{torch}.") and info["built"]["torch"].startswith(
        f"{torch}."
    )
    assert bool(info["built"]["cuda_architectures"]) != bool(info["built"]["cuda_missing_reason"])
    assert str(environment.folder) in environment.run("-c", "import fastinit; print(fastinit._C.__file__)")
    assert "CUDA kernels" in environment.run("-m", "fastinit", "info")
    seconds = min(float(environment.run("-c", IMPORT)) for _ in range(5))
    print(f"\ntorch {info['versions']['torch']}: fastinit's import takes {1000 * seconds:.0f} ms", flush=True)
    assert seconds < MOST_IMPORT_SECONDS


def check_tests(environment: Environment, names: Sequence[str] = CONTRACT) -> None:
    """The contract and the hashes, against what is installed."""
    if not (environment.folder / "tests").exists():
        shutil.copytree(ROOT / "tests", environment.folder / "tests")
        for name in ("pyproject.toml", "CHANGELOG.md", "README.md"):
            shutil.copy(ROOT / name, environment.folder)
    files = [f"tests/contract/test_{name}.py" for name in names]
    printed = environment.run("-m", "pytest", "-q", "-p", "no:cacheprovider", *files)
    print(printed.splitlines()[-1], flush=True)
    assert re.search(r"\d{2,} passed", printed) and "failed" not in printed


def check_uninstalled(environment: Environment) -> None:
    assert environment.files()
    environment.run("-m", "pip", "uninstall", "--yes", "--quiet", "torch-fastinit")
    assert environment.files() == []


@pytest.fixture
def environment(request: pytest.FixtureRequest) -> Iterator[Environment]:
    with tempfile.TemporaryDirectory(prefix="wheel-") as folder:  # of some GB: gone at once
        yield Environment(Path(folder), request.param)


def install(environment: Environment, python: str, torch: str) -> None:
    """That torch, and the wheel, for which nothing else is downloaded."""
    environment.install(f"torch=={torch}")
    environment.install("--no-index", wheel_for(python))


@needs_wheels
@pytest.mark.long
@pytest.mark.parametrize(
    ("environment", "torch", "later"),
    [pytest.param(*row, id="-".join(filter(None, row))) for row in MATRIX],
    indirect=["environment"],
)
def test_matrix(environment: Environment, torch: str, later: str, request: pytest.FixtureRequest) -> None:
    """Wheel and torch only; then another torch in its place, and nothing installed anew."""
    install(environment, request.node.callspec.params["environment"], f"{torch}.*")
    check(environment, torch)
    assert "whole model" in environment.run("-m", "fastinit", "demo", "--preset", "gpt2")
    environment.install("pytest", "numpy", "scipy")
    check_tests(environment)
    if later:
        environment.install(f"torch=={later}.*")
        check(environment, later)
        check_tests(environment)
    check_uninstalled(environment)


@needs_wheels
@pytest.mark.parametrize("environment", PYTHONS[:1], indirect=True)
def test_in_short(environment: Environment, request: pytest.FixtureRequest) -> None:
    """What .ci/run has time for: one Python, one torch that is not the pinned one, the hashes."""
    install(environment, request.node.callspec.params["environment"], f"{IN_SHORT}.*")
    check(environment, IN_SHORT)
    environment.install("pytest", "numpy")
    check_tests(environment, ("keys", "reproducibility"))
    check_uninstalled(environment)
