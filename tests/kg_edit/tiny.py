"""Tiny random models of every family in the table, with a real byte-level tokenizer trained on a few sentences."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from _pytest.mark.structures import ParameterSet
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from kg_edit.models.language_model import LanguageModel

TEXT = [
    "LeBron James plays for the Los Angeles Lakers. Dwyane Wade plays for Miami Heat.",
    "Spike Hughes originates from London; the Eiffel Tower is located in Paris, the capital of France.",
    "The quick brown fox jumps over the lazy dog. Where does the river Thames flow?",
] * 3

_SMALL = {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "max_position_embeddings": 128}
_LLAMA = {**_SMALL, "intermediate_size": 48, "num_key_value_heads": 2}
_GEMMA = {**_LLAMA, "head_dim": 8, "sliding_window": 5, "query_pre_attn_scalar": 8}
_GEMMA_4 = {**_GEMMA, "global_head_dim": 8, "hidden_size_per_layer_input": 8, "vocab_size_per_layer_input": 403}
_IMAGES = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}

_MEDIA = {"image_token_id": 400, "video_token_id": 401, "audio_token_id": 402}  # outside of the tokenizer
_CONV = {"layer_types": ["conv", "conv", "full_attention", "conv"]}
_LINEAR = {
    "layer_types": ["linear_attention", "linear_attention", "full_attention", "linear_attention"],
    **{"head_dim": 8, "linear_key_head_dim": 8, "linear_value_head_dim": 8},
    **{"linear_num_key_heads": 2, "linear_num_value_heads": 4},
}

CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "falcon": ("falcon", {**_SMALL, "alibi": False}),
    "falcon-alibi": ("falcon", {**_SMALL, "alibi": True, "new_decoder_architecture": False}),
    "gemma2": ("gemma2", {**_GEMMA, "final_logit_softcapping": 5.0}),
    "gemma3_text": ("gemma3_text", {**_GEMMA, "sliding_window_pattern": 2}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128}),
    "gpt_neox": ("gpt_neox", {**_SMALL, "intermediate_size": 48}),
    "gptj": ("gptj", {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128, "rotary_dim": 4}),
    "granite": (
        "granite",
        {**_LLAMA, "embedding_multiplier": 3.0, "residual_multiplier": 0.4, "logits_scaling": 2.0},
    ),
    "llama": ("llama", _LLAMA),
    "mistral": ("mistral", {**_LLAMA, "sliding_window": 5}),
    "olmo2": ("olmo2", _LLAMA),
    "olmo3": ("olmo3", {**_LLAMA, "sliding_window": 5}),
    "opt": ("opt", {**_SMALL, "ffn_dim": 48, "word_embed_proj_dim": 32}),
    "opt-350m": ("opt", {**_SMALL, "ffn_dim": 48, "word_embed_proj_dim": 16, "do_layer_norm_before": False}),
    "phi": ("phi", {**_SMALL, "intermediate_size": 48}),
    "phi3": ("phi3", {**_LLAMA, "pad_token_id": 0, "sliding_window": 5}),
    "qwen2": ("qwen2", {**_LLAMA, "use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2}),
    "qwen3": ("qwen3", {**_LLAMA, "head_dim": 8}),
    "smollm3": ("smollm3", {**_LLAMA, "no_rope_layer_interval": 2, "pad_token_id": 0}),
}

FIRST = tuple(CONFIGS)
FURTHER: dict[str, tuple[str, dict[str, Any]]] = {
    "apertus": ("apertus", _LLAMA),
    "arcee": ("arcee", _LLAMA),
    "bloom": ("bloom", {"hidden_size": 32, "n_layer": 4, "n_head": 4}),
    "codegen": ("codegen", {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128, "rotary_dim": 4}),
    "cohere": ("cohere", {**_LLAMA, "logit_scale": 0.25}),
    "cohere2": ("cohere2", {**_LLAMA, "logit_scale": 0.25, "sliding_window": 5}),
    "cwm": ("cwm", _LLAMA),
    "ernie4_5": ("ernie4_5", _LLAMA),
    "exaone4": ("exaone4", {**_LLAMA, "sliding_window": 5, "sliding_window_pattern": 2}),
    "gemma": ("gemma", {**_LLAMA, "head_dim": 8}),
    "gemma3": ("gemma3", {"text_config": {**_GEMMA, "vocab_size": 400}, "vision_config": _IMAGES}),
    "gemma4": (
        "gemma4",
        {**_MEDIA, "text_config": {**_GEMMA_4, "vocab_size": 403}, "vision_config": _IMAGES},
    ),
    "gemma4_text": ("gemma4_text", {**_GEMMA_4}),
    "gemma4_unified": (
        "gemma4_unified",
        {**_MEDIA, "text_config": {**_GEMMA, "global_head_dim": 8, "vocab_size": 403}},
    ),
    "gemma4_unified_text": ("gemma4_unified_text", {**_GEMMA, "global_head_dim": 8}),
    "glm": ("glm", {**_LLAMA, "head_dim": 8, "pad_token_id": 0}),
    "glm4": ("glm4", {**_LLAMA, "head_dim": 8, "pad_token_id": 0}),
    "gpt_bigcode": ("gpt_bigcode", {"n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 128}),
    "gpt_neo": (
        "gpt_neo",
        {
            **{"hidden_size": 32, "num_layers": 4, "num_heads": 4, "max_position_embeddings": 128},
            **{"attention_types": [[["global", "local"], 2]], "window_size": 5},
        },
    ),
    "granite_swa": (
        "granite_swa",
        {**_LLAMA, "sliding_window": 5, "residual_multiplier": 0.4, "logits_scaling": 2.0},
    ),
    "helium": ("helium", {**_LLAMA, "head_dim": 8}),
    "hunyuan_v1_dense": ("hunyuan_v1_dense", {**_LLAMA, "head_dim": 8}),
    "lfm2": ("lfm2", {**_LLAMA, **_CONV}),
    "lfm3": ("lfm3", {**_LLAMA, **_CONV, "pad_token_id": 0}),
    "ministral": ("ministral", {**_LLAMA, "head_dim": 8, "sliding_window": 5}),
    "ministral3": ("ministral3", {**_LLAMA, "head_dim": 8}),
    "mpt": ("mpt", {"d_model": 32, "n_layers": 4, "n_heads": 4, "max_seq_len": 128, "expansion_ratio": 2}),
    "nanochat": ("nanochat", _LLAMA),
    "olmo": ("olmo", _LLAMA),
    "nemotron": ("nemotron", _LLAMA),
    "qwen3_5_text": ("qwen3_5_text", {**_LLAMA, **_LINEAR}),
    "seed_oss": ("seed_oss", {**_LLAMA, "head_dim": 8}),
    "stablelm": ("stablelm", _LLAMA),
    "starcoder2": ("starcoder2", _LLAMA),
    "vaultgemma": ("vaultgemma", _GEMMA),
}
CONFIGS |= FURTHER  # mostly blocks like Llama's: seen every day in two tests

# Mixtures of experts, which have no single down-projection
_ROUTED = {**_LLAMA, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
_LATENT = {"q_lora_rank": None, "kv_lora_rank": 16, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 8}
EXPERTS: dict[str, tuple[str, dict[str, Any]]] = {
    "deepseek_v3": (
        "deepseek_v3",
        {**_ROUTED, **_LATENT, "num_key_value_heads": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1},
    ),
    "gpt_oss": ("gpt_oss", {**_LLAMA, "num_local_experts": 4, "num_experts_per_tok": 2, "head_dim": 8}),
    "mixtral": ("mixtral", {**_LLAMA, "num_local_experts": 4}),
    "qwen3_next": (
        "qwen3_next",
        {
            **{**_ROUTED, "num_experts": 4, "head_dim": 8, "shared_expert_intermediate_size": 16},
            **{"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2},
            **{"linear_num_value_heads": 4, "layer_types": ["linear_attention", "full_attention"] * 2},
        },
    ),
    "qwen3_moe": ("qwen3_moe", {**_ROUTED, "num_experts": 4, "head_dim": 8}),
    "cohere2_moe": ("cohere2_moe", {**_ROUTED, "num_experts": 4, "head_dim": 8, "logit_scale": 0.5}),
}

# One of each kind: a gated MLP; Conv1D; parallel attention; norms after the MLP; a projection behind the embedding
KINDS_OF_FAMILY = ("llama", "gpt2", "gptj", "gemma2", "opt-350m")


def families(everyday: Collection[str] = KINDS_OF_FAMILY) -> list[ParameterSet]:
    """All families for `parametrize`; those that are not in ``everyday`` are slow."""
    return [pytest.param(name, marks=() if name in everyday else pytest.mark.slow) for name in CONFIGS]


def byte_level(*, bos: bool = False, more: Sequence[str] = ()) -> PreTrainedTokenizerFast:
    """A byte-level BPE as GPT-2's; with ``bos`` it puts a BOS in front, as Llama's and Gemma's.

    ``more`` are texts to learn from besides `TEXT`, before it: their words become one token each.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    core.train_from_iterator([*more] * 20 + TEXT, trainer)
    if bos:
        core.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>")


CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


THINKING_TEMPLATE = CHAT_TEMPLATE.removesuffix("{% endif %}") + (
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
"""As Qwen3's: without thinking, the answer begins with an empty thought."""


def chatting(name: str = "llama", *, template: str = CHAT_TEMPLATE) -> LanguageModel:
    """The tiny model of a family, with a tokenizer that has a chat template."""
    reader = byte_level()
    reader.chat_template = template
    return replace(tiny(name), tokenizer=reader)


def weights_of(model: LanguageModel) -> dict[str, torch.Tensor]:
    """A copy of all weights."""
    return {name: tensor.clone() for name, tensor in model.model.state_dict().items()}


def same_weights(model: LanguageModel, weights: dict[str, torch.Tensor]) -> bool:
    """Whether all weights are as they were, bit for bit."""
    return all(torch.equal(tensor, weights[name]) for name, tensor in model.model.state_dict().items())


MADE: dict[tuple[str, bool], LanguageModel] = {}
USED: set[tuple[str, bool]] = set()
"""The shared models that were asked for since they were last compared with what they were."""
# Each weight and buffer of a shared model, and a copy of it as it was made
CONTENT: dict[tuple[str, bool], list[tuple[torch.Tensor, torch.Tensor]]] = {}


def tiny(name: str, *, bos: bool = False) -> LanguageModel:
    """A tiny random model, made once and shared; weights are large enough for changes to matter."""
    USED.add((name, bos))
    if (name, bos) not in MADE:
        model = MADE[name, bos] = _random_model(name, bos=bos)
        stored = model.model.state_dict(keep_vars=True).values()
        CONTENT[name, bos] = [(tensor, tensor.detach().clone()) for tensor in stored]
    return MADE[name, bos]


def save_larger(folder: Path) -> None:
    """Save a tiny Llama of eight layers: presets of large models edit the sixth one."""
    model = _random_model("llama", bos=False, num_hidden_layers=8)
    model.model.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)


def _random_model(name: str, *, bos: bool, **changes: Any) -> LanguageModel:
    model_type, options = {**CONFIGS, **EXPERTS}[name]
    options = {**options, **changes}
    config = AutoConfig.for_model(model_type, vocab_size=400, bos_token_id=0, eos_token_id=1, **options)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.dim() >= 2:
                    parameter.normal_(std=0.25)
    return LanguageModel.wrap(model, byte_level(bos=bos), name=f"tiny-{name}")
