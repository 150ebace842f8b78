"""How the tensors of a model were made: data of kilobytes, from which each is made again, anywhere."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from fastinit._enabled.report import INITIALISERS, WITHOUT_KEY, Fill
from fastinit._parts import Part, here, is_part, local_of, part_of, place_of
from fastinit._steps import CONSTANT, Made, Step, View, constant, cut, same_bits
from fastinit.keys import canonical_name

if TYPE_CHECKING:
    from fastinit._check.finding import Findings
    from fastinit._enabled.report import Report

Device = torch.device | str
ByName = Callable[[str], Any]


def named_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """All parameters and buffers, shared ones under each of their names."""
    yield from model.named_parameters(remove_duplicate=False)
    yield from model.named_buffers(remove_duplicate=False)


def named_attributes(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors that modules hold as plain attributes, or in lists and tuples of them, and that have no other name."""
    known = {id(tensor) for _, tensor in named_tensors(model)}
    for prefix, module in model.named_modules():
        for key, value in module.__dict__.items():
            several = enumerate(value) if isinstance(value, (list, tuple)) else ()
            for name, each in ((key, value), *((f"{key}.{i}", each) for i, each in several)):
                if isinstance(each, Tensor) and id(each) not in known:
                    known.add(id(each))
                    yield f"{prefix}.{name}" if prefix else name, each


