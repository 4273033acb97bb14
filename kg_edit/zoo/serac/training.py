"""The training of SERAC's scope classifier and counterfactual model (Mitchell et al., ICML 2022, arXiv 2206.06520).

    L       = L_scope + L_edit
    L_scope = 1/2 mean of -log g(z, x) for x in the scope of z  +  1/2 mean of -log(1 - g(z, x)) for x outside of it
    L_edit  = mean of -log p_h(target | fact, prompt)

g is the scope classifier, z an edit's prompt, and h the counterfactual model, which reads the edit's fact before a
prompt in its scope. The outside loss is itself the mean of two parts: each edit's own outside texts, and the texts of
other edits or of no edit. As published, g and h share no parameters. One run trains both, and keeps the network with
the lowest L on the held-out edits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.engine.prefix_cache import base_model
from kg_edit.errors import ConfigError, ModelError, PromptError
from kg_edit.models.hooks import watch
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, encode, left_pad
from kg_edit.zoo.mend.gradients import weight_shapes
from kg_edit.zoo.serac.counterfactual import block_weights, change_after_marker
from kg_edit.zoo.serac.examples import ExampleOrder, Question, ScopeRows
from kg_edit.zoo.serac.network import FORMAT, SeracManifest, SeracNetwork, SeracTraining, Validation, default_layer
from kg_edit.zoo.serac.patch import ScopeRule
from kg_edit.zoo.serac.scope import text_states
from kg_edit.zoo.serac.special_token import Marker, find_marker
from kg_edit.zoo.trained.edits import digest_of, training_edits
from kg_edit.zoo.trained.training import CHECKPOINT_SECONDS, Progress, State, TrainingRun, run_training

_SCALES_RATE = 0.05  # learning rate of the scope's scales and offsets; it is larger, because these are far from 1
_EVEN = math.log(0.5)  # log g from which a text is classified as inside
_LARGEST = -1e-6  # the largest log g that counts: with 0, -log(1 - g) would be infinite


def train(
    model: LanguageModel,
    edits: Sequence[Edit | BenchmarkRecord],
    settings: SeracTraining,
    out: Path,
    *,
    progress: bool = True,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> SeracManifest:
    """Train the classifier and the counterfactual model for ``model`` on ``edits``; write both to the folder ``out``.

    The arguments are those of `kg_edit.zoo.mend.training.train`.
    """
    layer = settings.layer
    if layer is None:
        layer = default_layer(len(model.blocks))
    model.block(layer)  # raises early if the model has no such layer
    manifest = SeracManifest(
        model=model.fingerprint,
        model_name=model.name,
        width=model.width,
        layer=layer,
        shapes=weight_shapes(model, block_weights(model, settings.blocks)),
        training=settings,
        edits=digest_of(training_edits(edits)),
    )

    def start(checkpoint: Path) -> SeracRun:
        return SeracRun(model, ExampleOrder.of(model, edits, settings), manifest, checkpoint)

    return run_training(
        model,
        manifest,
        out,
        start,
        format=FORMAT,
        progress=progress,
        checkpoint_seconds=checkpoint_seconds,
    )


class SeracRun(TrainingRun[Validation]):
    """One run: the step's loss, and the validation."""

    name = "serac"

    def __init__(self, model: LanguageModel, order: ExampleOrder, manifest: SeracManifest, path: Path) -> None:
        settings = manifest.training
        self._model = model
        self._order = order
        self._batch = settings.batch
        self._states = StateCache(model, manifest.layer)
        self._marker = find_marker(model.tokenizer, name=model.name)
        held_out = order.held_out_questions()
        self._questions = [question for question in held_out if encode_question(model, self._marker, question)]
        if not self._questions:
            raise ConfigError(
                f"none of the {len(held_out)} held-out edits can be asked: their target's first token merges with the "
                "prompt's end, or they are longer than the model's positions; give other edits, or take another model"
            )
        network = manifest.build_network().to(model.device)
        self._network = network
        optimizer = torch.optim.Adam(
            [
                {"params": [network.project, network.weigh], "lr": settings.scope_learning_rate},
                {"params": [network.scale, network.offset], "lr": _SCALES_RATE},
                {"params": [*network.left, *network.right], "lr": settings.learning_rate},
            ]
        )
        state = State(format=FORMAT, network=network, optimizer=optimizer, progress=Progress[Validation]())
        super().__init__(state, settings, path, examples=len(order.examples))

    def backward(self, step: int) -> Mapping[str, str]:
        """Compute the gradient of L for a step's texts and questions."""
        scope = score_scopes(self._network, self._states, self._order.scope_rows(step)).loss
        edit = answer_loss(self._model, self._network, self._marker, self._order.questions(step))
        loss = scope + edit
        self.check_loss(float(loss.detach()))
        loss.backward()
        return {"scope": f"{scope:.3f}", "edit": f"{edit:.2f}"}

    @torch.no_grad()
    def validation(self, step: int) -> Validation:
        """Return the means over the held-out edits; batches count by their sizes."""
        sizes = list[float]()
        scores = list[tuple[float, float, float]]()
        for rows in self._order.held_out_rows():
            score = score_scopes(self._network, self._states, rows)
            sizes.append(float(len(rows.edits)))
            scores.append((float(score.loss), score.inside, score.outside))
        weights = torch.tensor(sizes)  # [batches]
        means = (weights @ torch.tensor(scores)) / weights.sum()  # [batches] [batches, 3] -> [3]
        scope, inside, outside = means.tolist()

        edit = 0.0
        for start in range(0, len(self._questions), self._batch):
            questions = self._questions[start : start + self._batch]
            edit += len(questions) * float(answer_loss(self._model, self._network, self._marker, questions))
        edit /= len(self._questions)
        return Validation(step=step, total=scope + edit, scope=scope, edit=edit, inside=inside, outside=outside)


