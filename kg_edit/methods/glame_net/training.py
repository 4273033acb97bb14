"""The training of the `glame-net` network: AdamW on the loss of edits, each of which is made alone.

    L = mean over a batch of  L_p + kl_weight L_a + ripple_weight * mean over questions of -log p

The language model is frozen. `Objective.gradient` gives dL/d(m* - m) [edits, d] and runs only the tails of the rows;
backpropagation continues from there into the network. The clean states of a batch are cached for some visits. This
cache does not influence any number, so a run that was killed continues to the same result, bit for bit
(`kg_edit.methods.trained`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError, ModelError
from kg_edit.graphs.encoding import label_readings
from kg_edit.graphs.source import SubgraphSource, graph_identity
from kg_edit.locate_then_edit.objective import Objective, Request
from kg_edit.locate_then_edit.tail_forward import TailForward
from kg_edit.methods.glame_net.examples import Example, Visits, make_examples, split
from kg_edit.methods.glame_net.network import FORMAT, GraphBatch, NetManifest, NetTraining, Validation
from kg_edit.methods.trained.training import CHECKPOINT_SECONDS, Passes, Progress, State, TrainingRun, run_training
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prefix_cache import SharedContexts
from kg_edit.models.sampling import sample_contexts
from kg_edit.ripples.drawn import Excluded
from kg_edit.storage.run_folder import digest

_NOTHING = Excluded()


def train(
    model: LanguageModel,
    source: SubgraphSource,
    edits: Sequence[Edit],
    settings: NetTraining,
    out: Path,
    *,
    excluded: Excluded = _NOTHING,
    progress: bool = True,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> NetManifest:
    """Train a network for ``model``, and write the one with the best validation loss to the folder ``out``.

    Validation uses edits with held-out o*. Called again, an interrupted run continues, and a finished run does nothing.
    The model is unchanged.

    Args:
        model: the language model.
        source: the subgraphs of the edits.
        edits: the training edits.
        settings: the settings of the training.
        out: the folder.
        excluded: things that are neither read nor learned.
        progress: whether to show a progress bar.
        checkpoint_seconds: seconds between two checkpoints.

    Raises:
        ConfigError: there are too few edits, or the model has no such layer.
        ModelError: a loss is not finite, or the file of an interrupted run is damaged.
        OutputError: ``out`` contains another run, or can't be written.
    """
    manifest = NetManifest.of(
        model,
        settings,
        {
            "graph": graph_identity(source),
            "excluded": digest([sorted(excluded.ids), sorted(excluded.names)]),
            "edits": digest([edit.model_dump(mode="json", exclude_defaults=True) for edit in edits]),
        },
    )
    model.block(manifest.layer)  # raises early if the model has no such layer
    return run_training(
        model,
        manifest,
        out,
        lambda path: _Run(TrainingData.of(model, source, edits, settings, excluded=excluded), manifest, path),
        format=FORMAT,
        progress=progress,
        checkpoint_seconds=checkpoint_seconds,
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class TrainingData:
    """The inputs of a training run: the examples, their prompts, and the hidden states of the labels."""

    visits: Visits
    learned: list[Example]
    held_out: list[Example]
    readings: Mapping[str, Tensor]
    contexts: SharedContexts

    @classmethod
    def of(
        cls,
        model: LanguageModel,
        source: SubgraphSource,
        edits: Sequence[Edit],
        settings: NetTraining,
        *,
        excluded: Excluded,
    ) -> TrainingData:
        """Read the subgraphs of all edits, and compute the hidden states of their labels.

        Raises:
            ConfigError: there are too few edits.
        """
        contexts = sample_contexts(model, lengths=settings.context_lengths, seed=settings.seed)
        visits = Visits(model=model, settings=settings, contexts=contexts)
        usable = [
            edit
            for edit in edits
            if not excluded.has(edit.subject_id or "", edit.subject)
            and not excluded.has(edit.target_new_id or "", edit.target_new)
        ]
        examples = make_examples(source, usable, settings, excluded=excluded)
        examples = [example for example in examples if visits.can_encode(example)]
        learned, held_out = split(examples, settings)
        if len(learned) < settings.batch or not held_out:
            raise ConfigError(
                f"of {len(edits)} edits, {len(learned)} can be used for training and {len(held_out)} for validation; "
                f"expected at least {settings.batch} (batch) and 1; give more edits (--n, --relations)"
            )
        labels = [label for one in (*learned, *held_out) for label in (*one.graph.nodes, *one.graph.edges)]
        return cls(
            visits=visits,
            learned=learned,
            held_out=held_out,
            # all at once, because the grouping of labels into passes may change the last bits of the result
            readings=label_readings(model, labels, layers=settings.reading_layers(len(model.blocks))),
            contexts=SharedContexts.of(model, visits.shared((*learned, *held_out))),
        )

    def objective(self, requests: Sequence[Request]) -> Objective:
        """Return the loss of a batch of edits; this computes the batch's clean states."""
        model, settings = self.visits.model, self.visits.settings
        return Objective(
            model,
            settings.layer_in(len(model.blocks)),
            requests,
            kl_weight=settings.kl_weight,
            forward=partial(TailForward, contexts=self.contexts),
        )

    def batch(self, examples: Sequence[Example], requests: Sequence[Request]) -> Batch:
        """Return a batch of examples with its loss and the inputs of the network."""
        objective = self.objective(requests)
        graphs = GraphBatch.of([example.graph for example in examples], self.readings.__getitem__)
        downhill = None
        if self.visits.settings.gradient:
            bare = [Request(rewrites=request.rewrites[:1]) for request in requests]
            downhill = -self.objective(bare).gradient(torch.zeros_like(objective.value))[1]
        return Batch(objective=objective, graphs=graphs, downhill=downhill)


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """A batch of edits: the loss, and the network's inputs; ``downhill`` is g [edits, d], if the network reads it."""

    objective: Objective
    graphs: GraphBatch
    downhill: Tensor | None


