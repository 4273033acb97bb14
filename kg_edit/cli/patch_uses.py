"""`kg-edit patch check`, `merge` and `export`: what is done with all that stands in a ledger."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kg_edit.cli.console import load, plain, stdout
from kg_edit.cli.options import Device, Dtype
from kg_edit.cli.patch_output import TARGETS, check_export, failed, model_for, parse_kinds

Standing = Annotated[
    Path, typer.Argument(metavar="LEDGER", help="the ledger's folder, one patch file, or a folder of kg-edit edit")
]
Known = Annotated[
    str | None, typer.Option("--model", help="the unedited model; default: the one that the patch says it is for")
]


def check(
    ledger: Standing,
    model: Known = None,
    merged: Annotated[
        str | None, typer.Option("--merged", help="instead: a model that has the patch in its weights, .gguf too")
    ] = None,
    strict: Annotated[
        list[str] | None,
        typer.Option("--strict", help="also fail for: paraphrase, follows, neighbour or all; repeatable"),
    ] = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Ask the edited model every edit's prompts again; exit code 1 if a fact no longer holds or two contradict.

    A fact holds where the new target, all its tokens together, is more likely than the old one after the edit's own
    prompt; where the old one is not known, where the model says it. The other prompts are counted, and matter with
    `--strict`. Of two standing edits that want different targets for one fact only one can be said.

    Example: `kg-edit patch check ledger/ --merged model-Q4_K_M.gguf`
    """
    from kg_edit.ledger.check import check as check_entries
    from kg_edit.ledger.paths import standing_at

    kinds = parse_kinds(strict or ())
    patch, entries = standing_at(ledger)
    if not entries:
        stdout().print("nothing stands here, so there is nothing to check")
        return
    if merged:
        checked = check_entries(load(merged, dtype, device), entries, progress=True)
    else:
        with patch.applied(load(model_for(patch, model), dtype, device)) as edited:
            checked = check_entries(edited, entries, progress=True)
    if failed(checked, kinds):
        raise typer.Exit(1)


def merge(
    ledger: Standing,
    out: Annotated[Path, typer.Option("--out", help="new folder for the edited model")],
    model: Known = None,
    shard: Annotated[str, typer.Option("--shard", help="at most so much in a file")] = "5GB",
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Write the edited model as a folder: safetensors weights and tokenizer, as transformers lays them out.

    llama.cpp's own tool makes a GGUF file of it: `python convert_hf_to_gguf.py merged/ --outfile edited.gguf`

    Example: `kg-edit patch merge ledger/ --model smollm2-135m --out merged/`
    """
    from kg_edit.export.merged_model import check_mergeable, write_merged
    from kg_edit.ledger.paths import standing_at

    patch, entries = standing_at(ledger)
    check_mergeable(patch, out, shard=shard)
    write_merged(patch, load(model_for(patch, model), dtype, device), out, shard=shard)
    stdout().print(f"{plain(str(out))}: the model with {len(entries)} edits in its weights", soft_wrap=True)


def export(
    ledger: Standing,
    out: Annotated[Path, typer.Argument(help="new folder of the adapter, or file of the patch")],
    to: Annotated[str, typer.Option("--to", help="peft: a LoRA adapter; patch: one patch file of all that stands")],
    model: Known = None,
) -> None:
    """Write what stands as a PEFT LoRA adapter, which needs no kg-edit to load, or as one patch file.

    Example: `kg-edit patch export ledger/ --to peft adapter/`
    """
    from kg_edit.errors import unknown_name
    from kg_edit.ledger.paths import standing_at

    if to not in TARGETS:
        raise unknown_name("format", to, TARGETS)
    patch, _ = standing_at(ledger)
    check_export(patch, out)
    TARGETS[to](patch, out, model_for(patch, model))
    stdout().print(plain(f"{out}: {patch.summary}"), soft_wrap=True)
