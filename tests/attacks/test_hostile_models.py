"""Models made to do harm: GGUF files, folders and chat templates are read as they are, or refused by a ModelError.

Nothing is filled with random numbers, no size that a file states is believed, and no template runs without end.
"""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from kg_edit.errors import ChatTemplateError, ModelError
from kg_edit.models import chat
from kg_edit.models.language_model import LanguageModel
from tests.attacks.commands import bounded_memory
from tests.everyday import keep_first
from tests.kg_edit.command_line import tiny_folder

__all__ = ["tiny_folder"]  # a fixture

Change = Callable[[Path], object]
_TEXT, _NUMBER, _LIST = 8, 4, 9  # GGUF's types of values


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KG_EDIT_CACHE", str(tmp_path / "cache"))


def refused(path: Path, message: str) -> None:
    with bounded_memory(), pytest.raises(ModelError) as caught:
        LanguageModel.load(path)
    assert message in str(caught.value) and path.name in str(caught.value)
    assert "\n" not in str(caught.value)


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def field(name: str, kind: int, value: bytes) -> bytes:
    return text(name.encode()) + struct.pack("<I", kind) + value


def header(*fields: bytes, tensors: int = 0, version: int = 3, stated: int | None = None) -> bytes:
    counts = struct.pack("<IQQ", version, tensors, len(fields) if stated is None else stated)
    return b"GGUF" + counts + b"".join(fields)


def tensor(*shape: int, kind: int = 0, offset: int = 0) -> bytes:
    sizes = struct.pack("<I", len(shape)) + b"".join(struct.pack("<Q", size) for size in shape)
    return text(b"token_embd.weight") + sizes + struct.pack("<IQ", kind, offset) + bytes(1024)


LLAMA = field("general.architecture", _TEXT, text(b"llama"))
GGUF_BYTES: dict[str, bytes] = {
    "empty": b"",
    "another format": b"GGML" + bytes(100),
    "magic alone": b"GGUF",
    "version 99": header(version=99),
    "other byte order": header(version=3 << 24),
    "2^63 tensors": header(LLAMA, tensors=2**63),
    "2^63 fields": header(stated=2**63),
    "name of 2^60 bytes": header(struct.pack("<Q", 2**60), stated=1),
    "value of an unknown type": header(field("general.architecture", 99, b"")),
    "list of 2^40 texts": header(LLAMA, field("tokenizer.ggml.tokens", _LIST, struct.pack("<IQ", _TEXT, 2**40))),
    "list of 2^40 bytes": header(LLAMA, field("x", _LIST, struct.pack("<IQ", 0, 2**40))),
    "5000 nested lists": header(LLAMA, field("x", _LIST, struct.pack("<IQ", _LIST, 1) * 5000)),
    "text that is no UTF-8": header(field("general.architecture", _TEXT, text(b"\xff\xfe"))),
    "field twice": header(LLAMA, LLAMA),
    "tensor of 2^60 numbers": header(LLAMA, tensors=1) + tensor(2**40, 2**20),
    "tensor of 2^63 numbers": header(LLAMA, tensors=1) + tensor(2**32, 2**31),
    "tensor of an unknown type": header(LLAMA, tensors=1) + tensor(32, 4, kind=999),
    "tensor of a removed type": header(LLAMA, tensors=1) + tensor(32, 4, kind=4),
    "tensor behind the end": header(LLAMA, tensors=1) + tensor(32, 4, offset=2**50),
    "tensor before the start": header(LLAMA, tensors=1) + tensor(32, 4, offset=2**64 - 1),
    "alignment 0": header(LLAMA, field("general.alignment", _NUMBER, bytes(4)), tensors=1) + tensor(32, 4),
    "alignment that is text": header(LLAMA, field("general.alignment", _TEXT, text(b"x")), tensors=1) + tensor(32, 4),
    "no architecture": header(),
    "unknown architecture": header(field("general.architecture", _TEXT, text(b"martian"))),
    "architecture that is a number": header(field("general.architecture", _NUMBER, bytes(4))),
    "architecture alone": header(LLAMA),
}


