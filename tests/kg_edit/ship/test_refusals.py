"""What exports, merges, checkpoints and servers refuse: a mistake, the class of its error, and the word one needs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import torch
from typer.testing import CliRunner

from kg_edit.cli.app import app
from kg_edit.edits.edit import Edit
from kg_edit.errors import (
    ConfigError,
    ModelError,
    OutputError,
    PatchError,
    PatchMismatchError,
    UnknownNameError,
)
from kg_edit.methods import find_method
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch, PatchStack
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.ship.checkpoint.extraction import extract_patch
from kg_edit.ship.checkpoint.merging import merge_checkpoint
from kg_edit.ship.checkpoint.stored import Checkpoint
from kg_edit.ship.cli.serve import host_names, listening
from kg_edit.ship.export.gguf_files import rows_in_gguf, write_gguf_adapter, write_gguf_model
from kg_edit.ship.export.hub import check_repository
from kg_edit.ship.export.layout import ModuleLayout
from kg_edit.ship.export.merged_model import check_mergeable, write_merged
from kg_edit.ship.export.peft_adapter import read_peft, write_peft
from kg_edit.ship.export.shipment import gguf_of
from tests.kg_edit.patches.test_subtraction import patch as some_patch
from tests.kg_edit.ship.checkpoint.test_checkpoint import base_of
from tests.kg_edit.ship.export.test_gguf_files import as_gguf
from tests.kg_edit.ship.export.test_peft_adapter import patch_of, trained
from tests.kg_edit.tiny import tiny
from tests.refusals import Call, check_refused, put, refusals

Row = tuple[Call, type[Exception], str]
NOTHING = WeightPatch(factors={})
Write = Callable[[WeightPatch, Path], object]


def changed(*, of: str = "llama") -> WeightPatch:
    """A patch of one weight of a tiny model."""
    return patch_of(tiny(of), {1: 1})


def as_peft(make: Callable[[], Patch], *, model: str = "llama") -> Call:
    return lambda folder: write_peft(make(), folder / "new", layout=ModuleLayout(tiny(model).model))


def as_gguf_adapter(make: Callable[[], Patch], *, model: str = "llama") -> Call:
    return lambda folder: write_gguf_adapter(make(), folder / "new", layout=ModuleLayout(tiny(model).model))


def into_gguf(make: Callable[[Path], Path], **options: Any) -> Call:
    """A patch is merged into a GGUF file that was made in the folder."""
    return lambda folder: write_gguf_model(
        changed(), folder / "new", model=tiny("llama"), base=make(folder), **{"kind": "F32", **options}
    )


def base_file(folder: Path) -> Path:
    return as_gguf(tiny("llama"), folder / "base.gguf")


def file_of_another_model(folder: Path) -> Path:
    reader = gguf.GGUFReader(base_file(folder))
    writer = gguf.GGUFWriter(folder / "other.gguf", "llama")
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data[::-1].copy(), raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return folder / "other.gguf"


def merged(make: Callable[[], Patch], *, name: str = "new", **options: Any) -> Call:
    return lambda folder: write_merged(make(), tiny("llama"), folder / name, **options)


def into_full_folder(write: Callable[[Path], object]) -> Call:
    """The output folder has a file of somebody's."""

    def call(folder: Path) -> object:
        (folder / "full").mkdir()
        put(folder / "full", "thesis.tex")
        try:
            return write(folder / "full")
        finally:
            assert [path.name for path in (folder / "full").iterdir()] == ["thesis.tex"]

    return call


def merged_into_checkpoint(damage: Callable[[Path], object]) -> Call:
    """A checkpoint is damaged after the patch was made for it."""

    def call(folder: Path) -> object:
        base = base_of(tiny("llama"), folder / "base")
        patch = patch_of(LanguageModel.load(base), {1: 1})
        damage(base)
        return merge_checkpoint(patch, Checkpoint.open(base), folder / "new", progress=False)

    return call


