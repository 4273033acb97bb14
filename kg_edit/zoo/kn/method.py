"""KN (Dai et al., ACL 2022, arXiv 2104.08696): find the neurons that produce an answer, and change their columns.

A neuron is an input of a block's down-projection. Its attribution to P(old answer | prompt) is its integrated gradient
(Sundararajan et al., ICML 2017, arXiv 1703.01365). Neurons with a large attribution in many prompts are chosen. To the
column of each, -lambda_1 t + lambda_2 t' [d] is added, where t and t' are the embeddings of the old and the new answer.

The paper refines the choice. The prompts have different wordings, so that they share only the fact and no words. The
share p of prompts that must agree starts at 0.7 and changes by 0.05 until 2 to 5 neurons are left (``neurons``).

`KnConfig` and `Kn` are the settings and the method; `kg_edit.zoo.kn.neurons` finds and chooses the neurons.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.errors import PatchError, PromptError
from kg_edit.methods.base import EditingMethod, annotate_errors
from kg_edit.methods.config import ContextLengths, Layers, MethodConfig, Workload
from kg_edit.methods.statement import warn_of_unread_edit
from kg_edit.models.architectures import optional_module
from kg_edit.models.first_token import readable_contexts
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import weight_matrix
from kg_edit.models.prompts import Prompt
from kg_edit.models.sampling import BARE, sample_contexts
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.storage.setting_fields import Seed
from kg_edit.text.relation_nouns import WORDINGS, diverse_prompts
from kg_edit.zoo.entries import method_entry
from kg_edit.zoo.kn.neurons import Neurons, neuron_attributions, refined_neurons, shared_neurons

REFINED: dict[str, Any] = {"share": 0.7, "neurons": (2, 5), "prompts": "diverse"}


class KnConfig(MethodConfig):
    """Settings of KN.

    The preset ``refined`` chooses the neurons as the paper does; ``paper`` also has the paper's weights and steps.
    """

    steps: PositiveInt = Field(5, description="number of intervals of the integral")
    threshold: float = Field(
        0.2, gt=0, le=1, description="a neuron needs this fraction of a prompt's largest attribution"
    )
    share: float = Field(
        0.4, gt=0, le=1, description="fraction of the prompts in which a neuron must reach the threshold"
    )
    neurons: tuple[PositiveInt, PositiveInt] | None = Field(
        None, description="(minimum, maximum) number of neurons; share changes by 0.05 until it fits; unset: any number"
    )
    prompts: Literal["contexts", "diverse"] = Field(
        "contexts", description="the edit's prompt in contexts, or other wordings of the relation too (diverse)"
    )
    answer_tokens: PositiveInt = Field(1, description="number of tokens of the old answer that are attributed")
    layers: Layers | None = Field(None, description="searched blocks, 0-based; default all")
    erase: NonNegativeFloat = Field(
        0.0375, description="lambda_1, the factor of the old answer's embedding; published: 1"
    )
    write: NonNegativeFloat = Field(0.3, description="lambda_2, the factor of the new answer's embedding; published: 8")
    signed: bool = Field(True, description="negate the change for a neuron whose value is negative")
    context_lengths: ContextLengths = Field(
        ((5, 2), (10, 2)), description="(tokens, count) of the contexts that are sampled from the model"
    )
    seed: Seed = Field(0, description="random seed of the contexts")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "refined": REFINED,
        "paper": {
            **REFINED,
            "steps": 20,
            "context_lengths": ((10, 9),),
            "answer_tokens": 10,
            "erase": 1.0,
            "write": 8.0,
            "signed": False,
        },
    }

    @model_validator(mode="after")
    def _least_first(self) -> Self:
        if self.neurons and self.neurons[0] > self.neurons[1]:
            raise ValueError(f"neurons={self.neurons}: expected (minimum, maximum)")
        return self

    def written_layers(self, blocks: int) -> tuple[int, ...]:
        """Return the layers in which neurons are searched: those in the settings, or all ``blocks``."""
        return tuple(range(blocks)) if self.layers is None else self.layers

    def workload(self, *, edits: int) -> Workload:
        """Return the workload: one integral of gradients a layer, over the prompt in its contexts and diverse ones."""
        diverse = len(WORDINGS) if self.prompts == "diverse" else 0
        return Workload(rows=1 + sum(count for _, count in self.context_lengths) + diverse)


class Kn(EditingMethod):
    """Adds -lambda_1 t + lambda_2 t' to the columns of the fact's neurons; t, t' embed the answers' first tokens.

    The embeddings are the output ones (the rows of the head), because the head compares a column's output with them. If
    they are tied to the input embeddings, they are the paper's. If the head has a projection before it, the vector is
    mapped back through it. The paper's neurons (GELU) are almost non-negative; a gated MLP's are not (``signed``).
    """

    entry = method_entry("kn")
    takes_recurrent = False
    config_class = KnConfig
    config: KnConfig

    @cached_property
    def contexts(self) -> tuple[str, ...]:
        """The templates around the prompt; the first one is the bare ``{}``."""
        with keep_untouched(self.model):  # `provenance` may ask first, of a model in training mode
            return sample_contexts(self.model, lengths=self.config.context_lengths, seed=self.config.seed)

    def prepare(self) -> None:
        """Sample the contexts from the model, once for all edits."""
        _ = self.contexts

    def check(self, edits: Sequence[Edit]) -> None:
        """Check that every edit has an old answer, and encode its prompts."""
        for edit in edits:
            with annotate_errors(edit):
                self._answers(edit)
                if self.config.prompts == "diverse":
                    self._reworded(edit)  # encodes them
                warn_of_unread_edit(self.model, edit, method=self.name)

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Find the neurons in the model in its present state, and change their columns."""
        (edit,) = edits
        config = self.config
        with keep_untouched(self.model):
            self.prepare()
            old, new = self._answers(edit)
            attributions = neuron_attributions(
                self.model, self._prompts(edit), self.layers, steps=config.steps, tokens=config.answer_tokens
            )
            chosen = self._choose(attributions.scores)
            if not chosen.mask.any():
                raise PatchError(
                    f"no neuron for the old answer {edit.target_true!r} after {edit.text!r}; try another method"
                )
            strength = chosen.mask.float()  # [layers, d_ff]; with ``signed``, -1 for a neuron whose value is negative
            if config.signed:
                strength *= attributions.activity.sign()
            column = self.direction(old=old, new=new)  # [d]

        factors = self._add_to_columns(column, strength)
        neurons = [[self.layers[row], neuron] for row, neuron in chosen.mask.nonzero().tolist()]
        record = {
            **self.record(edit),
            "norms": {"update": round(float(column.norm()) * len(neurons) ** 0.5, 6)},
            "neurons": neurons,
            "shared_by": round(chosen.share, 6),
        }
        return WeightPatch(factors=factors, provenance={**self.provenance(), "edits": [record]})

    def _choose(self, scores: Tensor) -> Neurons:
        """Choose the neurons by their attributions [prompts, layers, d_ff], as the settings say."""
        config = self.config
        if config.neurons is None:
            return shared_neurons(scores, threshold=config.threshold, share=config.share)
        least, most = config.neurons
        return refined_neurons(scores, threshold=config.threshold, share=config.share, least=least, most=most)

    def _add_to_columns(self, column: Tensor, strength: Tensor) -> dict[str, Factors]:
        """Return the changes by the weights' names: column i of a layer's W [d, d_ff] gets strength_i column.

        That is a change of rank 1, column strength^T, of each layer with a chosen neuron.

        Args:
            column: what is added, [d].
            strength: of each neuron, [layers, d_ff].
        """
        factors = dict[str, Factors]()
        for layer, layer_strength in zip(self.layers, strength, strict=True):
            if layer_strength.any():
                device = weight_matrix(self.model.down_projection(layer)).device
                left = column[:, None].clone().to(device)
                right = layer_strength[:, None].clone().to(device)
                factors[self.model.weight_name(layer)] = Factors(left=left, right=right)
        return factors

    def _answers(self, edit: Edit) -> tuple[int, int]:
        """Return the first token of the old answer, and that of the new one."""
        if edit.target_true is None:
            raise PromptError(
                "KN changes the neurons of the old answer, and the edit has no old answer; give target_true"
            )
        old = self._prompt(edit, edit.target_true).target_ids[0]
        new = self._prompt(edit, edit.target_new).target_ids[0]
        if old == new:
            raise PromptError(
                f"{edit.target_true!r} and {edit.target_new!r} begin with the same token, expected different ones"
            )
        return old, new

    def _prompt(self, edit: Edit, target: str, context: str = BARE, *, template: str | None = None) -> Prompt:
        return self.model.encode_fact(
            template or edit.prompt,
            subject=edit.subject,
            target=target,
            context=context,
            chat=edit.is_made_in_chat(self.name),
        )

    def _prompts(self, edit: Edit) -> list[Prompt]:
        """Return the prompts with the old answer: in every context, and in diverse wordings if they are set."""
        old = edit.target_true or ""
        contexts = readable_contexts(self.model, self._prompt(edit, old), self.contexts)
        prompts = [self._prompt(edit, old, context) for context in contexts]
        if self.config.prompts == "diverse":
            prompts += self._reworded(edit)
        return prompts

    def _reworded(self, edit: Edit) -> list[Prompt]:
        """Return the diverse prompts; a line break comes before a subject that would be the model's attention sink."""
        old = edit.target_true or ""
        prompts = list[Prompt]()
        for template in diverse_prompts(edit):
            (context,) = readable_contexts(self.model, self._prompt(edit, old, template=template), (BARE,))
            prompts.append(self._prompt(edit, old, context, template=template))
        return prompts

    @torch.no_grad()
    def direction(self, *, old: int, new: int) -> Tensor:
        """Return the vector that is added to a column: -lambda_1 t + lambda_2 t', [d], t of ``old``, t' of ``new``."""
        head = self.model.model.get_output_embeddings().weight  # [vocabulary, d], or [vocabulary, d_embedding]
        assert isinstance(head, Tensor)  # noqa: S101 - true of every causal language model
        mixed = self.config.write * head[new].float() - self.config.erase * head[old].float()
        project_out = optional_module(self.model.model, self.model.spec.project_out)  # before the head, if there is one
        if project_out is None:
            return mixed
        return mixed @ weight_matrix(project_out).to(mixed)

    def provenance(self) -> dict[str, Any]:
        """Return the provenance of every method, and the contexts."""
        provenance = super().provenance()
        provenance["methods"][0] |= {"contexts": list(self.contexts)}
        return provenance