@pytest.mark.parametrize("name", keep_first(GGUF_BYTES, keep=2))
def test_gguf_of_odd_bytes_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    path.write_bytes(GGUF_BYTES[name])
    refused(path, "can't read")
    assert not any((tmp_path / "cache" / "models").glob("m-*"))


def small_gguf(path: Path, *, blocks: int = 2, without: str = "", **shapes: tuple[int, ...]) -> Path:
    """A whole Llama of two blocks with 258 tokens; ``blocks`` is what it states, ``shapes`` replace right ones."""
    width, inner = 32, 48
    letters = [chr(code + 256) for code in range(256)]
    sizes: dict[str, tuple[int, ...]] = {"token_embd": (258, width), "output_norm": (width,), "output": (258, width)}
    for block in range(2):
        square = dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (width, width))
        mlp = {"ffn_down": (width, inner), "ffn_up": (inner, width), "ffn_gate": (inner, width)}
        norms = dict.fromkeys(("attn_norm", "ffn_norm"), (width,))
        sizes |= {f"blk.{block}.{name}": size for name, size in (square | mlp | norms).items()}
    writer = gguf.GGUFWriter(path, "llama")
    for add, value in {
        writer.add_block_count: blocks,
        writer.add_context_length: 128,
        writer.add_embedding_length: width,
        writer.add_feed_forward_length: inner,
        writer.add_head_count: 4,
        writer.add_head_count_kv: 4,
        writer.add_layer_norm_rms_eps: 1e-5,
        writer.add_tokenizer_model: "gpt2",
        writer.add_token_list: ["<|endoftext|>", *letters, letters[0] + letters[1]],
        writer.add_token_merges: [f"{letters[0]} {letters[1]}"],
        writer.add_eos_token_id: 0,
    }.items():
        add(value)  # type: ignore[operator]
    numbers = np.random.default_rng(0)
    for name, size in sizes.items():
        if name != without:
            shape = shapes.get(name.rpartition(".")[2], size)
            writer.add_tensor(f"{name}.weight", numbers.normal(scale=0.05, size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_whole_gguf_is_read(tmp_path: Path) -> None:
    assert len(LanguageModel.load(small_gguf(tmp_path / "m.gguf")).blocks) == 2


@pytest.mark.parametrize(
    ("change", "message"),
    keep_first(
        [
            ({"without": "blk.1.ffn_down"}, "its weights lack model.layers.1.mlp.down_proj.weight"),
            ({"blocks": 2_000_000_000}, "its config states 2000000000 blocks, and its weights are those of 2"),
            ({"blocks": 3}, "its config states 3 blocks, and its weights are those of 2"),
            ({"without": "token_embd"}, "its weights lack model.embed_tokens.weight"),
            ({"ffn_down": (32, 40)}, "other shapes than its config states"),
            ({"ffn_down": (48, 32)}, "other shapes than its config states"),
        ],
        keep=2,
        unpack=True,
    ),
)
def test_gguf_that_lacks_weights_is_not_filled_with_random_ones(
    change: Mapping[str, Any], message: str, tmp_path: Path
) -> None:
    refused(small_gguf(tmp_path / "m.gguf", **change), message)


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0005, 0.01, 0.3, 0.99, 0.99999])
def test_cut_gguf_is_refused(share: float, tmp_path: Path) -> None:
    path = small_gguf(tmp_path / "m.gguf")
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(path, "can't read")


def weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Change:
    def made(folder: Path) -> None:
        state = load_file(folder / "model.safetensors")
        change(state)
        save_file(state, folder / "model.safetensors", {"format": "pt"})

    return made


def config(**fields: object) -> Change:
    def made(folder: Path) -> None:
        file = folder / "config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))

    return made


def tensors(start: bytes, size: int | None = None) -> Change:
    length = struct.pack("<Q", len(start) if size is None else size)
    return lambda folder: (folder / "model.safetensors").write_bytes(length + start + bytes(64))


def only_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"cposix\nsystem\n(S'touch pickled'\ntR.")