class StateCache:
    """A cache of the hidden states of texts after one block; each text runs once, in a pass of its own.

    The states stay in main memory: a training reads tens of thousands of texts, and a step compares few of them.
    """

    def __init__(self, model: LanguageModel, layer: int) -> None:
        self._model = model
        self._layer = layer
        self._known = dict[str, Tensor]()

    def of(self, texts: Sequence[str]) -> list[Tensor]:
        """Return the states [tokens, d] of each text, as `text_states`."""
        for text in texts:
            if text not in self._known:
                self._known[text] = text_states(self._model, text, self._layer).cpu()
        return [self._known[text].to(self._model.device) for text in texts]  # the network's device


@dataclass(frozen=True, eq=False, kw_only=True)
class ScopeScores:
    """The result of the classifier.

    Attributes:
        loss: L_scope.
        inside: share of inside texts that are classified as inside.
        outside: share of the edits' own outside texts that are classified as outside.
    """

    loss: Tensor
    inside: float
    outside: float


def score_scopes(network: SeracNetwork, states: StateCache, rows: ScopeRows) -> ScopeScores:
    """Return the loss and the accuracy of the classifier, as a function of the network.

    Args:
        network: the classifier's parameters get a gradient.
        states: of the model.
        rows: edits, with texts inside and outside their scopes.
    """
    inside, outside, far = _compare_scopes(network, states, rows)
    # The outside loss is the mean of its two parts, of those that have texts.
    outside_losses = [-log_complement(part).mean() for part in (outside, far) if len(part)]
    outside_loss = inside.new_zeros(())
    if outside_losses:
        outside_loss = torch.stack(outside_losses).mean()
    share_outside = 1.0  # if there are no outside texts
    if len(outside):
        share_outside = float((outside < _EVEN).float().mean())
    return ScopeScores(
        loss=(outside_loss - inside.mean()) / 2,
        inside=float((inside >= _EVEN).float().mean()),
        outside=share_outside,
    )


class _LogChances(NamedTuple):
    """log g(z, x) of pairs of an edit z and a text x, in three groups; each is [pairs]."""

    inside: Tensor  # an edit and its inside text
    outside: Tensor  # an edit and one of its own outside texts
    far: Tensor  # an edit and a text of another edit, or of none, that is surely out of its scope


