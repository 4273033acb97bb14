"""KN (Dai et al., ACL 2022, arXiv 2104.08696): the old answer is taken out of the neurons that say it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any, ClassVar

import networkx as nx
import torch
from pydantic import Field, NonNegativeFloat, PositiveInt
from torch import Tensor

from kg_edit.edits.edit import Edit
from kg_edit.errors import PatchError, PromptError
from kg_edit.graphs.encoding import SubgraphSource
from kg_edit.methods.base import EditingMethod, MethodConfig, naming
from kg_edit.methods.common_settings import ContextLengths, Layers
from kg_edit.models.architectures import optional_module
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import Prompt, encode
from kg_edit.models.sampling import sample_contexts
from kg_edit.neurons.knowledge_neurons import Neurons, neuron_attributions, shared_neurons
from kg_edit.patches.base import Patch
from kg_edit.patches.factors import Factors
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.value.optimise import untouched


class KnConfig(MethodConfig):
    """Settings of KN; ``paper`` has the published weights and number of steps."""

    steps: PositiveInt = Field(5, description="pieces of the integral")
    threshold: float = Field(0.2, gt=0, le=1, description="of a prompt's largest attribution")
    share: float = Field(0.4, gt=0, le=1, description="of the prompts that must have a neuron in common")
    answer_tokens: PositiveInt = Field(1, description="tokens of the old answer that are looked at")
    layers: Layers | None = Field(None, description="blocks, 0-based; default all")
    erase: NonNegativeFloat = Field(0.0375, description="lambda_1, times the old answer's embedding; published: 1")
    write: NonNegativeFloat = Field(0.3, description="lambda_2, times the new answer's embedding; published: 8")
    signed: bool = Field(True, description="a neuron that is negative for the fact gets the negated column")
    context_lengths: ContextLengths = Field(
        ((5, 2), (10, 2)), description="(tokens, count) of the contexts that the model writes"
    )
    seed: int = Field(0, description="of the contexts")

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "default": {},
        "paper": {
            "steps": 20,
            "context_lengths": ((10, 9),),
            "answer_tokens": 10,
            "erase": 1.0,
            "write": 8.0,
            "signed": False,
        },
    }


class Kn(EditingMethod):
    """Into the columns of the fact's neurons goes -lambda_1 t + lambda_2 t', the answers' first tokens' embeddings.

    The embeddings are the output ones (the rows of the head), which are what a column is measured against; where they
    are tied to the input ones these are the paper's. A head behind a projection is followed back through it.
    The paper's neurons are all but non-negative (GELU); in a gated MLP they have either sign, which ``signed`` minds.
    """

    name = "kn"
    paper = "Dai et al., ACL 2022, arXiv 2104.08696"
    about = "find the neurons that say the old answer, and write the new one's embedding into them"
    config_class = KnConfig
    config: KnConfig

    def __init__(
        self, model: LanguageModel, config: KnConfig, *, graph: SubgraphSource | nx.DiGraph | None = None
    ) -> None:
        super().__init__(model, config, graph=graph)
        self.layers = tuple(range(len(model.blocks))) if config.layers is None else config.layers
        for layer in self.layers:
            model.block(layer)

    @cached_property
    def contexts(self) -> tuple[str, ...]:
        """The templates around the prompt, the bare one first."""
        return sample_contexts(self.model, lengths=self.config.context_lengths, seed=self.config.seed)

    def prepare(self) -> None:
        """Sample the contexts."""
        with untouched(self.model):
            _ = self.contexts

    def check(self, edits: Sequence[Edit]) -> None:
        """Look for the old answer and encode every edit's prompt once.

        Raises:
            PromptError: an edit names no old answer, or one that begins like the new one.
        """
        for edit in edits:
            with naming(edit):
                self._answers(edit)

    def make(self, edits: Sequence[Edit], *, before: Patch) -> Patch:
        """Find the neurons in the model as it stands, and change their columns.

        Raises:
            PromptError: the edit names no old answer, or one that begins like the new one.
            PatchError: no neuron speaks for the old answer.
        """
        (edit,) = edits
        with untouched(self.model):
            self.prepare()
            old, new = self._answers(edit)
            attributions = neuron_attributions(
                self.model,
                self._prompts(edit),
                self.layers,
                steps=self.config.steps,
                tokens=self.config.answer_tokens,
            )
            found = shared_neurons(attributions.given, threshold=self.config.threshold, share=self.config.share)
            if not found.mask.any():
                raise PatchError(f"no neuron speaks for {edit.target_true!r} after {edit.text!r}; KN can't edit it")
            strength = found.mask.float()
            if self.config.signed:
                strength *= attributions.activity.sign()
            return self._write(edit, found, strength, self.direction(old=old, new=new))

    def _answers(self, edit: Edit) -> tuple[int, int]:
        """The first tokens of the old answer and of the new one."""
        if edit.target_true is None:
            raise PromptError(
                "KN takes the old answer out of the neurons that say it, and the edit names none; give target_true"
            )
        old, new = (self._prompt(edit, target).target_ids[0] for target in (edit.target_true, edit.target_new))
        if old == new:
            raise PromptError(
                f"{edit.target_true!r} and {edit.target_new!r} begin with the same token, which KN can't tell apart"
            )
        return old, new

    def _prompt(self, edit: Edit, target: str, context: str = "{}") -> Prompt:
        return encode(self.model.tokenizer, edit.prompt, subject=edit.subject, target=target, context=context)

    def _prompts(self, edit: Edit) -> list[Prompt]:
        assert edit.target_true is not None  # noqa: S101 - _answers has seen it
        return [self._prompt(edit, edit.target_true, context) for context in self.contexts]

    @torch.no_grad()
    def direction(self, *, old: int, new: int) -> Tensor:
        """-lambda_1 t + lambda_2 t', [d], in float32."""
        head = self.model.model.get_output_embeddings().weight
        assert isinstance(head, Tensor)  # noqa: S101 - true of every causal language model
        mixed = self.config.write * head[new].float() - self.config.erase * head[old].float()
        through = optional_module(self.model.model, self.model.spec.project_out)
        return mixed if through is None else mixed @ weight_matrix(through).to(mixed)

    def _write(self, edit: Edit, found: Neurons, strength: Tensor, column: Tensor) -> Patch:
        """``column`` [d] into each chosen neuron's column, times its ``strength`` [layers, d_ff]."""
        factors = dict[str, Factors]()
        for layer, each in zip(self.layers, strength, strict=True):
            if each.any():
                device = weight_matrix(self.model.down_projection(layer)).device
                factors[self.model.weight_name(layer)] = Factors(
                    left=column[:, None].clone().to(device), right=each[:, None].clone().to(device)
                )
        neurons = [[self.layers[row], place] for row, place in found.mask.nonzero().tolist()]
        record = {
            "edit": edit.model_dump(mode="json", exclude_defaults=True),
            "method": self.name,
            "norms": {"update": round(float(column.norm()) * len(neurons) ** 0.5, 6)},
            "neurons": neurons,
            "shared_by": round(found.share, 6),
        }
        patch = WeightPatch(factors=factors, provenance={**self.provenance(), "edits": [record]})
        patch.check_finite()
        return patch

    def provenance(self) -> dict[str, Any]:
        """As every method's, with the contexts."""
        said = super().provenance()
        said["methods"][0] |= {"contexts": list(self.contexts)}
        return said
