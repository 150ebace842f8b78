"""fastinit.deferred: a model that is built without memory and drawn later has the bits of eager construction (C12)."""

import copy
import threading
import warnings
import weakref
from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest
import torch
from test_models import LAYERS, SMALL, TRANSFORMERS, build_from, tensors, ties
from torch import nn
from torch.nn.utils import parametrizations

import fastinit
from fastinit._steps import same_bits


def seeded(build: Callable[[], Any]) -> Any:
    torch.manual_seed(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return build()


def deferred(build: Callable[[], Any]) -> tuple[Any, fastinit.Recipe]:
    with fastinit.deferred() as block:
        model = seeded(build)
    return model, block.recipe(model)


def facts(model: nn.Module) -> dict[str, Any]:
    return {
        name: (
            type(t),
            t.shape,
            t.stride(),
            t.dtype,
            t.device,
            t.requires_grad,
            t.is_leaf,
            sorted(t.__dict__),
        )
        for name, t in tensors(model).items()
    } | {"modules": [(name, type(module).__qualname__) for name, module in model.named_modules()]}


def compare(build: Callable[[], nn.Module]) -> tuple[nn.Module, fastinit.Recipe]:
    """Build a model eagerly, and deferred, and compare all that there is."""
    with fastinit.enabled():
        eager = seeded(build)
    state = torch.get_rng_state()
    model, recipe = deferred(build)
    assert torch.equal(torch.get_rng_state(), state), "the generator has moved otherwise"
    objects = {name: id(p) for name, p in model.named_parameters()}
    assert recipe.materialize_(model) is model
    assert objects == {name: id(p) for name, p in model.named_parameters()}
    assert facts(model) == facts(eager)
    assert ties(model) == ties(eager)
    found = tensors(model)
    bad = [name for name, tensor in tensors(eager).items() if not same_bits(found[name], tensor)]
    assert not bad, {name: recipe._tensors[name].steps for name in bad if name in recipe._tensors}
    assert recipe.verify(model)
    return model, recipe


# ---- Models ------------------------------------------------------------------------------------------------

MORE_LAYERS: dict[str, Callable[[], nn.Module]] = {
    "spectral_norm": lambda: parametrizations.spectral_norm(nn.Linear(16, 24)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(16, 16)),
    "weight_norm of before": lambda: nn.utils.weight_norm(nn.Linear(4, 5)),
    "converted": lambda: nn.Sequential(nn.Linear(16, 24), nn.LayerNorm(24)).to(torch.bfloat16),
    "copied layers": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 2, 32), 3),
    "fused": lambda: Fused(),
    "computed": lambda: Computed(),
}


class Fused(nn.Module):
    """Views of one memory as parameters, and an attribute that shares it."""

    def __init__(self) -> None:
        super().__init__()
        fused = torch.empty(6, 4)
        self.a, self.b = nn.Parameter(fused[:2]), nn.Parameter(fused[2:])
        self.whole = fused
        nn.init.normal_(self.a)
        nn.init.uniform_(self.b)


class Computed(nn.Module):
    """What models do in their constructors."""

    def __init__(self) -> None:
        super().__init__()
        decay = torch.linspace(0, 0.5, 3).tolist()
        self.steps = [x * 2 for x in decay]
        self.log = nn.Parameter(torch.log(torch.arange(1, 17, dtype=torch.float32)[None, :].repeat(8, 1)))
        self.scaled = nn.Parameter(nn.init.trunc_normal_(torch.empty(5, 6)).mul_(0.5) + 1)
        self.by_torch = nn.Parameter(torch.randn(4, 6) * 0.02)
        self.redrawn = nn.Parameter(torch.randn(4, 6))
        nn.init.normal_(self.redrawn)
        queries = [nn.init.xavier_uniform_(torch.empty(4, 4)) for _ in range(3)]
        self.cat = nn.Parameter(torch.cat(queries))
        self.rows = nn.Parameter(torch.empty(6, 4))
        nn.init.zeros_(self.rows)
        with torch.no_grad():
            self.rows[1] = torch.arange(4.0)
            self.rows[2:4] = self.cat[:2]
            self.rows.view(-1)[20:].fill_(3.0)
        self.dropped = nn.Parameter(torch.zeros(50).bernoulli_(0.5))
        self.read = nn.Parameter(torch.full((3,), float(self.scaled.detach().sum())))
        if self.cat[0, 0] > 0:
            nn.init.ones_(self.read)
        self.register_buffer("table", torch.tril(torch.ones(5, 5)))
        self.register_buffer("counter", torch.tensor(0), persistent=False)
        self.register_buffer("told", torch.tensor([1.0, 2.0], device=self.cat.device))
        self.overwritten = nn.Parameter(torch.empty(3, 3))
        for _ in range(2):
            nn.init.normal_(self.overwritten)
        self.transposed = nn.Parameter(nn.init.normal_(torch.empty(3, 5).T).T)
        self.last = nn.Parameter(torch.empty(2, 4, 3, 3, memory_format=torch.channels_last))
        nn.init.kaiming_normal_(self.last)


