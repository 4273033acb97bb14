"""The training of SERAC's scope classifier and counterfactual model (Mitchell et al., ICML 2022, arXiv 2206.06520).

    L = L_scope + L_edit

L_scope is the cross-entropy of g for texts inside and outside an edit's scope; both sides have the same weight. The
outside loss is the mean of two parts: each edit's own outside texts, and the texts of other edits or of no edit. L_edit
is -log p of the new target by the counterfactual model, which reads the fact before the prompt. As published, both
models share no parameters. One run trains both, and keeps the network with the lowest L on the held-out edits.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from kg_edit.edits.edit import Edit
from kg_edit.edits.record import BenchmarkRecord
from kg_edit.engine.prefix_cache import base_model
from kg_edit.errors import ConfigError, ModelError, PromptError
from kg_edit.models.hooks import watched
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt, encode, left_pad
from kg_edit.zoo.mend.gradients import weight_shapes
from kg_edit.zoo.serac.examples import ExampleOrder, Question, ScopeRows
from kg_edit.zoo.serac.network import (
    FORMAT,
    SeracManifest,
    SeracNetwork,
    SeracTraining,
    Validation,
    block_weights,
    counterfactual,
    default_layer,
    text_states,
)
from kg_edit.zoo.serac.patch import ScopeRule
from kg_edit.zoo.serac.special_token import Marker, find_marker
from kg_edit.zoo.trained.edits import digest_of, training_edits
from kg_edit.zoo.trained.training import CHECKPOINT_SECONDS, Progress, State, TrainingRun, run_training

_SCALES_RATE = 0.05  # learning rate of the scope's scales and offsets; it is larger, because these are far from 1
_EVEN, _CERTAIN = math.log(0.5), -1e-6  # log g of 1/2, and the largest log g that counts


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

    The arguments and errors are those of `kg_edit.zoo.mend.training.train`; a tokenizer without a token for a
    marker is a ConfigError too.
    """
    layer = default_layer(len(model.blocks)) if settings.layer is None else settings.layer
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
    return run_training(
        model,
        manifest,
        out,
        lambda path: _Run(model, ExampleOrder.of(model, edits, settings), manifest, path),
        format=FORMAT,
        progress=progress,
        checkpoint_seconds=checkpoint_seconds,
    )


class _Run(TrainingRun[Validation]):
    name = "serac"

    def __init__(self, model: LanguageModel, order: ExampleOrder, manifest: SeracManifest, path: Path) -> None:
        self._model, self._order, self._batch = model, order, manifest.training.batch
        self._network = manifest.network().to(model.device)
        self._states = States(model, manifest.layer)
        self._marker = find_marker(model.tokenizer, name=model.name)
        network, settings = self._network, manifest.training
        held_out = order.held_out_questions()
        self._asked = [question for question in held_out if encoded(model, self._marker, question)]
        if not self._asked:
            raise ConfigError(
                f"none of the {len(held_out)} held-out edits can be asked: their target's first token merges with the "
                "prompt's end, or they are longer than the model's positions; give other edits, or take another model"
            )
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
        scope = scope_scores(self._network, self._states, self._order.scope_rows(step)).loss
        edit = answer_loss(self._model, self._network, self._marker, self._order.questions(step))
        loss = scope + edit
        self.check_loss(float(loss.detach()))
        loss.backward()
        return {"scope": f"{scope:.3f}", "edit": f"{edit:.2f}"}

    @torch.no_grad()
    def validation(self, step: int) -> Validation:
        # Means over the held-out edits: batches count by their sizes.
        batches = list(self._order.held_out_rows())
        batch_scores = [scope_scores(self._network, self._states, rows) for rows in batches]
        sizes = torch.tensor([float(len(rows.edits)) for rows in batches])
        scores = torch.tensor([[float(score.loss), score.inside, score.outside] for score in batch_scores])
        loss, inside, outside = ((sizes @ scores) / sizes.sum()).tolist()
        edit = 0.0
        for start in range(0, len(self._asked), self._batch):
            part = self._asked[start : start + self._batch]
            edit += len(part) * float(answer_loss(self._model, self._network, self._marker, part))
        edit /= len(self._asked)
        return Validation(step=step, total=loss + edit, scope=loss, edit=edit, inside=inside, outside=outside)