def cut_the_first_shard(base: Path) -> None:
    shard = min(base.glob("model-*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-7])


def make_it_another_model(base: Path) -> None:
    base_of(tiny("llama"), base, change=lambda model: model.get_input_embeddings().weight.mul_(2))


def remove_all_shards(base: Path) -> None:
    for file in base.glob("model*"):
        file.unlink()


def extracted(change: Callable[[Any], object] | None) -> Call:
    def call(folder: Path) -> object:
        base = base_of(tiny("llama"), folder / "base")
        other = base_of(tiny("llama"), folder / "other", change=change)
        return extract_patch(Checkpoint.open(base), Checkpoint.open(other), progress=False)

    return call


def adapter(config: str) -> Call:
    """A PEFT adapter's folder with this configuration."""

    def call(folder: Path) -> object:
        write_peft(changed(), folder / "a", layout=ModuleLayout(tiny("llama").model))
        put(folder / "a", "adapter_config.json", config)
        return read_peft(folder / "a", tiny("llama"))

    return call


def adapter_with(**change: Any) -> Call:
    """A good adapter's configuration, of which some fields are others."""

    def call(folder: Path) -> object:
        write_peft(changed(), folder / "a", layout=ModuleLayout(tiny("llama").model))
        file = folder / "a" / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text(encoding="utf-8")), **change}), encoding="utf-8")
        return read_peft(folder / "a", tiny("llama"))

    return call


def adapter_as_a_pickle(folder: Path) -> object:
    trained(tiny("llama"), folder / "a")
    (folder / "a" / "adapter_model.safetensors").unlink()
    return read_peft(folder / "a", tiny("llama"))


def adapter_of_another_model(folder: Path) -> object:
    trained(tiny("llama"), folder / "a")
    return read_peft(folder / "a", tiny("gpt2"))


def with_a_fact_in_context() -> Patch:
    fact = Edit(id="paris", subject="Paris", prompt="{} is in", target_new="Italy")
    in_context = find_method("ike").on(tiny("llama"), settings={"source": "patch"}).edit([fact])
    return PatchStack((changed(), in_context))


def of_another_shape() -> Patch:
    name = tiny("llama").weight_name(1)
    return WeightPatch(factors={name: Factors(left=torch.ones(3, 1), right=torch.ones(5, 1))})


def of_the_embedding() -> Patch:
    pair = Factors(left=torch.ones(400, 1), right=torch.ones(32, 1))
    return WeightPatch(factors={"model.embed_tokens.weight": pair})


def merged_folder_as_a_patch(folder: Path) -> object:
    return Patch.load(write_merged(changed(), tiny("llama"), folder / "merged"))


def patch_on_its_merged_model(folder: Path) -> object:
    patch = changed()
    patch.check_model(LanguageModel.load(write_merged(patch, tiny("llama"), folder / "merged")))
    return None


def subtracted(*arguments: str) -> Call:
    """`kg-edit patch subtract`, in which {} is the folder."""

    def call(folder: Path) -> object:
        some_patch(1, "a").save(folder / "1.safetensors")
        for name in ("adapter", "empty"):
            (folder / name).mkdir()
        put(folder / "adapter", "adapter_config.json", "{}")
        words = [word.format(folder) for word in (*arguments, "--out", "{}/new")]
        return CliRunner().invoke(app, ["patch", "subtract", *words], catch_exceptions=False)

    return call


def taken_port(_: Path) -> object:
    with listening("127.0.0.1", 0) as taken:
        return listening("127.0.0.1", taken.getsockname()[1])


