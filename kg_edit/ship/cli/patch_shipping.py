"""`kg-edit patch merge` and `export`: a ledger's edits in the forms that others load; `subtract` and `average` patches.

`merge` writes the edited model, `export` an adapter or one patch file, and `extract` makes a patch of two models.
`subtract` (Ext-Sub) takes patches or PEFT adapters instead of a ledger.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from kg_common.terminal import number_of
from kg_edit.cli.console import say, stderr
from kg_edit.cli.generate import model_for
from kg_edit.cli.method_plan import load_model
from kg_edit.cli.options import Device, Dtype, refuse_unused, typed_options
from kg_edit.errors import ConfigError, OutputError, PatchError
from kg_edit.storage.atomic import copy_file
from kg_edit.text.display import plain

if TYPE_CHECKING:
    from kg_edit.models.language_model import LanguageModel
    from kg_edit.patches.base import Patch
    from kg_edit.patches.changes import Changes
    from kg_edit.patches.entries import Entry
    from kg_edit.reports.rows import ReportRow
    from kg_edit.ship.export.shipment import Shipment
    from kg_edit.ship.ledger.check import CheckedEdit

Edits = Annotated[
    Path,
    typer.Argument(metavar="LEDGER", help="Folder of a ledger, patch file, or output folder of `kg-edit edit`."),
]
Unedited = Annotated[
    str | None, typer.Option("--model", show_default="the one that the patch names", help="The unedited model.")
]
Base = Annotated[
    str | None,
    typer.Option(show_default="that of --model", help="Hub id or folder from which others load the unedited model."),
]
License = Annotated[
    str | None,
    typer.Option(show_default="the base model's, if known", help="License of the base model, for the model card."),
]
Scores = Annotated[bool, typer.Option("--scores", help="Ask the model all prompts and put the scores into the card.")]
Push = Annotated[str | None, typer.Option(metavar="OWNER/NAME", help="Upload the folder to the hub.")]
Private = Annotated[bool, typer.Option("--private", help="Make a new repository private.")]
Check = Annotated[
    bool, typer.Option("--check", help="Ask the edited model now, whatever is recorded; refuse if an edit fails.")
]
Force = Annotated[bool, typer.Option("--force", help="Ship edits that contradict each other or are known to fail.")]


def merge(
    context: typer.Context,
    ledger: Edits,
    model: Unedited = None,
    to: Annotated[
        Literal["folder", "gguf"], typer.Option(help="Format: `folder` (transformers) or `gguf` (llama.cpp).")
    ] = "folder",
    shard: Annotated[str, typer.Option(metavar="SIZE", help="Maximum size of a file of weights.")] = "5GB",
    gguf: Annotated[
        Path | None,
        typer.Option(metavar="FILE.gguf", show_default="--model, if it is one", help="The unedited model as GGUF."),
    ] = None,
    gguf_type: Annotated[
        Literal["F32", "F16", "BF16", "Q8_0"], typer.Option(help="Type of the edited tensors.")
    ] = "F32",
    base: Base = None,
    license: License = None,
    *,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="New folder for the edited model.")],
    scores: Scores = False,
    push: Push = None,
    private: Private = False,
    check: Check = False,
    force: Force = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Write the edited model, as a folder for transformers or as a GGUF file.

    The files of a model in safetensors are copied, and only the bytes of the edited tensors change: the model is not
    loaded, and its shards and number type stay. `--check`, `--scores`, `--shard`, `--dtype` and `--device` load it. The
    folder also has a model card (`README.md`). In a GGUF file only the edited tensors are dequantised and rewritten;
    the rest is unchanged. `--push OWNER/NAME` uploads the folder to the hub. Edits that contradict each other, or
    failed in their run, are refused; `--check` asks the model before anything is written.

    Examples:

    - `kg-edit patch merge ledger/ --model smollm2-135m --out merged/`
    - `kg-edit patch merge ledger/ --to gguf --out merged-gguf/`
    """
    from kg_edit.ship.ledger.listing import active_at, check_patches

    # 1. All that can be refused is refused before a model of many GB is loaded
    if to == "gguf":
        refuse_unused(context, ("shard",), "with --to gguf, which writes one file", way="give --to folder")
    else:
        refuse_unused(context, ("gguf", "gguf_type"), f"with --to {to}", way="give --to gguf")
    _check_push(context, push)
    check_patches([ledger])
    check_outside_ledgers(out)
    from kg_edit.ship.checkpoint.merging import merge_checkpoint
    from kg_edit.ship.checkpoint.stored import Checkpoint, checkpoint_folder
    from kg_edit.ship.export.merged_model import check_mergeable
    from kg_edit.ship.export.shipment import gguf_of

    patch, entries = active_at(ledger)
    check_mergeable(patch, out, shard=shard)
    refuse_known_faults(ledger, entries, check=check, force=force)
    name = model_for(patch, model)
    gguf_file = None
    if to == "gguf":
        gguf_file = gguf_of(name, gguf)

    # 2. The folder whose files are copied; None: the model is loaded, for an option or because it has no such files
    checkpoint = None
    needs_model = to == "gguf" or check or scores or bool(typed_options(context, ("shard", "dtype", "device")))
    if not needs_model:
        checkpoint = checkpoint_folder(name)

    # 3. Write the edited model with its card
    if checkpoint is not None:
        rows = _read_scores(ledger, entries)
        shipment = _collect_shipment(patch, entries, rows, model=name, base=base, license=license, push=push)
        merge_checkpoint(patch, Checkpoint.open(checkpoint), out, card=shipment.card("folder"))
    else:
        loaded = load_model(name, dtype, device)
        if check:
            _check_edits(loaded, patch, entries, force=force)
        if scores:
            rows = _measure_scores(loaded, patch, entries)
        else:
            rows = _read_scores(ledger, entries)
        shipment = _collect_shipment(patch, entries, rows, model=name, base=base, license=license, push=push)
        if gguf_file is not None:
            shipment.to_gguf_model(out, loaded, base=gguf_file, kind=gguf_type)
        else:
            shipment.to_folder(out, loaded, shard=shard)
    say(f"{out}: the model with {number_of(len(entries), 'edit')} in its weights")
    _remark(shipment)
    _push(out, push, private=private)


