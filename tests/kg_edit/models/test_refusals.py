"""Models, prompts and chat templates that are refused."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from accelerate import disk_offload
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from kg_edit.errors import ChatTemplateError, ModelError, PromptError, UnsupportedModelError
from kg_edit.models.architectures import ModelSpec, find_spec
from kg_edit.models.chat import find_chat_form, render
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.loading import pick_device
from kg_edit.models.prompts import encode
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.generation import ask as ask_model
from kg_edit.writing_systems import GLUE
from tests.kg_edit.models.test_chat import tokenizer
from tests.kg_edit.models.test_prompts import without_words
from tests.kg_edit.tiny import byte_level, tiny
from tests.refusals import Call, check_refused, put, refusals

load = LanguageModel.load


def load_folder_with(folder: Path, name: str, content: str) -> LanguageModel:
    put(folder, name, content)
    return load(folder)


def load_without_tokenizer(folder: Path) -> LanguageModel:
    tiny("llama").model.save_pretrained(folder)
    return load(folder)


def load_config(folder: Path, model_type: str, **options: object) -> LanguageModel:
    """A folder with a config and a tokenizer, which are looked at before the weights."""
    AutoConfig.for_model(model_type, **options).save_pretrained(folder)
    byte_level().save_pretrained(folder)
    return load(folder)


def load_quantised(folder: Path) -> LanguageModel:
    return load_config(folder, "llama", quantization_config=BitsAndBytesConfig(load_in_4bit=True).to_dict())


def wrap_biogpt(down_projection: str) -> LanguageModel:
    """A family outside the table, with a specification of its own."""
    small = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    biogpt = AutoModelForCausalLM.from_config(AutoConfig.for_model("biogpt", vocab_size=400, **small))
    spec = ModelSpec(blocks="biogpt.layers", down_projection=down_projection, final_norm="biogpt.layer_norm")
    return LanguageModel.wrap(biogpt, byte_level(), name="biogpt", spec=spec)


def wrap_with_slow_tokenizer() -> LanguageModel:
    fast = byte_level()
    slow = type("Slow", (), {"is_fast": False, "__getattr__": lambda _, name: getattr(fast, name)})()
    return LanguageModel.wrap(tiny("llama").model, slow, name="slow")  # type: ignore[arg-type]


def wrap_offloaded(folder: Path) -> LanguageModel:
    model = copy.deepcopy(tiny("llama"))
    disk_offload(model.model, str(folder))
    return LanguageModel.wrap(model.model, model.tokenizer, name="large")


def wrap_with_number(number: float) -> LanguageModel:
    model = copy.deepcopy(tiny("llama"))
    with torch.no_grad():
        weight_matrix(model.down_projection(0))[:, 0] = number
    return LanguageModel.wrap(model.model, model.tokenizer, name="large")


def entered_no_more() -> object:
    """What `Patch.applied` returns, after its block."""
    block = WeightPatch(factors={}).applied(tiny("llama"))
    with block:
        return block


def ask(template: str, subject: str) -> object:
    return encode(byte_level(), template, subject=subject)


def render_refusing_template() -> object:
    refusing = tokenizer("{{ raise_exception('Conversation roles must alternate') }}")
    return render(refusing, [{"role": "user", "content": "Hi"}], name="tiny")


@refusals(
    {
        # Loading
        "no such GGUF file": (lambda folder: load(folder / "missing.gguf"), ModelError, "no GGUF file"),
        "damaged GGUF file": (lambda folder: load(put(folder, "bad.gguf", "GGUF nonsense")), ModelError, "can't read"),
        "folder without a model": (load, ModelError, "has no config.json; give a named model"),
        "folder of a GGUF file": (lambda folder: load_folder_with(folder, "m.gguf", "GGUF"), ModelError, "m.gguf"),
        "folder of a PEFT adapter": (
            lambda folder: load_folder_with(folder, "adapter_config.json", "{}"),
            ModelError,
            "merge it into its base model",
        ),
        "folder without a tokenizer": (load_without_tokenizer, ModelError, "or a .gguf file"),
        "hub id, offline": (lambda _: load("nobody/nothing"), ModelError, "can't load the model 'nobody/nothing'"),
        "unknown dtype": (lambda _: load("smollm2-135m", dtype="float7"), ModelError, "use auto, float32"),
        "dtype of integers": (lambda _: load("smollm2-135m", dtype="int32"), ModelError, "use auto, float32"),
        "no such device": (lambda _: pick_device(torch.device("cuda:99")), ModelError, "no device 'cuda:99'"),
        # Families
        "unknown family": (lambda folder: load_config(folder, "biogpt"), UnsupportedModelError, "known types: "),
        "family to add": (
            lambda _: find_spec(AutoConfig.for_model("biogpt")),
            UnsupportedModelError,
            "To add this family",
        ),
        "path that the family lacks": (lambda _: wrap_biogpt("no_such"), UnsupportedModelError, "no_such"),
        "keys shared by layers": (
            lambda _: find_spec(AutoConfig.for_model("gemma4_text", num_kv_shared_layers=15)),
            UnsupportedModelError,
            "Gemma 4 E2B",
        ),
        "quantised weights that are not there": (load_quantised, ModelError, "can't load the model"),
        "weights on disk": (wrap_offloaded, UnsupportedModelError, "left on disk"),
        "infinite weight": (lambda _: wrap_with_number(float("inf")), ModelError, "down_proj.weight of 'large'"),
        "weight that is NaN": (lambda _: wrap_with_number(float("nan")), ModelError, "down_proj.weight of 'large'"),
        "slow tokenizer": (lambda _: wrap_with_slow_tokenizer(), PromptError, "no character offsets"),
        # A patch, or an argument of transformers, in the call of a model
        "patch as the model": (
            lambda _: ask_model(WeightPatch(factors={}), "Snow is"),  # type: ignore[arg-type]
            ModelError,
            "with patch.applied(model) as edited",
        ),
        "applied patch outside its block": (
            lambda _: ask_model(entered_no_more(), "Snow is"),  # type: ignore[arg-type]
            ModelError,
            "with patch.applied(model) as edited",
        ),
        # Prompts
        "prompt without a place": (lambda _: ask("LeBron James plays for", "LeBron James"), PromptError, "has no {}"),
        "subject without a token": (lambda _: ask("{} plays for", ""), PromptError, "no token of"),
        "token of prompt and target": (
            lambda _: encode(without_words(), "{} plays for", subject="James", target="Miami"),
            PromptError,
            "merges the end",
        ),
        "one token with a glued target": (
            lambda _: encode(byte_level(), "LeB", target=f"{GLUE}ron"),
            PromptError,
            "merges the end",
        ),
        # Chat templates
        "no chat template": (lambda _: find_chat_form(tokenizer(None), name="tiny"), ChatTemplateError, "-Instruct"),
        "template that changes the text": (
            lambda _: find_chat_form(tokenizer("{{ messages[0]['content'] | title }}"), name="tiny"),
            ChatTemplateError,
            "expected it once",
        ),
        "template that refuses": (lambda _: render_refusing_template(), ChatTemplateError, "roles must alternate"),
        "model without a template": (lambda _: tiny("llama").in_chat(), ChatTemplateError, "has no chat template"),
    }
)
def test_mistake_is_refused(
    call: Call, error: type[Exception], keyword: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KG_EDIT_CACHE", str(tmp_path / "cache"))
    check_refused(call, tmp_path, error, keyword)
    models = tmp_path / "cache" / "models"
    assert not models.exists() or list(models.iterdir()) == [], "no half-made folder stays"


def test_large_weights_and_own_families_are_taken() -> None:
    """A finite weight whose sum is too large for float32, and a family outside the table."""
    assert wrap_with_number(3e38)
    assert len(wrap_biogpt("fc2").blocks) == 2
    assert replace(tiny("llama"), tokenizer=tokenizer(None)).in_chat(chat=False).asked_in is None
