"""Random models in known shapes, and edits made of words: what `bench/growth.py` measures on."""

from __future__ import annotations

from itertools import islice, product
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PretrainedConfig, PreTrainedTokenizerFast

from kg_edit.edits.edit import Edit
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.loading import resolve_model
from kg_edit.planning.shape import ModelShape, shape_of

TOKENIZER = "smollm2-135m"
VOCABULARY = 49_152  # of that tokenizer, which serves all shapes
# width, d_ff, blocks, heads, heads of keys and values
_LLAMAS = {
    "SmolLM2-135M": (576, 1536, 30, 9, 3),
    "SmolLM2-360M": (960, 2560, 32, 15, 5),
    "Llama-3.2-1B": (2048, 8192, 16, 32, 8),
}
_SPECIAL = {"bos_token_id": 0, "eos_token_id": 0}
SHAPES = (*_LLAMAS, "GPT-2 XL")
# As long as CounterFact's prompts on the average: 4 tokens before the subject's last one, 4 from there on, 1 of target
TYPICAL = Edit(id="typical", subject="Armin Hofmann", prompt="{} passed away in", target_new="Birmingham")
_SYLLABLES = ("bel", "cor", "dan", "fin", "gar", "hol", "lis", "mar", "nor", "tam")
_CITIES = ("Rome", "Oslo", "Lima", "Cairo", "Delhi", "Kyoto", "Quito", "Paris", "Vienna", "Boston")


def large_config(name: str) -> PretrainedConfig:
    """The config of one of `SHAPES`, with the tokenizer's vocabulary."""
    if name == "GPT-2 XL":
        return AutoConfig.for_model("gpt2", n_embd=1600, n_layer=48, n_head=25, vocab_size=VOCABULARY, **_SPECIAL)
    width, inner, blocks, heads, kv_heads = _LLAMAS[name]
    return _llama(width, inner, blocks, heads=heads, kv_heads=kv_heads, vocabulary=VOCABULARY)


def small_config(vocabulary: int) -> PretrainedConfig:
    """Four blocks of width 128."""
    return _llama(128, 512, 4, heads=4, kv_heads=4, vocabulary=vocabulary)


def _llama(width: int, inner: int, blocks: int, *, heads: int, kv_heads: int, vocabulary: int) -> PretrainedConfig:
    sizes = {"hidden_size": width, "intermediate_size": inner, "num_hidden_layers": blocks, "vocab_size": vocabulary}
    attention = {"num_attention_heads": heads, "num_key_value_heads": kv_heads, "head_dim": width // heads}
    more = {"tie_word_embeddings": True, "max_position_embeddings": 1024}
    return AutoConfig.for_model("llama", **sizes, **attention, **more, **_SPECIAL)


def random_model(config: PretrainedConfig, tokenizer: Any, name: str, dtype: torch.dtype) -> LanguageModel:
    """A model with random weights, made in ``dtype``."""
    torch.manual_seed(0)
    return LanguageModel.wrap(AutoModelForCausalLM.from_config(config, dtype=dtype), tokenizer, name=name)


def packaged_tokenizer() -> Any:
    """The tokenizer of the packaged model."""
    return AutoTokenizer.from_pretrained(resolve_model(TOKENIZER))


def shape_by_config(config: PretrainedConfig, folder: Path) -> ModelShape:
    """What a plan reads of a model, from a config.json in ``folder``."""
    config.save_pretrained(folder)
    return shape_of(str(folder))


def made_up_edits(count: int) -> list[Edit]:
    """Up to 10,000 edits, each of another subject."""
    names = islice(product(_SYLLABLES, repeat=4), count)
    return [
        Edit(
            id=f"edit-{number}",
            subject=f"{first}{second} {third}{fourth}".title(),
            prompt="The old clerk {} lives in sunny",
            target_new=_CITIES[number % len(_CITIES)],
        )
        for number, (first, second, third, fourth) in enumerate(names)
    ]


def small_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of about 600 tokens that knows the words of `made_up_edits`."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=["<s>"], initial_alphabet=alphabet, show_progress=False
    )
    texts = (f"{edit.text} {edit.target_new}" for edit in made_up_edits(10_000))
    core.train_from_iterator(texts, trainer)
    special = "<s>"
    return PreTrainedTokenizerFast(tokenizer_object=core, bos_token=special, eos_token=special)
