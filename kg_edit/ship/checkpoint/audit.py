"""Audit an edited checkpoint: which weights differ from the base, how, and whether a ledger explains it.

Of each weight that differs, D = W' - W:

- its rank above the rounding of the weight's type, and its norm (`extraction.split`);
- what a ledger's patch P leaves of it: the rank and the norm of D - P;
- the tokens that its strongest left vector writes: the largest entries of U u, U the unembedding;
- the names that its strongest right vectors answer to: those whose keys k have the largest |v . k| / |k|.

A left vector is what the edit adds to the residual stream, and a right vector is the key to which it does so (Meng et
al. 2022).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from kg_edit.locate_then_edit.states import subject_states
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.loading import load_tokenizer
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
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
        rank: of the difference, above the rounding; None for a tensor that is not a matrix.
        norm: of the difference.
        left_over: norm of what the ledger does not explain; None without a ledger.
        left_over_rank: its rank above the rounding; 0: the ledger explains the difference.
        writes: the tokens that the strongest left vector writes, of either sign; () if the weight does not write into
            the residual stream.
        answers_to: those of the names to which the right vectors answer, the strongest first.
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
    unembedding = read_unembedding(base)
    tokenizer = load_tokenizer(str(base.folder))
    findings = []
    for name, before, after in changed_tensors(base, edited, title="audit", progress=progress):
        if before.dim() != 2:
            norm = float((after.double() - before.double()).norm())
            findings.append(Finding(name=name, shape=tuple(before.shape), rank=None, norm=norm))
            continue
        difference = split(name, before, after)
        finding = Finding(name=name, shape=tuple(before.shape), rank=difference.factors.rank, norm=difference.norm)
        if ledger is not None:
            explained = _find_change(ledger, name)
            left_over, rank = measure_rest(before, after, explained, noise=difference.noise)
            finding = replace(finding, left_over=left_over, left_over_rank=rank)
        if before.shape[0] == unembedding.shape[1]:  # a row for each number of the residual stream
            strongest = difference.factors.left[:, 0]
            finding = replace(finding, writes=name_tokens(strongest, unembedding, tokenizer))
        if names and model is not None:
            finding = replace(finding, answers_to=_find_answering_names(difference, names, model))
        findings.append(finding)
    return tuple(findings)


def _find_change(ledger: Patch, weight: str) -> Factors | None:
    """Return what a ledger's patch changes in a weight; None if it changes nothing there."""
    if not isinstance(ledger, WeightPatch):
        return None
    return ledger.factors.get(weight)


def measure_rest(before: Tensor, after: Tensor, explained: Factors | None, *, noise: float) -> tuple[float, int]:
    """Return the norm and the rank of W' - W - P [out, in], where P = left right^T is what the ledger changes.

    The rank is 0 if rounding explains the rest. ``noise`` is that of the whole difference, because W' was rounded once.
    """
    rest = after.double() - before.double()
    if explained is not None:
        # In float32, as a merge computes it: the product of many edits is rounded by more than one unit.
        rest -= explained.float32_on(rest.device).product.double()
    if not rest.any():
        return 0.0, 0
    left_over = split_difference("", rest, noise=noise)  # its name is not read
    rank = 0
    if is_above_rounding(left_over):
        rank = left_over.factors.rank
    return left_over.norm, rank


def name_tokens(left: Tensor, unembedding: Tensor, tokenizer: PreTrainedTokenizerBase) -> tuple[str, ...]:
    """Return the tokens with the largest |U u| for a left vector u [d]."""
    logits = unembedding.float() @ left  # [vocabulary]
    tokens = logits.abs().topk(SHOWN).indices.tolist()
    return tuple(str(tokenizer.decode([token])) for token in tokens)


def read_unembedding(base: Checkpoint) -> Tensor:
    """Return the matrix that makes logits of a state, [vocabulary, d]."""
    head = base.modules.get_output_embeddings()  # type: ignore[operator]
    # A model with tied embeddings lists one parameter for both, under the name of the embedding.
    names = {id(parameter): name for name, parameter in base.modules.named_parameters()}
    return base.find(names[id(head.weight)]).read()


def _find_answering_names(difference: Difference, names: Sequence[str], model: LanguageModel) -> tuple[str, ...]:
    """Return the names whose keys k have the largest |V^T k| / |k|; () if the weight is not a down-projection.

    V [d_ff, rank] are the difference's right vectors.
    """
    layers = {model.weight_name(layer): layer for layer in range(len(model.blocks))}
    layer = layers.get(difference.name)
    if layer is None:
        return ()
    prompts = [model.encode_fact(_TEMPLATE, subject=name) for name in names]
    keys, _ = subject_states(model, prompts, layer=layer, last=layer)  # [names, d_ff]
    directions = torch.nn.functional.normalize(keys, dim=1)
    responses = (directions @ difference.factors.right.to(keys)).norm(dim=1)  # [names]
    order = responses.argsort(descending=True)[:SHOWN]
    return tuple(names[int(index)] for index in order)