def by_first_name(named: Iterable[tuple[str, Tensor]]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Each tensor by the first of its names, and what the other names of shared ones stand for.

    Raises:
        ValueError: if two tensors would have the same name.
    """
    found: dict[str, Tensor] = {}
    tied: dict[str, str] = {}
    firsts: dict[int, str] = {}
    for original, tensor in named:
        name = canonical_name(original)
        first = firsts.setdefault(id(tensor), name)
        if first != name:
            tied[name] = first
        elif found.setdefault(name, tensor) is not tensor:
            raise ValueError(f"two tensors would both be called {name}")
    return found, tied


@dataclass
class Verification:
    """What ``Recipe.verify`` found. It is true if everything is as it was made.

    Attributes:
        same: the names of tensors that have the recipe's bits. For a DTensor, this rank's part counts.
        changed: the names of tensors that have other bits.
        unknown: the names of tensors that the recipe does not know.
        absent: the recipe's names that the model does not have, or for which it has no values (on the meta device).
    """

    same: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)

    def __bool__(self) -> bool:
        return not (self.changed or self.unknown or self.absent)

    def __str__(self) -> str:
        lines = [f"{len(self.same):,} tensors have the recipe's bits"]
        for what in ("changed", "unknown", "absent"):
            lines += (f"{what}: {name}" for name in getattr(self, what))
        return "\n".join(lines)


class Recipe:
    """What was done to each parameter and buffer of a model, as plain data.

    It comes from ``deferred().recipe(model)``, from ``report.recipe(model)`` after eager construction, or from a file.
    ``print(recipe)`` shows a table. The names are those of ``named_parameters()`` and ``named_buffers()``, without what wrappers
    add.

    Example:
        >>> import fastinit, torch
        >>> with fastinit.enabled() as report:
        ...     model = torch.nn.Linear(30, 20)
        >>> recipe = report.recipe(model)
        >>> torch.equal(recipe.draw("weight", rows=slice(0, 3)), model.weight[:3])
        True
        >>> bool(recipe.verify(model))
        True
    """

    def __init__(self, tensors: dict[str, Made], tied: dict[str, str]) -> None:
        self._tensors, self._tied = tensors, tied

    @property
    def names(self) -> list[str]:
        """The names of the tensors. A shared tensor goes by its first name."""
        return list(self._tensors)

    def _made(self, name: str) -> Made | None:
        return self._tensors.get(self._tied.get(name, name))

    # ---- Drawing -------------------------------------------------------------------------------------------

    def draw(
        self,
        name: str,
        rows: slice | None = None,
        *,
        device: Device | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Return a tensor, or some of its rows, as it was made. This does not need the model.

        Args:
            name: the name of a parameter or buffer.
            rows: which indices of the first dimension, with step 1. If a single fill made the tensor, only these are drawn.
            device: the device of the result. By default it is the one where the tensor was made.
            dtype: the dtype of the result. By default it is the tensor's own.

        Raises:
            KeyError: if the recipe has no such name.
            ValueError: if ``rows`` has another step, or the tensor has no dimensions.

        Returns:
            A new tensor.
        """
        made = self._made(name)
        if made is None:
            raise KeyError(f"the recipe has no tensor {name!r}")
        made.check()
        size = made.result.size
        first, length = 0, size[0] if size else 0
        if rows is not None:
            if not size or rows.step not in (None, 1):
                raise ValueError(f"rows must be a slice of the first dimension with step 1: {rows} of {size}")
            first, end, _ = rows.indices(size[0])
            length = max(end - first, 0)
        if rows is None or made.fills is None:
            whole = drawn(made, device, dtype)
            return whole if rows is None else whole[first : first + length].clone()
        part = torch.empty(
            (length, *size[1:]), dtype=dtype or made.result.dtype, device=device or made.memory[0][1]
        )
        made.fill(part_of(part, size, (first, *(0 for _ in size[1:]))))
        return part

    def materialize_(
        self,
        model: nn.Module,
        *,
        device: Device | ByName | None = None,
        dtype: torch.dtype | ByName | None = None,
        skip: Collection[str] | Callable[[str], bool] = (),
        overwrite: bool = False,
    ) -> nn.Module:
        """Give memory and values to the tensors of a model that are on the meta device, once each, where they belong.

        The parameters stay the same objects, with their attributes, hooks and ``requires_grad``. A rank draws its part of a
        DTensor. It does so directly if fills of rows made the tensor, and otherwise makes the whole first, one tensor at a
        time. Nothing is communicated.

        Everything is checked before any memory is taken. Tensors that have values already (from a checkpoint, by
        ``load_state_dict(assign=True)``) are left alone.

        Args:
            model: the model.
            device: the device, or a function of the name. By default it is the one where each tensor was made. A DTensor
                stays on the device of its mesh.
            dtype: the dtype of the floating-point parameters, or a function of the name (None leaves the dtype as it is). If
                one fill makes a tensor, it is drawn in that dtype. Otherwise it is converted.
            skip: the names of tensors that get memory only, because a checkpoint brings their values; or a function.
            overwrite: also draw tensors that have values. They keep their memory, device and dtype.

        Raises:
            ValueError: if the recipe lacks a tensor that is on the meta device, or has it in another shape or kind of dtype.

        Returns:
            ``model``.
        """
        targets = self._targets(model, skip, overwrite)
        devices = device if callable(device) else lambda name: device
        dtypes = dtype if callable(dtype) else None
        aliases = Aliases(model)
        for name, (tensor, made) in progress(targets.items()):
            wanted = dtypes(name) if dtypes else None
            if (
                dtypes is None
                and dtype is not None
                and isinstance(tensor, Parameter)
                and tensor.is_floating_point()
            ):
                wanted = dtype
            if not is_meta(tensor):
                if made is not None:
                    copy_into(made, tensor)
                continue
            aliases.put(tensor, made, devices(name), wanted or tensor.dtype)
        return model

    def _targets(self, model: nn.Module, skip: Any, overwrite: bool) -> dict[str, tuple[Tensor, Made | None]]:
        """Each tensor that is to be drawn, and how; None for those that get memory only."""
        skipped = skip if callable(skip) else set(skip).__contains__
        targets: dict[str, tuple[Tensor, Made | None]] = {}
        seen: set[int] = set()
        wrong = []
        for original, tensor in (*named_tensors(model), *named_attributes(model)):
            name = canonical_name(original)
            if id(tensor) in seen or (not overwrite and not is_meta(tensor)):
                continue
            seen.add(id(tensor))
            made = self._made(name)
            if skipped(name):
                targets[name] = tensor, None
            elif made is None:
                if is_meta(tensor):  # else it is a tensor of its own, and has values
                    wrong.append(f"{name}: the recipe does not have it")
            elif made.result.size != tuple(tensor.shape):
                wrong.append(f"{name}: of shape {tuple(tensor.shape)}, and {made.result.size} in the recipe")
            elif kind(made.result.dtype) != kind(tensor.dtype):
                wrong.append(f"{name}: of dtype {tensor.dtype}, and {made.result.dtype} in the recipe")
            else:
                try:
                    made.check()
                except Exception as error:
                    wrong.append(f"{name}: {error}")
                targets[name] = tensor, made
        if wrong:
            raise ValueError("the recipe does not fit the model:\n" + "\n".join(wrong))
        return targets

    # ---- Looking -------------------------------------------------------------------------------------------

    def verify(self, model: nn.Module) -> Verification:
        """Check which tensors of a model have the bits of the recipe. Each tensor is drawn once for that, one at a time.

        ``orthogonal_`` multiplies matrices, so it gives the same bits on the same kind of machine only.

        Args:
            model: the model. For a DTensor, this rank's part is checked.

        Returns:
            A ``Verification``.
        """
        found = Verification()
        registered = {canonical_name(name) for name, _ in named_tensors(model)}
        present = set()
        seen: set[int] = set()
        for original, tensor in (*named_tensors(model), *named_attributes(model)):
            name = canonical_name(original)
            present.add(name)
            made = self._made(name)
            if id(tensor) in seen:
                continue
            seen.add(id(tensor))
            if made is None:
                if name in registered:
                    found.unknown.append(name)
            elif is_meta(tensor):
                found.absent.append(name)
            elif matches(made, tensor):
                found.same.append(name)
            else:
                found.changed.append(name)
        found.absent += (name for name in self._tensors if name not in present)
        return found

    def check(self, model: nn.Module | None = None, *, values: bool | None = None) -> Findings:
        """Return what is wrong with an initialisation, as ``Report.check`` does, but without the memory of the model.

        Args:
            model: the model, which says what the parameters are for. Without it there are fewer findings.
            values: whether to draw the parameters, one at a time, and look at their values. By default, this is done for up to
                2²⁸ values.

        Returns:
            A list of ``Finding``, the worst first. After ``deferred(call_sites=True)``, the findings name the lines that chose
            the fills. A saved recipe does not keep these lines.

        Example:
            >>> import fastinit, torch
            >>> with fastinit.deferred(call_sites=True) as deferred:
            ...     layer = torch.nn.Linear(30, 20)
            ...     layer.scale = torch.nn.Parameter(torch.empty(20))
            >>> [(finding.kind, finding.names) for finding in deferred.recipe(layer).check(layer)]
            [('never-filled', ('scale',))]
        """
        from fastinit._check import check, sources

        return check.check(sources.from_recipe(self, model, values))

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        elements, calls = Counter[str](), Counter[str]()
        others = []
        for name, made in self._tensors.items():
            step = made.only
            if step is not None:
                what = step.function
            elif not made.steps:
                what = "never filled: zeros"
            elif all(each.function == CONSTANT for each in made.steps):
                what = "values as they are"
            else:
                what = "several steps"
                others.append((name, made, "" if made.fills else "drawn as a whole, then cut: "))
            calls[what] += 1
            elements[what] += torch.Size(made.result.size).numel()
        width = max(map(len, [*calls, "made by", "total"]))
        yield f"{'made by':{width}} {'tensors':>9} {'elements':>17}"
        for what, number in calls.most_common():
            yield f"{what:{width}} {number:9,} {elements[what]:17,}"
        yield f"{'total':{width}} {sum(calls.values()):9,} {sum(elements.values()):17,}"
        for name, made, how in others:
            yield f"{name}: {how}" + ", ".join(step.function for step in made.steps)
        for name, first in self._tied.items():
            yield f"{name}: is {first}"

    # ---- Files ---------------------------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write the recipe as JSON.

        Raises:
            ValueError: if a tensor holds values of more than 64 KiB that cannot be derived, or was made by an operator that
                is not on the list. The error names all such tensors.
        """
        from fastinit import _recipe_file

        Path(path).write_text(_recipe_file.dump(self._tensors, self._tied), encoding="utf-8")

    @staticmethod
    def load(path: str | Path) -> Recipe:
        """Read a file that ``save`` wrote. Nothing in it is executed, because it only names functions of a fixed list.

        Raises:
            ValueError: if it is no such file, if it is damaged, or if it has another version of the values. In the last case
                the error says what to install.
        """
        from fastinit import _recipe_file

        return Recipe(*_recipe_file.parse(Path(path).read_bytes()))

    @classmethod
    def _of_report(cls, report: Report, model: nn.Module) -> Recipe:
        named, tied = by_first_name(named_tensors(model))
        tensors = {}
        for name, tensor in named.items():
            made = made_by(report.last_fill(tensor), tensor)
            if made is not None and matches(made, tensor):
                tensors[name] = made
            elif is_part(tensor):
                raise ValueError(f"{name} is sharded, and no single fill has its values")
            else:
                tensors[name] = constant(tensor)
        return cls(tensors, tied)


def made_by(fill: Fill | None, tensor: Tensor) -> Made | None:
    """What a report says of a tensor, as steps; None if it does not say enough."""
    if fill is None or is_meta(tensor):
        return None
    fills = list(flat(fill))
    if any(each is None for each in fills):
        return None
    if is_part(tensor):
        size = tuple(tensor.shape)
        stride = torch.empty(size, device="meta").stride()
        places = [(size, stride, 0)] if len(fills) == 1 and fill.whole else []
    else:
        places = [(tuple(f.shape), f.stride, f.offset) for f in fills]
        size, stride = tuple(tensor.shape), tensor.stride()
    if not places:
        return None
    first = min(0, *(offset for _, _, offset in places))
    steps = []
    for each, (shape, step, offset) in zip(fills, places, strict=True):
        name, arguments = each.function.removeprefix("Tensor."), dict(each.arguments)
        if name in ("zero_", "fill_"):
            name, arguments = (
                ("zeros_", {}) if name == "zero_" else ("constant_", {"val": arguments["value"]})
            )
        if name not in INITIALISERS or (each.key is None and name not in WITHOUT_KEY):
            return None
        steps.append(Step(name, arguments, (View(0, each.dtype, shape, step, offset - first),), each.key))
    result = View(0, tensor.dtype, size, stride, -first)
    most = max(result.end, *(step.out[0].end for step in steps if step.out[0]))
    return Made(result, ((most, str(tensor.device)),), tuple(steps))


def flat(fill: Fill) -> Iterator[Any]:
    """A fill and those before it, the oldest first; the fills of what was copied in place of a copy."""
    for each in (*fill.before, replace(fill, before=())):
        copied = each.source
        if copied is None:
            yield each
        elif copied.stride != each.stride or copied.dtype != each.dtype or copied.place is not None:
            yield None
        else:
            for earlier in flat(copied):
                yield earlier and replace(earlier, offset=earlier.offset - copied.offset + each.offset)


# ---- One tensor ----------------------------------------------------------------------------------------------


def is_meta(tensor: Tensor) -> bool:
    """Whether there are no values. A DTensor knows only where it was."""
    return local_of(tensor).is_meta


def kind(dtype: torch.dtype) -> str:
    return "floating-point" if dtype.is_floating_point else str(dtype)


def drawn(made: Made, device: Device | None, dtype: torch.dtype | None) -> Tensor:
    """The whole tensor, on a device and in a dtype."""
    if dtype is not None and dtype != made.result.dtype:
        if made.fills is not None and kind(dtype) == kind(made.result.dtype):
            size, stride = made.result.size, made.result.stride
            tensor = torch.empty_strided(size, stride, dtype=dtype, device=device or made.memory[0][1])
            made.fill(tensor)
            return tensor
        return made.draw(device).to(device=device, dtype=dtype)
    tensor = made.draw(device)
    return tensor if device is None else tensor.to(device)


def copy_into(made: Made, tensor: Tensor) -> None:
    """Write a tensor's values, or those of the part that is here, to where it is."""
    with torch.no_grad():
        if made.fills is not None:
            made.fill(tensor)
            return
        local, place = here(tensor)
        whole = drawn(made, None, None)
        local.copy_(whole if place is None else cut(whole, place))


def matches(made: Made, tensor: Tensor) -> bool:
    local, place = here(tensor)
    if made.result.size != tuple(tensor.shape) or kind(made.result.dtype) != kind(tensor.dtype):
        return False
    if place is None:
        return same_bits(drawn(made, local.device, local.dtype), local.detach())
    again = torch.empty_strided(local.shape, local.stride(), dtype=local.dtype, device=local.device)
    if made.fills is not None:
        made.fill(Part(again, place))
    else:
        again.copy_(cut(drawn(made, None, None), place))
    return same_bits(again, local.detach())


class Aliases:
    """Puts tensors with memory in the place of those without, and everything that shares memory with them."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.sharing: dict[int, dict[int, Tensor]] = {}  # tensors on the meta device by their storage
        for _, tensor in (*named_tensors(model), *named_attributes(model)):
            if not is_part(tensor) and tensor.is_meta and tensor.layout == torch.strided:
                self.sharing.setdefault(tensor.untyped_storage()._cdata, {})[id(tensor)] = tensor
        self.storages: dict[int, Tensor] = {}  # the memory that stands for a storage which is shared

    def put(self, tensor: Tensor, made: Made | None, device: Device | None, dtype: torch.dtype) -> None:
        where = device if device is not None else made.memory[made.result.memory][1] if made else "cpu"
        if is_part(tensor):
            return self.put_part(tensor, made, dtype)
        storage = tensor.untyped_storage()._cdata
        if len(self.sharing.get(storage, ())) < 2 or dtype != tensor.dtype:
            exchange(tensor, new_like(tensor, made, where, dtype))
            return None
        if storage not in self.storages:
            size = tensor.untyped_storage().nbytes()
            self.storages[storage] = torch.zeros(size, dtype=torch.uint8, device=where)
            for other in self.sharing[storage].values():
                view = torch.empty(0, dtype=other.dtype, device=where)
                view.set_(
                    self.storages[storage].untyped_storage(),
                    other.storage_offset(),
                    other.shape,
                    other.stride(),
                )
                exchange(other, view)
        if made is not None:
            copy_into(made, tensor)
        return None

    def put_part(self, tensor: Tensor, made: Made | None, dtype: torch.dtype) -> None:
        from torch.distributed.tensor import DTensor

        assert isinstance(tensor, DTensor)
        old = tensor._local_tensor
        local = torch.empty_strided(
            old.shape, old.stride(), dtype=dtype, device=tensor.device_mesh.device_type
        )
        new = DTensor.from_local(
            local,
            tensor.device_mesh,
            tensor.placements,
            run_check=False,
            shape=tensor.shape,
            stride=tensor.stride(),
        )
        if made is not None:
            with torch.no_grad():
                if made.fills is not None:
                    made.fill(new)
                else:
                    local.copy_(cut(drawn(made, None, None), place_of(tensor)))
        exchange(tensor, new)
        tensor._local_tensor, tensor._spec = new._local_tensor, new._spec


def new_like(tensor: Tensor, made: Made | None, device: Device, dtype: torch.dtype) -> Tensor:
    """The values of a tensor that is not there, with its strides."""
    if made is not None:
        found = drawn(made, device, dtype)
        own = found.untyped_storage().nbytes() == found.numel() * found.element_size()
        if own and found.stride() == tensor.stride():
            return found
    memory = torch.empty_strided(tensor.shape, tensor.stride(), dtype=dtype, device=device)
    return memory if made is None else memory.copy_(found)


def exchange(tensor: Tensor, new: Tensor) -> None:
    """Let a tensor be another one: the same object, with what Python knows of it."""
    new = new.detach().requires_grad_(tensor.requires_grad)
    torch._C._swap_tensor_impl(tensor, new)
    hooks, after = tensor._backward_hooks, tensor._post_accumulate_grad_hooks
    if hooks:
        tensor._backward_hooks = hooks  # registers them with the new tensor
    if after:
        tensor._post_accumulate_grad_hooks = after


def progress(items: Iterable[Any]) -> Iterable[Any]:
    """The items, with a progress bar if it takes more than two seconds, and tqdm is there."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return items
    return tqdm(items, desc="drawing tensors", unit="", delay=2, leave=False)  # type: ignore[no-any-return]
