"""What `fastinit check` says about public models as their authors ship them: docs/check.md explains each finding.

Small configurations of the versions that requirements.txt pins; models of libraries that are missing are skipped.
"""

import warnings
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn

import fastinit

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=8, num_attention_heads=4)
IMAGES = dict(**SMALL, image_size=32, patch_size=8)
TOKENS = dict(vocab_size=120, bos_token_id=0, eos_token_id=1, pad_token_id=2)


def of_transformers(kind: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        transformers = pytest.importorskip("transformers")
        transformers.logging.set_verbosity_error()
        model = getattr(transformers, kind)
        built: nn.Module = model._from_config(model.config_class(**settings))
        return built

    return build


def of_timm(name: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        built: nn.Module = pytest.importorskip("timm").create_model(name, num_classes=10, **settings)
        return built

    return build


def resnet() -> nn.Module:
    built: nn.Module = pytest.importorskip("torchvision").models.resnet18(num_classes=10)
    return built


def unet() -> nn.Module:
    built: nn.Module = pytest.importorskip("diffusers").UNet2DModel(
        sample_size=16,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=8,
        attention_head_dim=8,
    )
    return built


WHISPER = dict(encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4)
WHISPER |= dict(encoder_ffn_dim=96, decoder_ffn_dim=96, num_mel_bins=16, max_source_positions=50)
AGAIN = ("note", "drawn-again", None)
# Of each model the findings: severity, kind, and the parameters, or the number of them.
MODELS: dict[str, tuple[Callable[[], nn.Module], list[tuple[str, str, Any]]]] = {
    "GPT-2": (of_transformers("GPT2LMHeadModel", n_embd=64, n_layer=8, n_head=4, **TOKENS), [AGAIN]),
    "Llama": (of_transformers("LlamaForCausalLM", **SMALL, **TOKENS), [AGAIN]),
    "BERT": (of_transformers("BertForPreTraining", **SMALL, **TOKENS), [AGAIN]),
    "ViT": (
        of_transformers("ViTForImageClassification", **IMAGES),
        [
            ("warning", "truncation-without-effect", ("vit.embeddings.cls_token",)),
            ("warning", "truncation-without-effect", ("vit.embeddings.position_embeddings",)),
            AGAIN,
        ],
    ),
    "SigLIP": (
        of_transformers("SiglipModel", text_config=dict(**SMALL, **TOKENS), vision_config=IMAGES),
        [
            ("warning", "fans-fused", ("vision_model.head.attention.in_proj_weight",)),
            ("warning", "truncation-corrected", 3),
            ("note", "depth", 32),
            AGAIN,
        ],
    ),
    "Mamba": (
        of_transformers("MambaForCausalLM", hidden_size=64, num_hidden_layers=2, state_size=8, **TOKENS),
        [AGAIN],
    ),
    "Mixtral": (
        of_transformers("MixtralForCausalLM", **SMALL, num_local_experts=4, num_key_value_heads=2, **TOKENS),
        [AGAIN],
    ),
    "Whisper": (
        of_transformers(
            "WhisperForConditionalGeneration", d_model=64, **WHISPER, **TOKENS, decoder_start_token_id=3
        ),
        [AGAIN],
    ),
    "timm ViT": (
        of_timm("vit_tiny_patch16_224", depth=2, embed_dim=64, num_heads=4, img_size=32),
        [("warning", "inverted-uniform", ("pos_embed",)), ("warning", "inverted-uniform", 9), AGAIN],
    ),
    "ConvNeXt": (
        of_timm("convnext_atto"),
        [("warning", "inverted-uniform", 40), ("warning", "inverted-uniform", ("head.fc.weight",)), AGAIN],
    ),
    "ResNet": (resnet, [AGAIN]),
    "UNet": (unet, []),
}


@pytest.mark.parametrize("way", ["enabled", "deferred"])
@pytest.mark.parametrize("name", MODELS)
def test_models(name: str, way: str) -> None:
    build, expected = MODELS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if way == "enabled":
            with fastinit.enabled(call_sites=True) as report:
                model = build()
            found = report.check(model)
        else:
            with fastinit.deferred(call_sites=True) as block:
                model = build()
            found = block.recipe(model).check(model)
    # A value that `inverted-uniform` announces may come up.
    found = type(found)(finding for finding in found if finding.kind != "outlier")
    assert len(found) == len(expected), found
    assert {(f.severity, f.kind) for f in found} == {(severity, kind) for severity, kind, _ in expected}
    for severity, kind, names in expected:
        fitting = [f for f in found if (f.severity, f.kind) == (severity, kind)]
        sizes = [len(f.names) for f in fitting]
        assert names is None or names in sizes or names in [f.names for f in fitting], (kind, fitting)
        for finding in fitting:
            assert finding.kind == "drawn-again" or (
                finding.file is not None and "site-packages" in finding.file
            )