@pytest.mark.parametrize("name", [*LAYERS, *MORE_LAYERS])
def test_layers(name: str) -> None:
    model, _ = compare((LAYERS | MORE_LAYERS)[name])
    if name == "fused":
        assert isinstance(model, Fused)
        model.whole.zero_()
        assert not model.a.any() and not model.b.any()
    if name == "LSTM":  # keeps its parameters in a list, with weak references
        assert isinstance(model, nn.LSTM)
        assert all(w is p for w, p in zip(model._flat_weights, model.parameters(), strict=True))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            model(torch.ones(2, 3, 32))


WHISPER = dict(d_model=64, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4)
WHISPER |= dict(decoder_attention_heads=4, encoder_ffn_dim=96, decoder_ffn_dim=96, num_mel_bins=8)
WHISPER |= dict(vocab_size=120, max_source_positions=32, max_target_positions=16, decoder_start_token_id=1)
MORE_TRANSFORMERS: dict[str, tuple[str, dict[str, Any], torch.dtype]] = {
    "Mamba": (
        "MambaForCausalLM",
        dict(hidden_size=32, state_size=8, num_hidden_layers=2, vocab_size=120),
        torch.float32,
    ),
    "Mixtral": (
        "MixtralForCausalLM",
        dict(**SMALL, num_key_value_heads=2, num_local_experts=4, vocab_size=120),
        torch.float32,
    ),
    "Whisper": ("WhisperForConditionalGeneration", WHISPER, torch.float32),
    "Llama, bfloat16": (*TRANSFORMERS["Llama"][:2], torch.bfloat16),
}


@pytest.fixture(scope="module")
def transformers() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = pytest.importorskip("transformers")
        module.logging.set_verbosity_error()
    return module