def _compare_scopes(network: SeracNetwork, states: StateCache, rows: ScopeRows) -> _LogChances:
    """Return log g of all pairs that the loss compares."""
    scope = network.scope
    # The columns of ``log_chances``: first the inside text of each edit, then the outside texts, then the other texts.
    count = len(rows.edits)
    outside_owners = [owner for owner, _ in rows.outside]  # the edit of each outside text
    outside_texts = [text for _, text in rows.outside]
    texts = [*rows.inside, *outside_texts, *rows.texts]
    owners: list[int | None] = [*range(count), *outside_owners]  # the edit of each text
    owners += [None] * len(rows.texts)

    edit_vectors = scope.padded_vectors(states.of([edit.text for edit in rows.edits]))
    text_vectors = scope.padded_vectors(states.of(texts))
    log_chances = scope.log_chances(edit_vectors, text_vectors)  # log g, [edits, texts]

    outside_columns = count + torch.arange(len(outside_texts))
    is_far = _find_far_pairs(rows, texts, owners).to(log_chances.device)  # [edits, texts]
    return _LogChances(
        inside=log_chances[:, :count].diagonal(),  # edit i with text i
        outside=log_chances[outside_owners, outside_columns],  # each outside text with its edit
        far=log_chances[is_far],
    )


def _find_far_pairs(rows: ScopeRows, texts: Sequence[str], owners: Sequence[int | None]) -> Tensor:
    """Return whether a text is surely out of the scope of an edit, for each pair, [edits, texts].

    Args:
        rows: has the edits.
        texts: any texts.
        owners: for each text, the number of the edit for which it was drawn, or None.
    """
    is_far = list[list[bool]]()
    for edit_index in range(len(rows.edits)):
        of_edit = []
        for text, owner in zip(texts, owners, strict=True):
            of_edit.append(rows.is_surely_outside(text, edit_index=edit_index, drawn_for=owner))
        is_far.append(of_edit)
    return torch.tensor(is_far)


def log_complement(log_chances: Tensor) -> Tensor:
    """Return log(1 - g) from log g."""
    return torch.log(-torch.expm1(log_chances.clamp(max=_LARGEST)))


def encode_question(model: LanguageModel, marker: Marker, question: Question) -> Prompt | None:
    """Return the row that the counterfactual model reads.

    None if the target's first token merges with the end of the prompt, or if the row is longer than the model's
    positions.
    """
    # Only the form of the prompt is taken from this rule: network and layer don't matter for it.
    rule = ScopeRule(network="", layer=0, marker=marker.id, marker_text=marker.text)
    with suppress(PromptError, ModelError):
        text = rule.prompt(question.fact, question.prompt.rstrip())
        prompt = encode(model.tokenizer, text, target=question.target)
        model.check_length(prompt)
        return prompt
    return None


def answer_loss(model: LanguageModel, network: SeracNetwork, marker: Marker, questions: Sequence[Question]) -> Tensor:
    """Return the mean over ``questions`` of the mean -log p of a target's tokens, by the counterfactual model.

    Questions that can't be encoded (`encode_question`) are left out.

    Args:
        model: the model f.
        network: its changes get a gradient.
        marker: is put before the fact.
        questions: facts with prompts in their scope, and targets.
    """
    prompts = list[Prompt]()
    for question in questions:
        prompt = encode_question(model, marker, question)
        if prompt is not None:
            prompts.append(prompt)
    if not prompts:
        return torch.zeros((), device=model.device)

    batch = left_pad([prompt.ids for prompt in prompts], device=model.device)
    final = list[Tensor]()  # the last block's output, [rows, tokens, d]
    with (
        change_after_marker(model, marker.id, network.changes),
        watch(model.blocks[-1], lambda _, output: final.append(output)),
    ):
        base_model(model)(input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False)
    losses = list[Tensor]()
    for states, prompt in zip(final[0], prompts, strict=True):  # [tokens, d]
        # Rows are padded on the left, so the target is at the end, and each of its tokens is predicted one before it.
        predicting = states[-len(prompt.target_ids) - 1 : -1]
        logits = model.logits(predicting).float()  # [target tokens, vocabulary]
        losses.append(cross_entropy(logits, torch.tensor(prompt.target_ids, device=logits.device)))
    return torch.stack(losses).mean()