FILES: dict[str, Row] = {
    # PEFT
    "peft: no weight": (as_peft(lambda: NOTHING), PatchError, "changes no weight"),
    "peft: fact in context": (as_peft(with_a_fact_in_context), PatchError, "paris (ike); remove"),
    "peft: another model": (as_peft(changed, model="gpt2"), PatchMismatchError, "has no weight model.layers"),
    "peft: another shape": (as_peft(of_another_shape), PatchMismatchError, "the patch is for"),
    "peft: embedding": (as_peft(of_the_embedding), PatchError, "is the weight of Embedding"),
    "peft: full folder": (
        into_full_folder(lambda folder: write_peft(changed(), folder, layout=ModuleLayout(tiny("llama").model))),
        OutputError,
        "already exists",
    ),
    "adapter: another kind": (adapter_with(peft_type="IA3"), PatchError, "type 'IA3'"),
    "adapter: DoRA": (adapter_with(use_dora=True), PatchError, "use_dora"),
    "adapter: biases": (adapter_with(bias="all"), PatchError, "bias"),
    "adapter: whole modules": (adapter_with(modules_to_save=["lm_head"]), PatchError, "modules_to_save"),
    "adapter: layers repeated": (adapter_with(layer_replication=[[0, 2], [1, 2]]), PatchError, "layer_replication"),
    "adapter: other weights below": (
        adapter_with(init_lora_weights="pissa_niter_4"),
        PatchError,
        "path_initial_model_for_weight_conversion",
    ),
    **{
        f"adapter: config {text[:50]}": (adapter(text), PatchError, "adapter_config.json")
        for text in (
            '{"peft_type": "LORA", "alpha_pattern": [1]}',
            '{"peft_type": "LORA", "alpha_pattern": {"(": 1}}',
            '{"peft_type": "LORA", "lora_alpha": "high"}',
            '{"peft_type": "LORA", "lora_alpha": null}',
            "[" * 100_000,
        )
    },
    "adapter: pickle": (adapter_as_a_pickle, PatchError, "is a pickle"),
    "adapter: another model": (adapter_of_another_model, PatchMismatchError, ""),
    "adapter: folder without one": (
        lambda folder: read_peft(folder, tiny("llama")),
        PatchError,
        "expected a PEFT adapter's folder",
    ),
    # GGUF
    "gguf: family that it has not": (
        as_gguf_adapter(lambda: changed(of="opt"), model="opt"),
        ModelError,
        "can't write GGUF files for models of type 'opt'",
    ),
    "gguf: no weight": (as_gguf_adapter(lambda: NOTHING), PatchError, "changes no weight"),
    "gguf: another model": (as_gguf_adapter(changed, model="gpt2"), PatchMismatchError, "has no weight"),
    "gguf: rows in another order": (
        lambda _: rows_in_gguf("blk.0.attn_qkv.weight", ModuleLayout(tiny("llama").model)),
        PatchError,
        "may store the rows of blk.0.attn_qkv.weight in another order",
    ),
    "gguf: unknown numbers": (into_gguf(base_file, kind="F33"), UnknownNameError, "unknown kind of numbers 'F33'"),
    "gguf: blocks that do not fit": (into_gguf(base_file, kind="Q8_0"), PatchError, "48 columns"),
    "gguf: file of something else": (into_gguf(lambda _: Path(__file__)), ModelError, "as a GGUF file"),
    "gguf: no file": (into_gguf(lambda folder: folder / "nowhere.gguf"), ModelError, "as a GGUF file"),
    "gguf: part of a split file": (
        into_gguf(lambda folder: as_gguf(tiny("llama"), folder / "base-00001-of-00002.gguf", parts=2)),
        ModelError,
        "is one part of a split file; join the parts",
    ),
    "gguf: file of another model": (
        into_gguf(file_of_another_model),
        PatchMismatchError,
        "which quantisation does not explain",
    ),
    "gguf: full folder": (
        into_full_folder(
            lambda folder: write_gguf_model(
                changed(), folder, model=tiny("llama"), base=base_file(folder.parent), kind="F32"
            )
        ),
        OutputError,
        "already exists",
    ),
    "gguf: base that is none": (lambda _: gguf_of("owner/name", None), ConfigError, "is not a GGUF file"),
    "gguf: base with another name": (
        lambda folder: gguf_of("smollm2-135m", folder / "other.bin"),
        ConfigError,
        "other.bin' is not a GGUF file",
    ),
    "gguf: base that is not there": (
        lambda folder: gguf_of("owner/name", folder / "nowhere.gguf"),
        ConfigError,
        "there is no GGUF file",
    ),
    # Merged models
    "merge: edits of another kind": (
        merged(lambda: PatchStack((changed(),))),
        PatchError,
        "can't be merged; remove those edits first",
    ),
    "merge: nothing": (merged(lambda: NOTHING), PatchError, "changes nothing"),
    "merge: full folder": (
        into_full_folder(lambda folder: write_merged(changed(), tiny("llama"), folder)),
        OutputError,
        "already exists",
    ),
    "merge: long name": (merged(changed, name="a" * 300), OutputError, "File name too long"),
    **{
        f"merge: shards of {size!r}": (
            lambda folder, size=size: check_mergeable(changed(), folder / "new", shard=size),  # type: ignore[func-returns-value]
            ConfigError,
            "such as 5GB",
        )
        for size in ("five", "0", "0GB", "-1GB", "5", "1e9GB", "nanGB", "5GiB", "0.0001KB", "")
    },
    "merge: shards, while it is written": (merged(changed, shard="five"), ConfigError, "such as 5GB"),
    "merged folder as a patch": (merged_folder_as_a_patch, PatchError, "only kg-edit patch check LEDGER --merged"),
    "patch on its merged model": (patch_on_its_merged_model, PatchMismatchError, "kg-edit diff --model"),
    # Checkpoints
    "checkpoint: cut off": (merged_into_checkpoint(cut_the_first_shard), ModelError, "damaged or cut off"),
    "checkpoint: shard missing": (
        merged_into_checkpoint(lambda base: min(base.glob("model-*.safetensors")).unlink()),
        ModelError,
        "is not there",
    ),
    "checkpoint: another model": (merged_into_checkpoint(make_it_another_model), PatchMismatchError, "another model"),
    "checkpoint: no weights": (merged_into_checkpoint(remove_all_shards), ModelError, "safetensors"),
    "checkpoint: nothing changed": (extracted(None), PatchError, "nothing to extract"),
    "checkpoint: vectors changed": (
        extracted(lambda model: model.model.norm.weight.mul_(1.5)),
        PatchError,
        "no matrices",
    ),
    # Subtractions
    "subtract: adapter without a model": (subtracted("{}/adapter", "{}/adapter"), ConfigError, "give --model"),
    "subtract: model without an adapter": (
        subtracted("{}/1.safetensors", "{}/1.safetensors", "--model", "smollm2-135m"),
        ConfigError,
        "--model has no effect",
    ),
    "subtract: no file": (subtracted("{}/lost", "{}/lost"), ConfigError, "lost does not exist; give a patch file"),
    "subtract: folder of something else": (subtracted("{}/empty", "{}/empty"), PatchError, "there is no ledger"),
}
ADDRESSES: dict[str, Row] = {
    **{
        f"repository {name!r}": (lambda _, name=name: check_repository(name), ConfigError, "expected OWNER/NAME")  # type: ignore[func-returns-value]
        for name in ("edits", "a/b/c", "/edits", "someone/", "some one/edits", "https://hub/a/b", "")
    },
    **{
        f"host name {name!r}": (
            lambda _, name=name: host_names("127.0.0.1", [name]),
            ConfigError,
            "expected a host name without scheme and port",
        )
        for name in ("lab.example:8443", "https://lab.example", "")
    },
    "unknown host": (lambda _: listening("lab.invalid", 8000), ConfigError, "give another --host"),
    "taken port": (taken_port, ConfigError, "give another --port"),
    "blank host": (lambda _: listening(" ", 0), ConfigError, "or 0.0.0.0 for requests from every machine"),
}


@refusals({**FILES, **ADDRESSES})
def test_mistake_is_refused(call: Call, error: type[Exception], keyword: str, tmp_path: Path) -> None:
    check_refused(call, tmp_path, error, keyword)
    assert not (tmp_path / "new").exists(), "nothing is written"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")], "no scratch folder stays"