@pytest.mark.parametrize("name", [*TRANSFORMERS, *MORE_TRANSFORMERS])
def test_transformers(transformers: Any, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for more, what in MORE_TRANSFORMERS.items():
        monkeypatch.setitem(TRANSFORMERS, more, what)
    compare(lambda: build_from(transformers, name))


@pytest.mark.parametrize(
    "model",
    ["vit_tiny_patch16_224", "convnext_atto", "swin_tiny_patch4_window7_224"],
)
def test_timm(model: str) -> None:
    timm = pytest.importorskip("timm")
    compare(lambda: timm.create_model(model))


@pytest.mark.parametrize("model", ["resnet18", "inception_v3"])
def test_torchvision(model: str) -> None:
    models = pytest.importorskip("torchvision").models
    compare(
        lambda: getattr(models, model)(weights=None, **({"init_weights": True} if model[0] == "i" else {}))
    )


def test_diffusers() -> None:
    unet = pytest.importorskip("diffusers").UNet2DModel
    small = dict(sample_size=16, block_out_channels=(32, 64), layers_per_block=1)
    small |= dict(down_block_types=("DownBlock2D",) * 2, up_block_types=("UpBlock2D",) * 2)
    compare(lambda: unet(**small))


# ---- The block ---------------------------------------------------------------------------------------------


def test_nothing_is_allocated_or_drawn() -> None:
    model, recipe = deferred(lambda: nn.Linear(2**20, 2**20))  # 4 TiB
    assert model.weight.is_meta and model.weight.device.type == "meta"
    rows = recipe.draw("weight", rows=slice(2**19, 2**19 + 2))
    assert rows.shape == (2, 2**20) and rows.std() > 0


def test_values_that_are_read() -> None:
    with fastinit.enabled():
        torch.manual_seed(3)
        eager = nn.init.normal_(torch.empty(4, 3))
    with fastinit.deferred():
        torch.manual_seed(3)
        tensor = nn.init.normal_(torch.empty(4, 3))
        assert tensor.is_meta
        assert tensor.tolist() == eager.tolist()
        assert tensor[1, 2].item() == eager[1, 2].item() and float(tensor[0, 0]) == float(eager[0, 0])
        assert bool(tensor[0, 0] > 0) is bool(eager[0, 0] > 0)
        assert (tensor.numpy() == eager.numpy()).all()
        assert torch.equal(tensor, eager)
        chosen = tensor[tensor > 0]  # how many depends on the values
        assert torch.equal(chosen, eager[eager > 0])
        real = torch.arange(3.0)
        real += tensor[0]
        assert torch.equal(real, torch.arange(3.0) + eager[0])


def test_what_does_not_touch_deferred_tensors_is_done() -> None:
    with fastinit.deferred():
        table = torch.linspace(0, 1, 5)
        assert not table.is_meta and table[2].item() == 0.5
        assert not torch.randn(3).is_meta and not torch.tensor([1.0]).is_meta


def test_torch_draws_what_only_torch_can() -> None:
    def build() -> torch.Tensor:
        return torch.empty(100).exponential_() + torch.zeros(100).bernoulli_(0.3)

    with fastinit.enabled():
        eager = seeded(build)
    state = torch.get_rng_state()
    module = nn.Module()
    with fastinit.deferred() as block:
        module.values = nn.Parameter(seeded(build))
    assert torch.equal(torch.get_rng_state(), state)
    block.recipe(module).materialize_(module)
    assert torch.equal(module.values, eager)


def test_errors_are_those_of_eager_construction() -> None:
    with fastinit.deferred():
        state = torch.get_rng_state()
        with pytest.raises(ValueError, match="Fan in and fan out"):
            nn.init.xavier_uniform_(torch.empty(3))
        with pytest.raises(RuntimeError, match="std"):
            nn.init.normal_(torch.empty(3), std=-1.0)
        with pytest.raises(RuntimeError):
            nn.init.uniform_(torch.empty(3), 2.0, 1.0)
        assert torch.equal(torch.get_rng_state(), state)


def test_keys_by_name_within() -> None:
    def init(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.trunc_normal_(module.weight)

    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 4))
        with fastinit.keys_by_name(model, seed=3) as names:
            model.apply(init)
        assert names.fills == {"0.weight": 1, "1.weight": 1}
        return model

    _, recipe = compare(build)
    only = recipe._tensors["1.weight"].only
    assert only is not None and only.key == fastinit.key_of_name(3, "1.weight")


def test_extra_functions_and_rules() -> None:
    def build() -> nn.Module:
        model = nn.Sequential(nn.Linear(6, 9), nn.Conv2d(3, 6, 3))
        fastinit.extra.variance_scaling_(model[0].weight, splits=3)
        fastinit.delta_orthogonal_(model[1].weight)
        return model

    compare(build)


def test_blocks_exchange_nothing_of_torch(no_trace: None) -> None:
    """But for what fastinit.enabled() does."""
    names = ("tensor", "as_tensor", "asarray")
    before = [getattr(torch, name) for name in names]
    with fastinit.deferred(), fastinit.deferred():
        assert [getattr(torch, name) for name in names] == before
        assert not {"numpy", "tolist", "__array__", "new_tensor"} & {*torch.Tensor.__dict__} - {"__array__"}
    assert not torch.empty(3).is_meta and torch.tensor(2.0, device="meta").is_meta