DOWN = "model.layers.2.mlp.down_proj.weight"
ONE = {"dtype": "F32", "shape": [16], "data_offsets": [0, 64]}
FOLDERS: dict[str, tuple[Change, str]] = {
    "a weight is missing": (weights(lambda state: state.pop(DOWN)), f"its weights lack {DOWN}"),
    "more blocks than weights": (config(num_hidden_layers=5), "states 5 blocks, and its weights are those of 4"),
    "100,000 blocks": (config(num_hidden_layers=100_000), "states 100000 blocks"),
    "a weight is NaN": (weights(lambda state: state[DOWN].fill_(float("nan"))), f"the weight {DOWN}"),
    "another shape": (weights(lambda state: state.update({DOWN: state[DOWN][:, :40].clone()})), "other shapes"),
    "a billion columns": (config(hidden_size=10**9), "other shapes"),
    "10^12 tokens": (config(vocab_size=10**12), "other shapes"),
    "no heads": (config(num_attention_heads=0), "can't load"),
    "positions in words": (config(max_position_embeddings="many"), "can't load"),
    "unknown family with code": (config(model_type="evil", auto_map={"AutoModelForCausalLM": "x.Y"}), "can't load"),
    "nested config": (lambda folder: (folder / "config.json").write_text("[" * 100_000), "can't load"),
    "nested tokenizer": (lambda folder: (folder / "tokenizer.json").write_text("[" * 100_000), "can't load"),
    "pickle that would run a command": (only_pickle, "damaged pickle"),
    "header of 2^63 bytes": (tensors(b"{}", 2**63), "can't load"),
    "header of 2^40 bytes": (tensors(b"{}", 2**40), "can't load"),
    "nested header": (tensors(b'{"a":' + b"[" * 90_000_000), "can't load"),
    "tensor of 2^120 numbers": (tensors(json.dumps({"a": ONE | {"shape": [2**60, 2**60]}}).encode()), "can't load"),
    "tensors over each other": (tensors(json.dumps({"a": ONE, "b": ONE}).encode()), "can't load"),
}


@pytest.mark.parametrize("name", keep_first(FOLDERS, keep=4))
def test_hostile_model_folder_is_refused(
    name: str, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change, message = FOLDERS[name]
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folder, tmp_path / "model")
    change(tmp_path / "model")
    refused(tmp_path / "model", message)
    assert not (tmp_path / "pickled").exists()


TURN = "{% for m in messages %}{{ m.content }}{% endfor %}"
TEMPLATES: dict[str, tuple[str, str]] = {
    "slow": ("{% for a in range(200) %}{% for b in range(99999) %}{% endfor %}{% endfor %}" + TURN, "takes more than"),
    "long": (TURN + "a " * 100_000, "makes a text of"),
    "long date": ("{{ strftime_now('%Y' * 100000) }}" + TURN, "makes a text of"),
    "range": ("{% for a in range(1000000000000) %}x{% endfor %}", "Range too big"),
    "raises": ("{{ raise_exception('no') }}", "can't format the messages: no"),
    "no syntax": ("{% for x in %}", "can't format"),
    "recursion": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    "classes": ("{{ ''.__class__.__mro__[1].__subclasses__() }}" + TURN, "unsafe"),
    "system": ("{{ cycler.__init__.__globals__.os.system('touch pwned') }}", "unsafe"),
    "file": ("{% include '/etc/passwd' %}", "no loader"),
    "none": ("", "has no chat template"),
    "without the text": ("hello", "contains the user's text 0 times"),
    "text twice": (TURN + TURN, "contains the user's text 2 times"),
    "text changed": ("{% for m in messages %}{{ m.content | upper }}{% endfor %}", "contains the user's text 0 times"),
}


@pytest.mark.parametrize("name", keep_first(TEMPLATES, keep=2))
def test_hostile_chat_template_is_refused(name: str, tiny_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = LanguageModel.load(tiny_folder)
    model.tokenizer.chat_template, message = TEMPLATES[name]
    monkeypatch.setattr(chat, "_SECONDS", 0.2)
    with bounded_memory(), pytest.raises(ChatTemplateError, match=message):
        model.in_chat()
