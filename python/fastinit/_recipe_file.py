"""The file of a recipe: JSON that a person can read, and that is checked word by word when it is read."""

from __future__ import annotations

import base64
import inspect
import json
import math
from typing import Any, NoReturn

import torch
from torch import Tensor

from fastinit._enabled.report import INITIALISERS, WITHOUT_KEY
from fastinit._load import version
from fastinit._parts import Place
from fastinit._steps import CONSTANT, EXACT, INEXACT, MOST_EMBEDDED, Made, Step, View

FORMAT, SCHEMA = "fastinit recipe", 1
# All that a recipe's pieces of memory may take together, for each byte of the tensor, and besides.
MOST_MEMORY, MORE_MEMORY = 64, 2**24

DTYPES = {
    str(dtype).removeprefix("torch."): dtype
    for dtype in (
        *(torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.complex64, torch.complex128),
        *(torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool),
    )
}
FORMATS = {
    str(each).removeprefix("torch."): each
    for each in (torch.contiguous_format, torch.preserve_format, torch.channels_last, torch.channels_last_3d)
}
LAYOUTS = {"strided": torch.strided}
PARAMETERS = {
    name: [p for p in list(inspect.signature(function).parameters)[1:] if p != "generator"]
    for name, function in INITIALISERS.items()
}


def values_version(release: str = version) -> str:
    """The part of a version within which no value changes: before 1.0 the first two numbers, then the first."""
    major, minor = release.split(".")[:2]
    return f"0.{minor}" if major == "0" else major


# ---- Writing -----------------------------------------------------------------------------------------------


def dump(tensors: dict[str, Made], tied: dict[str, str]) -> str:
    wrong = []
    lines = []
    for name, made in tensors.items():
        try:
            lines.append(
                f"  {json.dumps(name, ensure_ascii=False)}: {json.dumps(tensor(made), allow_nan=False)}"
            )
        except ValueError as error:
            wrong.append(f"{name}: {error}")
    if wrong:
        raise ValueError("the recipe cannot be written:\n" + "\n".join(wrong))
    head = {
        "format": FORMAT,
        "schema": SCHEMA,
        "values": values_version(),
        "made with": {"fastinit": version, "torch": torch.__version__},
    }
    body = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in head.items()]
    body.append(' "tensors": {\n' + ",\n".join(lines) + "\n }")
    body.append(f' "tied": {json.dumps(tied, ensure_ascii=False)}')
    return "{\n" + ",\n".join(body) + "\n}\n"


def tensor(made: Made) -> dict[str, Any]:
    found: dict[str, Any] = {"shape": list(made.result.size), "dtype": of_dtype(made.result.dtype)}
    if not made.exact:
        found["equal"] = "to rounding, on other machines"
    only = made.only
    if only is not None and compact(made):
        found |= {"fill": only.function, "arguments": {k: encoded(v) for k, v in only.arguments.items()}}
        return found if only.key is None else found | {"key": f"{only.key:#018x}"}
    return found | {
        "memory": [list(piece) for piece in made.memory],
        "steps": [step(each) for each in made.steps],
        "result": encoded(made.result),
    }


def compact(made: Made) -> bool:
    """Whether the tensor is all of its memory, in the usual order, on the CPU."""
    size = math.prod(made.result.size)
    own = made.memory == ((size * made.result.dtype.itemsize, "cpu"),)
    return own and made.result == simple(made.result.size, made.result.dtype)


def simple(size: tuple[int, ...], dtype: torch.dtype) -> View:
    return View(0, dtype, size, torch.empty(size, device="meta").stride(), 0)


def step(each: Step) -> dict[str, Any]:
    found: dict[str, Any] = {"do": each.function}
    if each.function == CONSTANT:
        values = each.arguments.contiguous().cpu()
        size = values.numel() * values.element_size()
        if size > MOST_EMBEDDED:
            raise ValueError(
                f"it holds {size:,} bytes of values that cannot be derived; {MOST_EMBEDDED:,} may be in a recipe"
            )
        raw = values.reshape(-1).view(torch.uint8).numpy().tobytes()
        text = base64.b64encode(raw).decode()
        found["values"] = {"dtype": of_dtype(values.dtype), "shape": list(values.shape), "base64": text}
    elif each.is_fill:
        found["with"] = {k: encoded(v) for k, v in each.arguments.items()}
    elif each.function in EXACT or each.function in INEXACT:
        args, kwargs = each.arguments
        found["with"] = [encoded(list(args)), {k: encoded(v) for k, v in kwargs.items()}]
    else:
        raise ValueError(f"it was made by {each.function}, which is not on the list of a recipe's functions")
    found["out"] = [encoded(view) for view in each.out]
    if each.key is not None:
        found["key"] = f"{each.key:#018x}"
    if each.place is not None:
        found["place"] = [list(each.place.shape), each.place.runs, each.place.flat]
    return found