def test_other_threads_are_not_affected() -> None:
    found = []
    with fastinit.deferred():
        other = threading.Thread(target=lambda: found.append(torch.zeros(3).tolist()))
        other.start()
        other.join()
    assert found == [[0.0] * 3]


def test_memory_of_tensors_that_are_gone() -> None:
    """The log keeps nothing of a tensor that nothing depends on."""
    with fastinit.deferred() as block:
        for _ in range(20):
            nn.init.normal_(torch.empty(10, 10)).mul_(2).add_(1)
        kept = nn.init.normal_(torch.empty(3))
        assert len(block._log.memory) <= 3
        del kept


# ---- What cannot be made again -----------------------------------------------------------------------------


def test_tensors_of_elsewhere_are_named() -> None:
    with torch.device("meta"):
        other = nn.Linear(3, 3)
    with fastinit.deferred() as block:
        model = nn.Sequential(nn.Linear(3, 3), other)
    with pytest.raises(RuntimeError, match=r"1\.weight: it was made outside of the block(?s:.*)1\.bias"):
        block.recipe(model)


def test_memory_that_changes_is_named() -> None:
    model = nn.Module()
    with fastinit.deferred() as block:
        model.weight = nn.Parameter(torch.ones(2))
        model.weight.data.resize_(100)
    with pytest.raises(RuntimeError, match=r"weight: resize_ .*test_deferred"):
        block.recipe(model)


def test_what_was_never_filled_is_zero_and_told() -> None:
    model = nn.Module()
    with fastinit.deferred() as block:
        model.weight = nn.Parameter(torch.empty(4, 4))
    recipe = block.recipe(model)
    assert "never filled: zeros" in str(recipe)
    assert not recipe.materialize_(model).weight.any()


# ---- Materialising -----------------------------------------------------------------------------------------


def test_hooks_and_attributes() -> None:
    seen: list[str] = []
    with fastinit.deferred() as block:
        model = nn.Linear(3, 2)
        model.weight.tag = "mine"  # type: ignore[attr-defined]
        model.weight.register_hook(lambda grad: seen.append("hook"))
        model.weight.register_post_accumulate_grad_hook(lambda p: seen.append("after"))
        model.bias.requires_grad_(False)
        reference = weakref.ref(model.weight)
    block.recipe(model).materialize_(model)
    model(torch.ones(1, 3)).sum().backward()
    assert seen == ["hook", "after"]
    assert model.weight.tag == "mine" and reference() is model.weight  # type: ignore[attr-defined]
    assert model.weight.grad is not None and model.bias.grad is None


def test_subclasses_of_parameters() -> None:
    class Mine(nn.Parameter):
        pass

    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = Mine(torch.empty(3, 4))
            nn.init.normal_(self.weight)

    with fastinit.deferred() as block:
        model = Holder()
    block.recipe(model).materialize_(model)
    assert type(model.weight) is Mine and model.weight.std() > 0


def test_a_plain_attribute_is_drawn_too() -> None:
    class Holder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scales = torch.full((3,), 2.0)
            self.several = [torch.ones(2), 3]

    model, recipe = deferred(Holder)
    recipe.materialize_(model)
    assert model.scales.tolist() == [2.0] * 3 and model.several[0].tolist() == [1.0] * 2


def test_dtypes_and_devices() -> None:
    build = lambda: nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6))  # noqa: E731
    with fastinit.enabled():
        eager = seeded(build)
    model, recipe = deferred(build)
    recipe.materialize_(model, dtype=torch.bfloat16, device=torch.device("cpu"))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model[1].running_mean.dtype == torch.float32 and model[1].num_batches_tracked.dtype == torch.int64
    model, recipe = deferred(build)
    recipe.materialize_(model, dtype=lambda name: torch.float16 if name == "0.bias" else None)
    assert [p.dtype for p in model.parameters()] == [torch.float32, torch.float16, *[torch.float32] * 2]
    assert torch.equal(model[0].weight, eager[0].weight)


def test_normal_fills_in_bfloat16_are_those_of_float32_rounded() -> None:
    def build() -> nn.Module:
        model = nn.Linear(8, 6)
        nn.init.normal_(model.weight)
        return model

    with fastinit.enabled():
        eager = seeded(build)
    model, recipe = deferred(build)
    recipe.materialize_(model, dtype=torch.bfloat16)
    assert torch.equal(model.weight, eager.weight.to(torch.bfloat16))


