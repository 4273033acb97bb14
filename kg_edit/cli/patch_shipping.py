"""`kg-edit patch merge` and `kg-edit patch export`: what stands in a ledger, in the forms that others load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kg_edit.cli.console import stdout
from kg_edit.cli.method_plan import load
from kg_edit.cli.options import Device, Dtype
from kg_edit.cli.patch_output import (
    FORMS,
    TARGETS,
    check_export,
    check_push,
    export_patch,
    model_for,
    say_pushed,
)
from kg_edit.cli.unused import refuse_unused
from kg_edit.errors import ConfigError
from kg_edit.text.display import plain

if TYPE_CHECKING:
    from kg_edit.edits.edit import Edit
    from kg_edit.models.language_model import LanguageModel
    from kg_edit.patches.base import Patch
    from kg_edit.reports.before_after import ReportRow

Standing = Annotated[
    Path, typer.Argument(metavar="LEDGER", help="folder of a ledger, a patch file, or an output folder of kg-edit edit")
]
Known = Annotated[str | None, typer.Option("--model", help="the unedited model; default: the one that the patch names")]
Base = Annotated[
    str | None,
    typer.Option("--base", help="hub id or folder from which others load the unedited model; default: that of --model"),
]
License = Annotated[
    str | None, typer.Option("--license", help="license of the base model, for the model card; default: the known one")
]
Scores = Annotated[
    bool, typer.Option("--scores", help="ask the model all prompts and put the scores into the model card")
]
Push = Annotated[str | None, typer.Option("--push", metavar="OWNER/NAME", help="upload the folder to the hub")]
Private = Annotated[bool, typer.Option("--private", help="with --push: make a new repository private")]


def merge(
    context: typer.Context,
    ledger: Standing,
    out: Annotated[Path, typer.Option("--out", help="new folder for the edited model")],
    model: Known = None,
    to: Annotated[str, typer.Option("--to", help="format: folder (transformers) or gguf (llama.cpp)")] = "folder",
    shard: Annotated[str, typer.Option("--shard", help="maximum size of a file of weights")] = "5GB",
    gguf: Annotated[
        Path | None, typer.Option("--gguf", help="the unedited model as a GGUF file; default: --model, if it is one")
    ] = None,
    gguf_type: Annotated[
        str, typer.Option("--gguf-type", help="type of the edited tensors: F32, F16, BF16 or Q8_0")
    ] = "F32",
    base: Base = None,
    license: License = None,
    scores: Scores = False,
    push: Push = None,
    private: Private = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Write the edited model, as a folder for transformers or as a GGUF file.

    The folder also has a model card (README.md). In a GGUF file only the edited tensors are dequantised and rewritten;
    the rest stays unchanged. `--push OWNER/NAME` uploads the folder to the hub.

    Examples: `kg-edit patch merge ledger/ --model smollm2-135m --out merged/`,
    `kg-edit patch merge ledger/ --to gguf --out merged-gguf/`
    """
    from kg_edit.errors import unknown_name
    from kg_edit.ledger.paths import check_patches, patch_file, standing_at

    if to not in FORMS:
        raise unknown_name("form", to, FORMS)
    _refuse_unmerged(context, to)
    _refuse_private(context, push)
    check_push(push, to)
    check_patches([ledger])
    from kg_edit.export.merged_model import check_mergeable
    from kg_edit.reports.shipping import Shipment, gguf_of, measured_rows

    patch, entries = standing_at(ledger)
    check_mergeable(patch, out, shard=shard)
    name, edits = model_for(patch, model), [entry.edit for entry in entries]
    file = gguf_of(name, gguf) if to == "gguf" else None
    loaded = load(name, dtype, device)
    rows = _asked(patch, edits, loaded) if scores else measured_rows(patch_file(ledger), edits)
    shipment = Shipment.of(patch, edits, model=name, base=base, license=license, rows=rows)
    check_push(push, to, base=shipment.base)
    if file:
        shipment.to_gguf_model(out, loaded, base=file, kind=gguf_type)
    else:
        shipment.to_folder(out, loaded, shard=shard)
    stdout().print(f"{plain(str(out))}: the model with {len(entries)} edits in its weights", soft_wrap=True)
    say_pushed(out, push, private=private)


def _refuse_unmerged(context: typer.Context, to: str) -> None:
    """Raise ConfigError for options of the other form of a merged model."""
    if to == "gguf":
        refuse_unused(context, ("shard",), "with --to gguf, which writes one file", way="give --to folder")
    else:
        refuse_unused(context, ("gguf", "gguf_type"), f"with --to {to}", way="give --to gguf")


def _refuse_private(context: typer.Context, push: str | None) -> None:
    if push is None:
        refuse_unused(context, ("private",), "without --push", way="also give --push OWNER/NAME")


def _asked(patch: Patch, edits: Sequence[Edit], model: LanguageModel) -> tuple[ReportRow, ...]:
    from kg_edit.reports.before_after import before_and_after

    return before_and_after(model, patch, edits, progress=True)


def export(
    context: typer.Context,
    ledger: Standing,
    out: Annotated[Path, typer.Argument(help="new folder for the adapter, or patch file to write")],
    to: Annotated[str, typer.Option("--to", help="peft or gguf: a LoRA adapter; patch: one patch file of all edits")],
    model: Known = None,
    base: Base = None,
    license: License = None,
    scores: Scores = False,
    push: Push = None,
    private: Private = False,
) -> None:
    """Write the edits as a LoRA adapter, which loads without kg-edit, or as one patch file.

    The adapter is for PEFT (vLLM and others read it too) or for llama.cpp (`adapter.gguf`). The folder also has a model
    card (README.md). `--push OWNER/NAME` uploads the folder to the hub.

    Examples: `kg-edit patch export ledger/ --to peft adapter/`, `kg-edit patch export ledger/ --to gguf adapter-gguf/`
    """
    from kg_edit.errors import unknown_name
    from kg_edit.ledger.paths import check_patches, patch_file, standing_at

    if to not in TARGETS:
        raise unknown_name("format", to, TARGETS)
    if to == "gguf" and out.suffix == ".gguf":
        raise ConfigError(f"{out}: the output is a folder with adapter.gguf in it; give a name without .gguf")
    if to == "patch":
        unused = ("model", "base", "license", "scores")
        refuse_unused(context, unused, "with --to patch, which has no model card", way="give --to peft or --to gguf")
    _refuse_private(context, push)
    check_push(push, to)
    check_patches([ledger])
    patch, entries = standing_at(ledger)
    check_export(patch, out)
    if to == "patch":
        export_patch(patch, out)
    else:
        from kg_edit.reports.shipping import Shipment, measured_rows

        name, edits = model_for(patch, model), [entry.edit for entry in entries]
        rows = _asked(patch, edits, load(name)) if scores else measured_rows(patch_file(ledger), edits)
        shipment = Shipment.of(patch, edits, model=name, base=base, license=license, rows=rows)
        check_push(push, to, base=shipment.base)
        (shipment.to_gguf if to == "gguf" else shipment.to_peft)(out)
    stdout().print(plain(f"{out}: {patch.summary}"), soft_wrap=True)
    say_pushed(out, push, private=private)