def export(
    context: typer.Context,
    ledger: Edits,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="New folder for the adapter, or patch file to write.")],
    model: Unedited = None,
    *,
    to: Annotated[
        Literal["peft", "gguf", "patch"],
        typer.Option(help="`peft` or `gguf`: a LoRA adapter. `patch`: one patch file of all edits."),
    ],
    rank: Annotated[
        int | None,
        typer.Option(min=1, show_default="all of it", help="Largest rank of a change, such as the server's limit."),
    ] = None,
    base: Base = None,
    license: License = None,
    scores: Scores = False,
    push: Push = None,
    private: Private = False,
    check: Check = False,
    force: Force = False,
) -> None:
    """Write the edits as a LoRA adapter, which loads without kg-edit, or as one patch file.

    The adapter is for PEFT (vLLM and others read it too) or for llama.cpp (`adapter.gguf`). The folder also has a model
    card (`README.md`). `--push OWNER/NAME` uploads the folder to the hub. Edits that contradict each other, or failed
    in their run, are refused; `--check` asks the model before anything is written. A server may limit the rank of
    adapters, which grows with every edit: `--rank` keeps the largest singular values, and prints what is lost.

    Examples:

    - `kg-edit patch export ledger/ --to peft adapter/`
    - `kg-edit patch export ledger/ --to peft adapter/ --rank 16 --check`
    - `kg-edit patch export ledger/ --to gguf adapter-gguf/`
    """
    from kg_edit.ship.ledger.listing import active_at, changes_at, check_patches

    if to == "gguf" and out.suffix == ".gguf":
        raise ConfigError(f"{out}: the output is a folder with adapter.gguf in it; give a name without .gguf")
    if to == "patch":
        _refuse_card_options(context, push, check=check)
    _check_push(context, push)
    check_patches([ledger])

    # An adapter of changes of weights is written without torch, unless an option computes with tensors
    found = None
    if rank is None and not check and not scores:
        found = changes_at(ledger)
    patch, entries = found or active_at(ledger)
    if patch.is_empty:
        raise PatchError("the patch changes nothing, so there is nothing to export; add edits first")
    check_outside_ledgers(out)
    refuse_known_faults(ledger, entries, check=check, force=force)
    if rank is not None:
        patch = at_rank(patch, rank)
    if to == "patch":
        if out.exists():
            raise OutputError(f"{out} already exists; give another file, or delete it first")
        if check:
            _check_edits(load_model(model_for(patch, model)), _as_loaded(patch), entries, force=force)
        _write_patch_file(patch, ledger, out)
        say(f"{out}: {patch.summary}")
        _say_what_a_server_needs(patch)
        return

    # An adapter, with a card
    from kg_edit.ship.export.folders import check_new
    from kg_edit.ship.export.peft_adapter import with_one_rank

    # Before a model is loaded: the folder, and whether an adapter can have such a patch
    check_new(out)
    with_one_rank(patch)
    name = model_for(patch, model)
    loaded = load_model(name) if scores or check else None
    if loaded and check:
        _check_edits(loaded, _as_loaded(patch), entries, force=force)
    if loaded and scores:
        rows = _measure_scores(loaded, _as_loaded(patch), entries)
    else:
        rows = _read_scores(ledger, entries)
    shipment = _collect_shipment(patch, entries, rows, model=name, base=base, license=license, push=push)
    if to == "gguf":
        shipment.to_gguf(out)
    else:
        shipment.to_peft(out)
    _remark(shipment)
    say(f"{out}: {patch.summary}")
    _push(out, push, private=private)