@pytest.mark.parametrize("skip", [{"0.weight"}, lambda name: name == "0.weight"])
def test_what_a_checkpoint_brings(skip: Any) -> None:
    build = lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))  # noqa: E731
    with fastinit.enabled():
        eager = seeded(build)
    brought = torch.full((4, 4), 7.0)
    model, recipe = deferred(build)
    recipe.materialize_(model, skip=skip)
    assert not model[0].weight.is_meta and torch.equal(model[1].weight, eager[1].weight)
    model.load_state_dict({"0.weight": brought}, strict=False)
    assert torch.equal(model[0].weight, brought)
    # The other way round: what is there is left alone.
    model, recipe = deferred(build)
    model.load_state_dict({"0.weight": brought}, strict=False, assign=True)
    recipe.materialize_(model)
    assert torch.equal(model[0].weight, brought) and torch.equal(model[0].bias, eager[0].bias)
    recipe.materialize_(model, overwrite=True)
    assert recipe.verify(model) and torch.equal(model[0].weight, eager[0].weight)


def test_a_model_that_does_not_fit_is_left_alone() -> None:
    _, recipe = deferred(lambda: nn.Linear(4, 4))
    with torch.device("meta"):
        models = [nn.Linear(4, 5), nn.Sequential(nn.Linear(4, 4)), nn.Linear(4, 4, dtype=torch.complex64)]
    for model in models:
        with pytest.raises(ValueError, match="does not fit"):
            recipe.materialize_(model)
        assert all(p.is_meta for p in model.parameters())


def test_copies_of_the_model() -> None:
    model, recipe = deferred(lambda: nn.Linear(4, 4))
    other = copy.deepcopy(model)
    for each in (model, other):
        recipe.materialize_(each)
    assert torch.equal(model.weight, other.weight)


def test_wrapped_models() -> None:
    model, recipe = deferred(lambda: nn.Linear(4, 4))
    wrapped = torch.compile(model, backend="eager")
    recipe.materialize_(wrapped)
    assert not model.weight.is_meta and recipe.verify(wrapped)


def test_a_tensor_that_gets_memory_once() -> None:
    """One live fill: nothing but the tensor itself is allocated."""
    from benchmarks.memory import peak_extra_bytes

    model, recipe = deferred(lambda: nn.Linear(8192, 8192, bias=False))
    most = peak_extra_bytes(lambda: recipe.materialize_(model), torch.device("cpu"))
    assert most is None or most < 4 * 8192 * 8192 * 1.05


@pytest.mark.parametrize("name", ["numpy", "tolist", "new_tensor"])
def test_other_peoples_patches_of_methods_are_called_and_stay(name: str) -> None:
    """Put there before a block, and within one: past its end too."""
    original = getattr(torch.Tensor, name)
    arguments = ([1.0],) if name == "new_tensor" else ()
    calls: list[Any] = []

    def theirs(self: torch.Tensor, *given: Any) -> Any:
        calls.append(given)
        return original(self, *given)

    with mock.patch.object(torch.Tensor, name, theirs), fastinit.deferred():
        getattr(torch.zeros(2), name)(*arguments)
    assert calls == [arguments]
    outlasting = mock.patch.object(torch.Tensor, name, theirs)
    with fastinit.deferred():
        outlasting.start()
        getattr(torch.zeros(2), name)(*arguments)
    assert calls == [arguments] * 2
    outlasting.stop()
    assert name not in torch.Tensor.__dict__ and getattr(torch.Tensor, name) is original


def test_a_patch_of_torch_tensor_that_outlasts_a_block() -> None:
    original = torch.tensor
    with fastinit.deferred():
        outlasting = mock.patch.object(torch, "tensor", side_effect=original)
        outlasting.start()
        assert torch.tensor([1.0, 2.0], device="meta").tolist() == [1.0, 2.0]
    outlasting.stop()
    assert torch.tensor is original