class States:
    """A cache of the hidden states of texts after one block; each text runs once, in a pass of its own.

    They are kept in main memory: a training reads tens of thousands of texts, and a step compares few of them.
    """

    def __init__(self, model: LanguageModel, layer: int) -> None:
        self._model, self._layer = model, layer
        self._known: dict[str, Tensor] = {}

    def of(self, texts: Sequence[str]) -> list[Tensor]:
        """Return the states [tokens, d] of each text, as `text_states`."""
        for text in texts:
            if text not in self._known:
                self._known[text] = text_states(self._model, text, self._layer).cpu()
        return [self._known[text].to(self._model.device) for text in texts]  # where the network is


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


def scope_scores(network: SeracNetwork, states: States, rows: ScopeRows) -> ScopeScores:
    """Return the loss and the accuracy of the classifier, as a function of the network.

    Args:
        network: the classifier's parameters get a gradient.
        states: of the model.
        rows: edits, with texts inside and outside their scopes.
    """
    scope, near = network.scope, rows.outside
    edits = scope.padded_vectors(states.of([edit.text for edit in rows.edits]))
    texts = scope.padded_vectors(states.of([*rows.inside, *(text for _, text in near), *rows.texts]))
    chances = scope.log_chances(edits, texts)  # log g, [edits, texts]
    own = chances[:, : len(rows.edits)].diagonal()  # each edit's inside text
    theirs = chances[[owner for owner, _ in near], torch.arange(len(near)) + len(rows.edits)]  # its outside texts

    # far: the pairs of an edit and a text of another edit, or of none, that is certainly out of its scope
    owners: list[tuple[int | None, str]] = [*enumerate(rows.inside), *near, *((None, text) for text in rows.texts)]
    mask = [[rows.is_outside(edit, text, owner) for owner, text in owners] for edit in range(len(rows.edits))]
    far = chances[torch.tensor(mask, device=chances.device)]

    # -log(1 - g) from log g, clamped slightly below 0
    losses = [-torch.log(-torch.expm1(part.clamp(max=_CERTAIN))).mean() for part in (theirs, far) if len(part)]
    outside = torch.stack(losses).mean() if losses else chances.new_zeros(())
    return ScopeScores(
        loss=(outside - own.mean()) / 2,
        inside=float((own >= _EVEN).float().mean()),
        outside=float((theirs < _EVEN).float().mean()) if len(theirs) else 1.0,
    )


def encoded(model: LanguageModel, marker: Marker, question: Question) -> Prompt | None:
    """Return the row that the counterfactual model reads.

    None if the target's first token merges with the end of the prompt, or if the row is longer than the model's
    positions.
    """
    rule = ScopeRule(network="", layer=0, marker=marker.id, marker_text=marker.text)
    with suppress(PromptError, ModelError):
        text = rule.prompt(question.fact, question.prompt.rstrip())
        prompt = encode(model.tokenizer, text, target=question.target)
        model.check_length(prompt)
        return prompt
    return None


def answer_loss(model: LanguageModel, network: SeracNetwork, marker: Marker, questions: Sequence[Question]) -> Tensor:
    """Return the mean over ``questions`` of the mean -log p of a target's tokens, by the counterfactual model.

    Questions that can't be `encoded` are left out.

    Args:
        model: the model f.
        network: its changes get a gradient.
        marker: is put before the fact.
        questions: facts with prompts in their scope, and targets.
    """
    prompts = [prompt for question in questions if (prompt := encoded(model, marker, question))]
    if not prompts:
        return torch.zeros((), device=model.device)
    batch, final = left_pad([prompt.ids for prompt in prompts], device=model.device), list[Tensor]()
    with (
        counterfactual(model, marker.id, network.changes),
        watched(model.blocks[-1], lambda _, output: final.append(output)),
    ):
        base_model(model)(input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False)
    losses = []
    for row, prompt in zip(final[0], prompts, strict=True):  # [tokens, d]; left-padded, so the target is at the end
        logits = model.logits(row[-len(prompt.target_ids) - 1 : -1]).float()
        losses.append(cross_entropy(logits, torch.tensor(prompt.target_ids, device=logits.device)))
    return torch.stack(losses).mean()