def _say_what_a_server_needs(patch: Patch | Changes) -> None:
    """Print what a server of a patch file needs besides the model; changes of weights need nothing else."""
    from kg_edit.patches.changes import Changes

    if isinstance(patch, Changes):
        return
    from kg_edit.patches.base import needs_of_server  # which imports torch

    needs = needs_of_server(patch)
    if needs:
        say(needs)


def _as_loaded(patch: Patch | Changes) -> Patch:
    """Return the patch, which was loaded with its tensors where an option asks a model."""
    from kg_edit.patches.changes import Changes

    assert not isinstance(patch, Changes)  # noqa: S101 - arrays are read only without such an option
    return patch


def _write_patch_file(patch: Patch | Changes, ledger: Path, out: Path) -> None:
    """Write the patch of a ledger to one file. The file of a single step is copied; a sum has to be computed."""
    from kg_edit.patches.changes import Changes
    from kg_edit.ship.ledger.listing import active_at, only_file

    if isinstance(patch, Changes):
        file = only_file(ledger)
        if file is not None:
            copy_file(file, out)
            return
        patch, _ = active_at(ledger)
    patch.save(out)


def _refuse_card_options(context: typer.Context, push: str | None, *, check: bool) -> None:
    """Refuse the options that have no use for a patch file."""
    unused = ["base", "license", "scores"]
    if not check:
        unused.append("model")
    way = "give --to peft or --to gguf"
    refuse_unused(context, tuple(unused), "with --to patch, which has no model card", way=way)
    if push is not None:
        raise ConfigError("--push can't upload a patch file; use --to peft or --to gguf")


def at_rank(patch: Patch | Changes, rank: int) -> Patch:
    """Return the patch at a lower rank, after printing what each weight loses by it."""
    from kg_edit.patches.weight_patch import WeightPatch

    if not isinstance(patch, WeightPatch):
        raise PatchError("--rank lowers the rank of changes of weights, and the patch has other edits; leave it out")
    reduced, shares = patch.reduced(rank)
    for name, pair in patch.factors.items():
        say(f"{name}: rank {pair.rank} → {reduced.factors[name].rank}, {shares[name]:.2%} of its squared norm is kept")
    return reduced


def refuse_known_faults(ledger: Path, entries: Sequence[Entry], *, check: bool, force: bool) -> None:
    """Refuse edits that contradict each other, or failed when they were made; with ``force``, warn of them.

    With ``check`` the model is asked later, and its answers count instead of what was recorded of the edits.
    """
    from kg_edit.ship.export.fitness import failed_in, refuse_unfit
    from kg_edit.ship.ledger.listing import patch_file, read_listing

    failed = list[str]()
    if not check:
        if patch_file(ledger) is None:
            failed = [entry.name for entry in read_listing(ledger).failed]
        else:
            failed = failed_in(_read_scores(ledger, entries))
    refuse_unfit(entries, failed=failed, force=force)


def _read_scores(ledger: Path, entries: Sequence[Entry]) -> Sequence[ReportRow]:
    """Return the report rows of the run of `kg-edit edit` whose patch is shipped; () if there was none."""
    from kg_edit.ship.export.shipment import measured_rows
    from kg_edit.ship.ledger.listing import patch_file

    return measured_rows(patch_file(ledger), [entry.edit for entry in entries])


def _measure_scores(model: LanguageModel, patch: Patch, entries: Sequence[Entry]) -> Sequence[ReportRow]:
    """Return the report rows of the edits, asked of the model as it is and with the patch."""
    from kg_edit.reports.probes import before_and_after

    return before_and_after(model, patch, [entry.edit for entry in entries], progress=True)


