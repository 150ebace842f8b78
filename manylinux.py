"""Links libraries that load on systems with an older glibc than this one.

A library asks for the versions of symbols that glibc had where it was linked. Since 2.34, what used to be in libdl,
libpthread and librt is in libc, under that version; the old versions are there too, but no linker takes them. So the
libraries of old are put before it: stubs, which say what the old ones had and do nothing. At run time, the dynamic linker
finds the old versions in whatever glibc there is.

`__libc_single_threaded` (2.32) is asked for by libstdc++'s shared_ptr, to spare an atomic operation in programs of a single
thread. Ours says that there are more.
"""

import re
import subprocess
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

NEWEST_GLIBC = (2, 28)  # torch's own wheels need it
OLD_LIBRARIES = {"libdl.so.2": r"dl\w+", "libpthread.so.0": r"(pthread|sem)_\w+", "librt.so.1": r"shm_\w+"}
NO_EXECUTABLE_STACK = '.section .note.GNU-stack,"",%progbits\n'
SINGLE_THREADED = f"""\
{NO_EXECUTABLE_STACK}\
.hidden __libc_single_threaded
.globl __libc_single_threaded
.bss
__libc_single_threaded: .zero 1
"""


def versions(libc: Path) -> dict[str, list[tuple[str, bool]]]:
    """What a libc defines: the versions of each symbol, and whether a linker takes that one."""
    command = ["objdump", "-T", str(libc)]
    lines = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found = defaultdict(list)
    for hidden, version, name in re.findall(r"\s(\(?)(GLIBC_[\d.]+)\)?\s+(\w+)$", lines, re.M):
        found[name].append((version, not hidden))
    return found


def number(version: str) -> tuple[int, ...]:
    return tuple(map(int, version.removeprefix("GLIBC_").split(".")))


def old_symbols(libc: Path) -> dict[str, dict[str, list[str]]]:
    """What each old library had under which version, and has to be taken from there."""
    result: dict[str, dict[str, list[str]]] = {name: defaultdict(list) for name in OLD_LIBRARIES}
    for symbol, there in versions(libc).items():
        old = [version for version, _ in there if number(version) <= NEWEST_GLIBC]
        new = [version for version, taken in there if taken and number(version) > NEWEST_GLIBC]
        for library, pattern in OLD_LIBRARIES.items():
            if old and new and re.fullmatch(pattern, symbol):
                result[library][max(old, key=number)].append(symbol)
    return result


def link_inputs(cxx: Sequence[str], folder: Path) -> list[str]:
    """What goes into the command that links a library, after its objects."""
    folder.mkdir(parents=True, exist_ok=True)
    flag = folder / "single_threaded.s"
    write(flag, SINGLE_THREADED)
    inputs = [str(flag)]
    libc = subprocess.run(
        [*cxx, "-print-file-name=libc.so.6"], check=True, capture_output=True, text=True
    ).stdout.strip()
    for library, symbols in old_symbols(Path(libc)).items():
        if not symbols:
            continue
        every = sorted(name for names in symbols.values() for name in names)
        source, script, stub = (folder / (library + end) for end in (".s", ".map", ""))
        write(
            source,
            NO_EXECUTABLE_STACK
            + ".text\n"
            + "".join(f".globl {x}\n.type {x},@function\n{x}: ret\n" for x in every),
        )
        write(
            script,
            "".join(f"{v} {{ global: {'; '.join(names)}; }};\n" for v, names in sorted(symbols.items())),
        )
        options = ["-shared", "-nostdlib", f"-Wl,-soname,{library}", f"-Wl,--version-script={script}"]
        subprocess.run([*cxx, *options, str(source), "-o", str(stub)], check=True)
        inputs.append(str(stub))
    return [*inputs[:1], "-Wl,--push-state,--as-needed", *inputs[1:], "-Wl,--pop-state"]


def write(path: Path, text: str) -> None:
    if not path.exists() or path.read_text() != text:
        path.write_text(text)
