"""Audit an edited checkpoint: which weights differ from the base, how, and whether a ledger explains it.

Of each weight that differs, D = W' - W:

- its rank above the rounding of the weight's type, and its norm (`extraction.split`);
- what a ledger's patch P leaves of it: the rank and the norm of D - P;
- the tokens that its strongest left vector writes: the largest entries of U u, U the unembedding;
- the names that its strongest right vectors answer to: those whose keys k have the largest |v . k| / |k|.

A left vector is what the edit adds to the residual stream, a right vector is what it waits for (Meng et al. 2022).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kg_common.progress import Bar
from kg_edit.locate_then_edit.states import subject_states
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.loading import load_tokenizer
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import Factors, WeightPatch
from kg_edit.ship.checkpoint.extraction import Difference, changed_tensors, is_above_rounding, split, split_difference
from kg_edit.ship.checkpoint.stored import Checkpoint

SHOWN = 5  # tokens, and names, of a weight
_TEMPLATE = "{} is"  # names are read in a text, where their keys are those of an edit's prompts


@dataclass(frozen=True, eq=False, kw_only=True)
class Finding:
    """One tensor that differs from the base.

    Attributes:
        name: of the weight.
        shape: of the weight.
        rank: of the difference, above the rounding; None for a tensor that is no matrix.
        norm: of the difference.
        left_over: norm of what the ledger does not explain; None without a ledger.
        left_over_rank: its rank above the rounding; 0: the ledger explains the difference.
        writes: the tokens that the strongest left vector writes, of either sign; () if it does not write tokens.
        answers_to: of the names that were given, those to which the right vectors answer, the strongest first.
    """

    name: str
    shape: tuple[int, ...]
    rank: int | None
    norm: float
    left_over: float | None = None
    left_over_rank: int | None = None
    writes: tuple[str, ...] = ()
    answers_to: tuple[str, ...] = ()

    @property
    def is_explained(self) -> bool:
        """Whether the ledger has the whole difference, up to rounding."""
        return self.left_over_rank == 0


@torch.no_grad()
def audit(
    base: Checkpoint,
    edited: Checkpoint,
    *,
    ledger: Patch | None = None,
    names: Sequence[str] = (),
    model: LanguageModel | None = None,
    progress: bool = True,
) -> tuple[Finding, ...]:
    """Return what differs between two checkpoints of one model.

    Args:
        base: the checkpoint of the unedited model.
        edited: the checkpoint to audit.
        ledger: the patch that the checkpoint should have in its weights; None: nothing is explained.
        names: things, such as subjects of edits, whose keys are compared with the right vectors.
        model: the unedited model, which reads the names' keys; only needed for ``names``.
        progress: show a bar of the tensors.

    Returns:
        A finding for each tensor that differs, in the model's order; () if none does.

    Raises:
        PatchMismatchError: the checkpoints are of two models.
    """
    explained = ledger.factors if isinstance(ledger, WeightPatch) else {}
    unembedding = _unembedding(base)
    tokenizer = load_tokenizer(str(base.folder))
    findings = []
    tensors = changed_tensors(base, edited)
    for name, before, after in Bar(tensors, title="audit", unit="tensor", shown=progress):
        if before.dim() != 2:
            norm = float((after.double() - before.double()).norm())
            findings.append(Finding(name=name, shape=tuple(before.shape), rank=None, norm=norm))
            continue
        difference = split(name, before, after)
        left_over = left_over_rank = None
        if ledger is not None:
            left_over, left_over_rank = what_is_left(before, after, explained.get(name), noise=difference.noise)
        writes: tuple[str, ...] = ()
        if before.shape[0] == unembedding.shape[1]:
            writes = tuple(str(tokenizer.decode([token])) for token in written_tokens(difference, unembedding))
        answers_to: tuple[str, ...] = ()
        if names and model is not None:
            answers_to = _answers_to(difference, names, model)
        findings.append(
            Finding(
                name=name,
                shape=tuple(before.shape),
                rank=difference.factors.rank,
                norm=difference.norm,
                left_over=left_over,
                left_over_rank=left_over_rank,
                writes=writes,
                answers_to=answers_to,
            )
        )
    return tuple(findings)


def what_is_left(before: Tensor, after: Tensor, explained: Factors | None, *, noise: float) -> tuple[float, int]:
    """Return the norm and the rank of W' - W - P, P what the ledger changes; what rounding explains has no rank.

    ``noise`` is that of the whole difference, as W' was rounded once.
    """
    rest = after.double() - before.double()
    if explained is not None:
        rest -= explained.left.double() @ explained.right.double().T
    if not rest.any():
        return 0.0, 0
    left_over = split_difference("", rest, noise=noise)
    rank = left_over.factors.rank if is_above_rounding(left_over) else 0
    return left_over.norm, rank


def written_tokens(difference: Difference, unembedding: Tensor) -> list[int]:
    """Return the ids of the tokens with the largest |U u| for the strongest left vector u [d] of a difference."""
    logits = unembedding.float() @ difference.factors.left[:, 0]  # [vocabulary]
    return [int(token) for token in logits.abs().topk(SHOWN).indices]


def _unembedding(base: Checkpoint) -> Tensor:
    """Return the rows by which a state becomes logits, [vocabulary, d]; tied models store the embedding alone."""
    head = base.modules.get_output_embeddings()  # type: ignore[operator]
    name = next(name for name, parameter in base.modules.named_parameters() if parameter is head.weight)
    return base.find(name).read()


def _answers_to(difference: Difference, names: Sequence[str], model: LanguageModel) -> tuple[str, ...]:
    """Return the names with the largest |v . k| / |k|, v the right vectors, if the weight is a down-projection."""
    layers: Mapping[str, int] = {model.weight_name(layer): layer for layer in range(len(model.blocks))}
    layer = layers.get(difference.name)
    if layer is None:
        return ()
    prompts = [model.encode_fact(_TEMPLATE, subject=name) for name in names]
    keys, _ = subject_states(model, prompts, layer=layer, last=layer)  # [names, d_ff]
    directions = torch.nn.functional.normalize(keys, dim=1)
    responses = (directions @ difference.factors.right.to(keys)).norm(dim=1)  # [names]
    order = responses.argsort(descending=True)[:SHOWN]
    return tuple(names[int(index)] for index in order)