def _check_edits(model: LanguageModel, patch: Patch, entries: Sequence[Entry], *, force: bool) -> None:
    """Ask the edited model the edits' own prompts; print what it generates where one fails, and refuse it."""
    from kg_edit.ship.export.fitness import refuse_unfit
    from kg_edit.ship.ledger.check import check as check_entries

    with patch.applied(model) as edited:
        checked = check_entries(edited, entries, progress=True)
    failed = say_failed_answers(checked)
    say(f"{len(checked) - len(failed)} of {len(checked)} edits succeed")
    if not force:
        refuse_unfit(entries, failed=failed)


def say_failed_answers(checked: Sequence[CheckedEdit]) -> list[str]:
    """Print what is generated where an edit's own target is not; return the names of these edits."""
    failed = []
    for edit in checked:
        wrong = [answer for answer in edit.of("rewrite") if not answer.success]
        for answer in wrong:
            say(f"{edit.entry.name}: {answer.prompt!r}: target {answer.target!r}, generated {answer.text!r}")
        if wrong:
            failed.append(edit.entry.name)
    return failed


def check_outside_ledgers(out: Path) -> None:
    """Refuse a path inside a ledger, whose next step would replace a file of the same name."""
    from kg_edit.ship.ledger.log import LOG

    try:
        path = out.resolve()
        ledgers = [folder for folder in (path, *path.parents) if (folder / LOG).exists()]
    except OSError as error:
        raise OutputError(f"can't read {out}: {error.strerror}; give another path") from error
    if ledgers:
        raise OutputError(f"{out} is inside the ledger {ledgers[0]}; give a path outside the ledger")


def _collect_shipment(
    patch: Patch | Changes,
    entries: Sequence[Entry],
    rows: Sequence[ReportRow],
    *,
    model: str,
    base: str | None,
    license: str | None,
    push: str | None,
) -> Shipment:
    """Collect what is shipped; the card's scores are those of the report ``rows``.

    With ``push``, a base model that others don't have is remarked on.
    """
    from kg_edit.ship.export.card import base_model
    from kg_edit.ship.export.shipment import Shipment

    edits = [entry.edit for entry in entries]
    described = base_model(model, base=base, license=license)
    if push is not None and described.hub is None:
        text = f"the base model is a folder of this machine ({described.path}), which others don't have"
        stderr().print(plain(f"{text}; give --base OWNER/NAME"), soft_wrap=True)
    return Shipment(patch=patch, edits=edits, model=model, base=described, rows=rows)


def _remark(shipment: Shipment) -> None:
    """Print what other programs have to do at the start of a text."""
    if remark := shipment.remark:
        stderr().print(plain(remark), soft_wrap=True)


def _check_push(context: typer.Context, push: str | None) -> None:
    """Refuse a name that is not OWNER/NAME, and --private without --push, before anything is loaded."""
    from kg_edit.ship.export.hub import check_repository

    if push is None:
        refuse_unused(context, ("private",), "without --push", way="also give --push OWNER/NAME")
    else:
        check_repository(push)


def _push(out: Path, push: str | None, *, private: bool) -> None:
    from kg_edit.ship.export.hub import push_folder

    if push is not None:
        say(push_folder(out, push, private=private))


def extract(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The unedited model: a folder or a hub id.")],
    edited: Annotated[str, typer.Argument(metavar="EDITED", help="The edited model: a folder or a hub id.")],
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Patch file to write.")],
    rank: Annotated[
        int | None,
        typer.Option(min=1, show_default="what is above the rounding", help="Rank of each changed weight."),
    ] = None,
    edits: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The edits that EDITED has, so that a ledger can check them.")
    ] = None,
) -> None:
    """Make a patch of the difference between two checkpoints, whoever edited the second one.

    No model is loaded. The difference of each weight is split by its singular values; those that the rounding of the
    weight's type explains are left out. The patch can be merged, exported and applied; with `--edits` also added to a
    ledger, checked and removed.

    Examples:

    - `kg-edit patch extract base/ edited/ --out edited.safetensors --edits edits.jsonl`
    """
    check_outside_ledgers(out)
    if out.exists():
        raise OutputError(f"{out} already exists; give another --out")
    from kg_edit.edits.files import read_edits
    from kg_edit.ship.checkpoint.extraction import extract_patch
    from kg_edit.ship.checkpoint.stored import Checkpoint

    facts = tuple(read_edits(edits)) if edits else ()
    patch = extract_patch(Checkpoint.of(base), Checkpoint.of(edited), rank=rank, edits=facts)
    for name, weight in patch.provenance["methods"][0]["weights"].items():
        say(f"{name}: rank {weight['rank']}, norm {weight['norm']:.3g}, of which {weight['kept']:.2%} is kept")
    say(f"{patch.save(out)}: {number_of(len(patch.factors), 'weight')} changed")