class _Run(TrainingRun[Validation]):
    """A training run of glame-net."""

    name = "glame-net"

    def __init__(self, data: TrainingData, manifest: NetManifest, path: Path) -> None:
        settings = manifest.training
        self._data, self._manifest = data, manifest
        self._network = manifest.network().to(data.visits.model.device)
        optimizer = torch.optim.AdamW(
            self._network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        self._passes = Passes(data.learned, batch=settings.batch, seed=settings.seed)
        self._batches: dict[int, Batch] = {}
        state = State(format=FORMAT, network=self._network, optimizer=optimizer, progress=Progress[Validation]())
        super().__init__(state, settings, path)

    def learned_from(self) -> Mapping[str, int]:
        targets = {one.edit.target_new for one in self._data.learned}
        return {"examples": len(self._data.learned), "targets": len(targets)}

    def rate(self, step: int) -> float:
        """Return the factor of the learning rate: it rises linearly, then falls as half a cosine."""
        settings = self._manifest.training
        rising = min(1.0, (step + 1) / settings.warm_up)
        return rising * (1 + math.cos(math.pi * step / settings.steps)) / 2

    def backward(self, step: int) -> Mapping[str, str]:
        """Compute the loss of the step's batch and its gradient; return the loss terms to display."""
        batch = self._batch(step)
        # dL/d(m* - m) comes from the language model's tails; from there the gradient goes back through the network.
        change = self._change(batch)
        losses, gradient = batch.objective.gradient(change.detach())
        if not torch.isfinite(losses.total).all():
            raise ModelError(f"after {step} steps the loss is not finite; train with a lower learning_rate")
        change.backward(gradient / len(gradient))
        shown = {"nll": losses.nll, "kl": losses.kl, "further": losses.further}
        return {name: f"{float(loss.mean()):.2f}" for name, loss in shown.items()}

    def _change(self, batch: Batch) -> Tensor:
        """Return the network's changes of the clean values, [edits, d], on the device of the edited block."""
        value, there = batch.objective.value, self._data.visits.model.device  # the network's device
        downhill = None if batch.downhill is None else batch.downhill.to(there)
        change: Tensor = self._network(batch.graphs, value.to(there), downhill)
        return change.to(value.device)

    def _batch(self, step: int) -> Batch:
        """Return the batch of a step: ``cached`` batches are repeated ``visits`` times with cached clean states."""
        settings = self._manifest.training
        cached = settings.cached
        number = step // (cached * settings.visits) * cached + step % cached
        if number not in self._batches:
            self._batches = {key: some for key, some in self._batches.items() if key // cached == number // cached}
            examples, seed = self._passes.batch(number), f"visit {number} {settings.seed}"
            requests = [self._data.visits.request(example, seed=seed) for example in examples]
            self._batches[number] = self._data.batch(examples, requests)
        return self._batches[number]

    def validation(self, step: int) -> Validation:
        """Return the mean losses on the held-out edits, with the same wording for all."""
        settings, data = self._manifest.training, self._data
        parts: dict[str, list[Tensor]] = {name: [] for name in ("nll", "greedy", "kl", "composed", "held_out")}
        for start in range(0, len(data.held_out), settings.batch):
            examples = data.held_out[start : start + settings.batch]
            batch = data.batch(examples, [data.visits.check(one, one.composed) for one in examples])
            with torch.no_grad():
                change = self._change(batch)
                losses = batch.objective(change)
            parts["nll"].append(losses.nll)
            parts["kl"].append(losses.kl)
            parts["greedy"].append(batch.objective.greedy(change).float())
            # The questions' -log p without their weight, of the edits that have some; the questions that are never
            # learned need an objective of their own.
            further = {"composed": losses.further, "held_out": torch.zeros_like(losses.further)}
            if any(one.held_out for one in examples):
                never_learned = data.objective([data.visits.check(one, one.held_out) for one in examples])
                with torch.no_grad():
                    further["held_out"] = never_learned(change).further
            for name, values in further.items():
                having = torch.tensor([bool(getattr(one, name)) for one in examples], device=values.device)
                parts[name].append(values[having] / (settings.ripple_weight or 1.0))
        whole = {name: torch.cat(some) for name, some in parts.items()}
        means = {name: float(some.mean()) if len(some) else None for name, some in whole.items()}
        nll, kl, composed = (means[name] or 0.0 for name in ("nll", "kl", "composed"))
        return Validation(
            step=step,
            total=nll + settings.kl_weight * kl + settings.ripple_weight * composed,
            nll=nll,
            greedy=means["greedy"] or 0.0,
            kl=kl,
            composed=composed,
            held_out=means["held_out"],
        )