def encoded(value: Any) -> Any:
    if value is None or type(value) in (bool, int, str):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else {"float": str(value)}
    if isinstance(value, (list, tuple)):
        return [encoded(each) for each in value]
    if isinstance(value, View):
        return {
            "in": value.memory,
            "dtype": of_dtype(value.dtype),
            "shape": list(value.size),
            "stride": list(value.stride),
            "at": value.offset,
        }
    if isinstance(value, torch.dtype):
        return {"dtype": of_dtype(value)}
    for kind, type_, names in (("format", torch.memory_format, FORMATS), ("layout", torch.layout, LAYOUTS)):
        if isinstance(value, type_) and value in names.values():
            return {kind: str(value).removeprefix("torch.")}
    if isinstance(value, torch.device):
        return {"device": str(value)}
    raise ValueError(f"it was made with {value!r}, which a recipe cannot hold")


def of_dtype(dtype: torch.dtype) -> str:
    name = str(dtype).removeprefix("torch.")
    if name not in DTYPES:
        raise ValueError(f"a recipe cannot hold the dtype {dtype}")
    return name


# ---- Reading -----------------------------------------------------------------------------------------------


def parse(text: bytes) -> tuple[dict[str, Made], dict[str, str]]:
    try:
        data = json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"this is no recipe: {error}") from None
    if not isinstance(data, dict) or data.get("format") != FORMAT:
        raise ValueError(f'this is no recipe: it does not say "format": "{FORMAT}"')
    if data.get("schema") != SCHEMA:
        raise ValueError(
            f"the recipe has the schema {data.get('schema')!r}, and this version reads {SCHEMA}: update torch-fastinit"
        )
    if data.get("values") != values_version():
        raise ValueError(
            f"the recipe is of version {data.get('values')!r} of the values, and this is {values_version()}: "
            f'install "torch-fastinit=={data.get("values")}.*" to have the same bits'
        )
    tensors: dict[str, Made] = {}
    for name, each in table(data.get("tensors"), "tensors").items():
        try:
            tensors[name] = made_of(each)
        except (ValueError, TypeError, KeyError, OverflowError, RecursionError, RuntimeError) as error:
            raise ValueError(f"the recipe is damaged: {name}: {error}") from None
    tied = table(data.get("tied"), "tied")
    for name, first in tied.items():
        if not isinstance(first, str) or first not in tensors or name in tensors:
            raise ValueError(f"the recipe is damaged: {name} is tied to {first!r}")
    return tensors, tied


def table(value: Any, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"the recipe is damaged: {what} is no table")
    return value


def made_of(data: Any) -> Made:
    data = table(data, "a tensor")
    size, dtype = numbers(data["shape"]), dtype_of(data["dtype"])
    if "fill" in data:
        result = simple(size, dtype)
        whole = ((math.prod(size) * dtype.itemsize, "cpu"),)
        only = fill_of(data["fill"], data["arguments"], data.get("key"), (result,), None)
        return Made(result, whole, (only,))
    memory = tuple((number(bytes_), str(device_of(device))) for bytes_, device in data["memory"])
    result = view(data["result"])
    if (result.size, result.dtype) != (size, dtype):
        wrong("the result is of another shape or dtype")
    most = MOST_MEMORY * math.prod(size) * dtype.itemsize + MORE_MEMORY
    if sum(piece for piece, _ in memory) > most:
        wrong(f"it wants more than {most:,} bytes to make {size}")
    found = Made(result, memory, tuple(map(step_of, data["steps"])))
    for each in views(found):
        if not 0 <= each.memory < len(memory):
            wrong(f"there is no piece of memory {each.memory}")
        if each.end > memory[each.memory][0]:
            wrong("a tensor goes beyond its memory")
    return found