_CHANGE = "a patch file of weights, output folder of `kg-edit edit`, ledger, or folder of a PEFT LoRA adapter"


def subtract(
    context: typer.Context,
    expert: Annotated[Path, typer.Argument(metavar="EXPERT", help=f"Change to keep: {_CHANGE}.")],
    anti: Annotated[Path, typer.Argument(metavar="ANTI", help=f"Change to subtract: {_CHANGE}.")],
    model: Annotated[str | None, typer.Option("--model", help="Model of the adapters; patch files need none.")] = None,
    strength: Annotated[float, typer.Option(min=0, help="Factor of the subtracted part.")] = 1.0,
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Patch file to write.")],
    whole: Annotated[
        bool, typer.Option("--whole", help="Subtract the whole anti-expert, also what both have in common.")
    ] = False,
    dtype: Dtype = "auto",
    device: Device = "auto",
) -> None:
    """Subtract from an expert's change what only an anti-expert's change has (Ext-Sub).

    Examples:

    - `kg-edit patch subtract expert/ toxic/ --model smollm2-135m --out clean.safetensors`
    """
    from kg_edit.patches.subtraction import subtract_patch
    from kg_edit.ship.export.peft_adapter import is_adapter

    check_outside_ledgers(out)
    if out.exists():
        raise OutputError(f"{out} already exists; give another --out")
    _check_change(expert)
    _check_change(anti)
    # A patch records which model it is for. An adapter does not, so its modules are looked up in the model.
    adapters = [path for path in (expert, anti) if is_adapter(path)]
    if adapters and model is None:
        raise ConfigError(f"{adapters[0]} is a PEFT adapter, which does not say which model it is for; give --model")
    if not adapters:
        refuse_unused(context, ("model", "dtype", "device"), "where neither change is a PEFT adapter")
    loaded = load_model(model, dtype, device) if adapters and model else None
    # E - strength * (the part of A that E does not have), weight by weight; with --whole, of all of A
    patch = subtract_patch(
        _read_change(expert, loaded), _read_change(anti, loaded), strength=strength, extract=not whole
    )
    patch.check_finite()
    say(f"{patch.save(out)}: {number_of(len(patch.factors), 'weight')} changed")


def _check_change(path: Path) -> None:
    """Refuse a path that is neither a patch nor a PEFT adapter."""
    from kg_edit.ship.export.peft_adapter import is_adapter
    from kg_edit.ship.ledger.listing import check_patches

    if not path.exists():
        raise ConfigError(f"{path} does not exist; give {_CHANGE}")
    if is_adapter(path):
        return
    try:
        check_patches([path])
    except (OutputError, PatchError) as error:
        error.add_note(f"expected {_CHANGE} (with adapter_config.json)")
        raise


def _read_change(path: Path, model: LanguageModel | None) -> Patch:
    """Read a patch, or a PEFT adapter of ``model``."""
    from kg_edit.patches.base import Patch
    from kg_edit.ship.export.peft_adapter import is_adapter, read_peft

    if model and is_adapter(path):
        return read_peft(path, model)
    return Patch.load(path)


def average(
    patches: Annotated[
        list[Path],
        typer.Argument(metavar="PATCH...", help="Patch files, output folders of `kg-edit edit`, or ledgers."),
    ],
    share: Annotated[
        list[float], typer.Option("--share", help="Factor of a patch's change; once for each patch, in their order.")
    ],
    *,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Patch file to write.")],
) -> None:
    """Write the weighted sum of patches of the same edits, such as those of two methods.

    Examples:

    - `kg-edit patch average alphaedit/ trained/ --share 0.4 --share 0.8 --out both.safetensors`
    """
    check_outside_ledgers(out)
    if out.exists():
        raise OutputError(f"{out} already exists; give another --out")
    from kg_edit.patches.average import average_patches
    from kg_edit.patches.base import Patch

    patch = average_patches([Patch.load(path) for path in patches], share)
    patch.check_finite()
    edits = number_of(len(patch.edits), "edit")
    say(f"{patch.save(out)}: {edits}, {number_of(len(patch.factors), 'weight')} changed")
