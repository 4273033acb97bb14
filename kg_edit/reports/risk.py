"""What an edit will reach besides its fact, predicted before it is made: from keys alone, without a descent.

A closed form adds (m*_i - m_i) u_i^T to W, scaled so that the own key k_i gets the whole change (ROME's Eq. 2). At
another token, with the key n, it adds the same change times

    share = |u_i . n| / |u_i . k_i|

The direction u_i = C^-1 k_i (of a batch: a column of `JointMethod.directions`) is known as soon as the keys are. So
`predict_risks` reads the keys of the edits and of other prompts, and solves; it finds no value m*.

The share does not say how long the change is, nor whether the model's answer depends on that token.
`studies/risk.py` measures how well it predicts what changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kg_edit.covariance.moment import OtherKeys
from kg_edit.edits.edit import Edit
from kg_edit.engine.replay import block_output
from kg_edit.errors import ConfigError
from kg_edit.locate_then_edit.joint import fact_key
from kg_edit.locate_then_edit.objective import Request
from kg_edit.locate_then_edit.states import OtherTokens, other_keys, subject_states
from kg_edit.methods.base import EditingMethod
from kg_edit.methods.memit.joint_method import JointMethod
from kg_edit.methods.rome.method import RankOneMethod
from kg_edit.models.devices import exact
from kg_edit.models.hooks import keep_untouched, record_last_call
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, left_pad, split_passes
from kg_edit.reports.prompts import AskedPrompt, join_repeats, own_prompts, unrelated_prompts
from kg_edit.text.display import plain

if TYPE_CHECKING:
    from rich.table import Table

_ROWS = 64  # prompts of a pass
_TOKENS = 2048  # tokens of a pass, padding included


@dataclass(frozen=True, kw_only=True)
class Reach:
    """How much of an edit's change arrives at another prompt.

    Attributes:
        text: the prompt.
        edit: the id of the other edit whose prompt it is; "" for a prompt that should stay.
        token: the token at which the most arrives; if the prompt is that of another edit, the other edit's subject.
        share: the change there, as a part of the change at the edit's own key; in the layer where it is largest.
    """

    text: str
    edit: str = ""
    token: str
    share: float


@dataclass(frozen=True, kw_only=True)
class EditRisk:
    """What one edit will reach.

    Attributes:
        edit: the edit.
        prompts: the prompts that should stay, those that get the most first.
        edits: the edits about other subjects, those that get the most first.
        same_subject: the ids of the other edits about the same subject, whose prompts share its key.
    """

    edit: Edit
    prompts: tuple[Reach, ...]
    edits: tuple[Reach, ...]
    same_subject: tuple[str, ...]

    @property
    def largest(self) -> float:
        """The largest share of all; 0 if there is nothing that it could reach."""
        return max((reach.share for reach in (*self.prompts, *self.edits)), default=0.0)


def predict_risks(
    method: EditingMethod, edits: Sequence[Edit], prompts: Iterable[AskedPrompt] | None = None
) -> tuple[EditRisk, ...]:
    """Predict what each edit will reach; the model is not changed.

    Args:
        method: a method that writes values under keys, such as ROME, GLAME or MEMIT. A joint method's edits are taken
            as one batch.
        edits: the edits, in the form in which they would be made.
        prompts: the prompts that should stay; by default the edits' own locality prompts, and unrelated ones.

    Raises:
        ConfigError: the method writes no values under keys.
    """
    if not isinstance(method, RankOneMethod | JointMethod):
        raise ConfigError(
            f"what {method.name} will reach can't be predicted, because it writes no values under keys; choose rome, "
            "r-rome, glame, memit, emmet or alphaedit"
        )
    if prompts is None:
        prompts = (*own_prompts(edits), *unrelated_prompts(edits))
    asked = join_repeats(prompts)
    encoded = [method.model.encode(prompt.text, chat=prompt.chat) for prompt in asked]
    shares = _compute_shares(method, edits, encoded)
    risks = []
    for index, edit in enumerate(edits):
        same_subject = [other.id for other in edits if other.subject == edit.subject and other.id != edit.id]
        risk = EditRisk(
            edit=edit,
            prompts=_reach_prompts(method.model, asked, encoded, shares, index),
            edits=_reach_edits(edits, shares, index),
            same_subject=tuple(same_subject),
        )
        risks.append(risk)
    return tuple(risks)


@dataclass(frozen=True, eq=False, kw_only=True)
class _Shares:
    """The shares of each edit's change that arrive elsewhere, each the largest of all layers; row i is of edit i.

    Attributes:
        at_edits: at the key of edit j, [edits, edits].
        at_prompts: at the token of prompt j that gets the most, [edits, prompts].
        places: the places of these tokens in their prompts, [edits, prompts].
    """

    at_edits: Tensor
    at_prompts: Tensor
    places: Tensor


def _reach_prompts(
    model: LanguageModel, asked: Sequence[AskedPrompt], encoded: Sequence[Prompt], shares: _Shares, index: int
) -> tuple[Reach, ...]:
    """Return how much of the change of the edit ``index`` arrives at each prompt, the largest share first."""
    reaches = []
    for number, (prompt, encoded_prompt) in enumerate(zip(asked, encoded, strict=True)):
        place = int(shares.places[index, number])
        token_id = encoded_prompt.ids[place]
        token = str(model.tokenizer.decode([token_id]))
        share = float(shares.at_prompts[index, number])
        reaches.append(Reach(text=prompt.text, token=token, share=share))
    return _sort_by_share(reaches)


def _reach_edits(edits: Sequence[Edit], shares: _Shares, index: int) -> tuple[Reach, ...]:
    """Return how much of the change of the edit ``index`` arrives at each edit of another subject, largest first."""
    reaches = []
    for number, other in enumerate(edits):
        if other.subject != edits[index].subject:
            share = float(shares.at_edits[index, number])
            reaches.append(Reach(text=other.text, edit=other.id, token=other.subject, share=share))
    return _sort_by_share(reaches)


def _sort_by_share(reaches: Iterable[Reach]) -> tuple[Reach, ...]:
    """Return those that get the most first."""
    return tuple(sorted(reaches, key=lambda reach: reach.share, reverse=True))


def _compute_shares(method: RankOneMethod | JointMethod, edits: Sequence[Edit], prompts: Sequence[Prompt]) -> _Shares:
    """Return |u_i . n| / |u_i . k_i| of each edit i, at the keys n of all edits and of the tokens of all prompts."""
    model = method.model
    at_edits = torch.zeros(len(edits), len(edits), dtype=torch.float64)
    at_prompts = torch.zeros(len(edits), len(prompts), dtype=torch.float64)
    places = torch.zeros(len(edits), len(prompts), dtype=torch.long)
    with keep_untouched(model), torch.no_grad():
        requests = [Request.of(model, edit, method.contexts) for edit in edits]
        for layer in method.layers:
            keys, directions = _keys_and_directions(method, requests, layer)  # [edits, d_ff], [d_ff, edits]
            scaled = directions / (keys * directions.T).sum(1)  # u_i / (u_i . k_i), [d_ff, edits]
            # [j, i], the edit i at the key of the edit j, becomes [i, j]
            at_edits = torch.maximum(at_edits, (keys @ scaled).T.abs().cpu())
            for number, token_keys in enumerate(_keys_of_prompts(model, prompts, layer)):  # in the order of the prompts
                token_shares = (token_keys.to(scaled) @ scaled).abs().cpu()  # [tokens, edits]
                most, place = token_shares.max(0)  # [edits] both
                is_larger = most > at_prompts[:, number]  # for which edits it is more than in earlier layers, [edits]
                at_prompts[is_larger, number] = most[is_larger]
                places[is_larger, number] = place[is_larger]
    return _Shares(at_edits=at_edits, at_prompts=at_prompts, places=places)


def _keys_and_directions(
    method: RankOneMethod | JointMethod, requests: Sequence[Request], layer: int
) -> tuple[Tensor, Tensor]:
    """Return the keys k of the bare prompts [edits, d_ff], and the directions U [d_ff, edits], in float64.

    The ``rewrites`` of a request are the edit's prompt with its target in every context; the first one is bare.
    """
    rows = list(chain.from_iterable(request.rewrites for request in requests))
    counts = [len(request.rewrites) for request in requests]
    row_keys, _ = subject_states(method.model, rows, layer=layer, last=layer)  # the states after the block aren't used
    by_edit = row_keys.split(counts)  # [contexts, d_ff] of each edit
    bare = exact(torch.stack([keys[0] for keys in by_edit]))
    if isinstance(method, JointMethod):
        directions = _joint_directions(method, requests, by_edit, layer)
    else:
        directions = _single_directions(method, requests, by_edit, layer)
    return bare.to(directions), directions


def _joint_directions(
    method: JointMethod, requests: Sequence[Request], by_edit: Sequence[Tensor], layer: int
) -> Tensor:
    """Return the directions of a batch, [d_ff, edits], from the keys of each edit [contexts, d_ff].

    ``protected`` is None, as the batch is the first one on the unedited model: no earlier edits have to be protected.
    """
    # `fact_key` joins the keys of an edit's contexts into the one key that the method writes under
    batch = torch.stack([fact_key(keys) for keys in by_edit], 1)  # K, [d_ff, edits]
    others = requests if method.config.hold else ()  # with ``hold``, the prompts' other tokens keep their outputs
    # memory=0.0: one layer alone is read, so no states are kept for a higher one.
    held = OtherTokens(method.model, others, [layer], memory=0.0).at(layer)
    return method.directions(layer, exact(batch), others=held, protected=None)


def _single_directions(
    method: RankOneMethod, requests: Sequence[Request], by_edit: Sequence[Tensor], layer: int
) -> Tensor:
    """Return the direction u = C^-1 k of each edit, [d_ff, edits], from its keys [contexts, d_ff]."""
    columns = []
    for request, keys in zip(requests, by_edit, strict=True):
        held = OtherKeys.none(keys.shape[1], keys.device)
        if method.config.hold:  # a weight: the prompt's other tokens keep their outputs
            held = held.plus(other_keys(method.model, request.rewrites, layer))
        columns.append(method.covariance.solve(keys.mean(0), others=held, weight=method.config.hold))
    return torch.stack(columns, 1)


def _keys_of_prompts(model: LanguageModel, prompts: Sequence[Prompt], layer: int) -> Iterator[Tensor]:
    """Yield the keys of each prompt's tokens in a layer, [tokens, d_ff] in float64, in the order of the prompts.

    Blocks above the layer do not run.
    """
    for part in split_passes([len(prompt.ids) for prompt in prompts], rows=_ROWS, tokens=_TOKENS):
        rows = [prompts[index].ids for index in part]
        batch = left_pad(rows, device=model.device)
        with record_last_call(model.down_projection(layer)) as call:
            block_output(model, batch, layer)
        padded = call.input.reshape(len(rows), -1, call.input.shape[-1])  # [rows, longest, d_ff]
        for row, keys in zip(rows, padded, strict=True):
            yield exact(keys[len(keys) - len(row) :])  # without the padding on the left


def refuse_risky(risks: Iterable[EditRisk], *, most: float) -> None:
    """Check that no edit gives more than a share ``most`` of its change to anything else.

    Raises:
        ConfigError: an edit does; the message names the first one and what it would reach.
    """
    risky = [risk for risk in risks if risk.largest > most]
    if not risky:
        return
    first = risky[0]
    reach = max((*first.prompts, *first.edits), key=lambda reach: reach.share)
    raise ConfigError(
        f"{len(risky)} of the edits would reach further than {most:g}: edit {first.edit.id!r} would give "
        f"{reach.share:.2f} of its change to {reach.text!r} (at {reach.token!r}); leave them out, choose another layer "
        "(--layer auto), or raise the limit"
    )


def risk_table(risks: Iterable[EditRisk]) -> Table:
    """Return the table of the terminal: for each edit the prompt and the edit that get the most of its change."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("edit", overflow="fold")
    for kind in ("unrelated prompt", "edit"):
        table.add_column("share", overflow="fold", justify="right")
        table.add_column(f"{kind} that gets the most", overflow="fold")
    table.add_column("same subject", overflow="fold")
    for risk in risks:
        table.add_row(
            plain(risk.edit.id),
            *_largest_in_words(risk.prompts),
            *_largest_in_words(risk.edits),
            plain(", ".join(risk.same_subject)),
        )
    return table


def _largest_in_words(reaches: Sequence[Reach]) -> tuple[str, str]:
    """Return the largest share and where it arrives; the first of ``reaches`` has it."""
    if not reaches:
        return "", ""
    largest = reaches[0]
    return f"{largest.share:.2f}", plain(f"{largest.text} (at {largest.token.strip()!r})")