def views(made: Made) -> list[View]:
    from torch.utils._pytree import tree_leaves

    leaves = tree_leaves([made.result, *((each.arguments, each.out) for each in made.steps)])
    return [leaf for leaf in leaves if isinstance(leaf, View)]


def step_of(data: Any) -> Step:
    data = table(data, "a step")
    function = data["do"]
    out = tuple(None if each is None else view(each) for each in data["out"])
    if function == CONSTANT:
        if len(out) != 1 or out[0] is None:
            wrong("values belong in one place")
        return Step(CONSTANT, values_of(data["values"]), out)
    if function in PARAMETERS:
        place = None
        if "place" in data:
            shape, runs, is_flat = data["place"]
            runs = tuple(tuple((number(first), number(length)) for first, length in along) for along in runs)
            place = Place(numbers(shape), runs, bool(is_flat))
        return fill_of(function, data["with"], data.get("key"), out, place)
    if function not in EXACT and function not in INEXACT:
        wrong(f"there is no function {function!r}")
    args, kwargs = data["with"]
    return Step(
        function, (tuple(map(decoded, args)), {k: decoded(v) for k, v in table(kwargs, "").items()}), out
    )


def fill_of(
    function: Any, arguments: Any, key: Any, out: tuple[View | None, ...], place: Place | None
) -> Step:
    if function not in PARAMETERS:
        wrong(f"there is no function {function!r}")
    if len(out) != 1 or out[0] is None:
        wrong("a fill has one tensor")
    plain = {}
    for name, value in table(arguments, "arguments").items():
        if name not in PARAMETERS[function]:
            wrong(f"{function} has no argument {name!r}")
        plain[name] = decoded(value)
        if not isinstance(plain[name], (bool, int, float, str)):
            wrong(f"{name} is {value!r}")
    if (key is None) != (function in WITHOUT_KEY):
        wrong(f"{function} has " + ("no key" if key is None else "a key"))
    if key is not None and not (isinstance(key, str) and key.startswith("0x") and len(key) == 18):
        wrong(f"the key {key!r} is no number of 64 bits")
    return Step(function, plain, out, None if key is None else int(key, 16), place)


def values_of(data: Any) -> Tensor:
    data = table(data, "values")
    size, dtype = numbers(data["shape"]), dtype_of(data["dtype"])
    raw = base64.b64decode(data["base64"], validate=True)
    if len(raw) != math.prod(size) * dtype.itemsize or len(raw) > MOST_EMBEDDED:
        wrong("the values are not of their size")
    if not raw:
        return torch.empty(size, dtype=dtype)
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(dtype).reshape(size)


def decoded(value: Any) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, list):
        return [decoded(each) for each in value]
    if not isinstance(value, dict):
        wrong(f"{value!r} is no argument")
    if "in" in value:
        return view(value)
    if len(value) != 1:
        wrong(f"{value!r} is no argument")
    ((kind, name),) = value.items()
    if kind == "float" and name in ("inf", "-inf", "nan"):
        return float(name)
    if kind == "dtype":
        return dtype_of(name)
    if kind == "device":
        return device_of(name)
    for what, names in (("format", FORMATS), ("layout", LAYOUTS)):
        if kind == what and name in names:
            return names[name]
    wrong(f"{value!r} is no argument")


def view(data: Any) -> View:
    data = table(data, "a view")
    size, stride = numbers(data["shape"]), numbers(data["stride"])
    if len(size) != len(stride):
        wrong("a tensor has a stride for each dimension")
    return View(number(data["in"]), dtype_of(data["dtype"]), size, stride, number(data["at"]))


def number(value: Any) -> int:
    if type(value) is not int or not 0 <= value < 2**62:
        wrong(f"{value!r} is no size")
    return int(value)


def numbers(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list) or len(value) > 64:
        wrong(f"{value!r} is no list of sizes")
    found = tuple(map(number, value))
    if math.prod(max(each, 1) for each in found) >= 2**60:
        wrong(f"{value!r} is too large")
    return found


def dtype_of(name: Any) -> torch.dtype:
    if not isinstance(name, str) or name not in DTYPES:
        wrong(f"there is no dtype {name!r}")
    return DTYPES[name]


def device_of(name: Any) -> torch.device:
    if not isinstance(name, str) or name == "meta":
        wrong(f"{name!r} is no device")
    return torch.device(name)


def wrong(what: str) -> NoReturn:
    raise ValueError(what)
