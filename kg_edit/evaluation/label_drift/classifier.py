"""A language model with a classification head: the same blocks, and a linear layer over classes instead of the head.

Editors treat the classes as the vocabulary: `ClassifierModel.encode` takes a class's name as the target of a text, and
encodes it as one "token", the class's number. So the methods that edit blocks can edit a classifier too; the loss is
the cross entropy of the class after the text's last token.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from kg_common.progress import Bar
from kg_edit.errors import ConfigError, ModelError, PromptError
from kg_edit.models.hooks import tell_prompt_ends
from kg_edit.models.language_model import LanguageModel, note_fingerprint
from kg_edit.models.prompts import Prompt, left_pad, split_passes
from kg_edit.models.sampling import plain_generation

# texts in a forward pass, and their tokens with padding
_ROWS = 8
_TOKENS = 4096
_STEPS = 100  # at most, of L-BFGS
_DECAY = 1e-2  # the weight of |W|^2 / 2


@dataclass(frozen=True, eq=False, kw_only=True)
class ClassifierModel(LanguageModel):
    """A model whose logits are those of the classes ``labels``, [..., classes]."""

    labels: tuple[str, ...]

    def encode(self, text: str, *, target: str | None = None, chat: bool = False, fitting: bool = True) -> Prompt:
        """Encode a text, followed by the number of the class ``target``."""
        prompt = super().encode(text, chat=chat, fitting=fitting)
        if target is None:
            return prompt
        if target not in self.labels:
            raise PromptError(f"{target!r} is not a class of this classifier; expected one of {', '.join(self.labels)}")
        return replace(prompt, ids=(*prompt.ids, self.labels.index(target)), target_start=len(prompt.ids))

    @torch.no_grad()
    def scores(self, texts: Sequence[str], *, title: str = "") -> Tensor:
        """Return the logits of the classes after each text, [texts, classes]; float32, on the CPU.

        ``title``: that of a progress bar; without it none is shown.
        """
        parts = list[Tensor]()
        with Bar(title=title, unit="text", total=len(texts), shown=bool(title)) as bar:
            encoded = [self.encode(text).ids for text in texts]
            for numbers in split_passes([len(ids) for ids in encoded], rows=_ROWS, tokens=_TOKENS):
                rows = encoded[numbers.start : numbers.stop]
                parts.append(self._score_rows(rows))
                bar.update(len(rows))
        logits = torch.empty(0, len(self.labels))
        if parts:
            logits = torch.cat(parts)
        if not logits.isfinite().all():
            raise ModelError("the classifier's output is not finite; make a weaker edit, or load the model in float32")
        return logits

    def _score_rows(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return the logits of the classes after token ids, in one forward pass, [rows, classes]."""
        batch = left_pad(rows, device=self.device)
        ends = torch.zeros(batch.ids.shape, dtype=torch.bool)
        ends[:, -1] = True  # rows are padded on the left, so each text ends in the last column
        with tell_prompt_ends(self, ends):
            output = self.model(
                input_ids=batch.ids, attention_mask=batch.mask, position_ids=batch.positions, use_cache=False
            )
        return output.logits[:, -1].float().cpu()  # type: ignore[no-any-return]

    def classes(self, texts: Sequence[str], *, title: str = "") -> list[str]:
        """Return the most probable class of each text; ``title`` as for `scores`."""
        return [self.labels[index] for index in self.scores(texts, title=title).argmax(-1).tolist()]


def with_head(model: LanguageModel, head: nn.Module, labels: Sequence[str]) -> ClassifierModel:
    """Return ``model`` with another head, [..., d] -> [..., classes]. Both models share their blocks.

    ``model`` keeps its own head. The classifier's ``generate`` uses that head too, because some editors train on text
    that the model writes.
    """
    # A shallow copy has the same blocks and weights. It gets a dict of its own for its direct children, because torch
    # stores the head there, and the head of ``model`` would be replaced too.
    classifier = copy.copy(model.model)
    classifier._modules = dict(model.model._modules)
    classifier.set_output_embeddings(head.to(model.device, model.model.dtype).eval().requires_grad_(False))
    setattr(classifier, "generate", _own_text(model))  # noqa: B010 - a module's method, for this object alone
    note_fingerprint(classifier)  # the copy has that of ``model``, whose head is another
    attributes = {field.name: getattr(model, field.name) for field in fields(LanguageModel)}
    attributes["model"] = classifier
    return ClassifierModel(**attributes, labels=tuple(labels))


def _own_text(model: LanguageModel) -> Callable[..., Any]:
    """Return `generate` of ``model`` with its own head, but without its own generation settings."""

    def generate(*inputs: Any, **options: Any) -> Any:
        with plain_generation(model):
            return model.model.generate(*inputs, **options)  # type: ignore[operator]

    return generate


def train_classifier(model: LanguageModel, texts: Sequence[str], labels: Sequence[str]) -> ClassifierModel:
    """Return ``model`` with a head fitted to ``texts`` and their ``labels``: multinomial logistic regression.

    The features are the hidden states that the model's own head gets after the last token, scaled to mean 0 and
    standard deviation 1. The fit is deterministic.
    """
    classes = sorted(set(labels))
    if len(classes) < 2:
        raise ConfigError(f"a classifier needs texts of at least two classes; found {', '.join(classes) or 'none'}")
    states = _record_states(model, texts)
    targets = torch.tensor([classes.index(label) for label in labels])
    head = fit_head(states, targets, classes=len(classes), decay=_DECAY)
    return with_head(model, head, classes)


def _record_states(model: LanguageModel, texts: Sequence[str]) -> Tensor:
    """Return the hidden states that the head of ``model`` gets after each text, [texts, d].

    They are recorded at a head that changes nothing. The output of the model's own head is no use, because some
    families scale or cap it.
    """
    states = list[Tensor]()

    def record_input(_: nn.Module, args: tuple[Tensor, ...], __: Tensor) -> None:
        states.append(args[0][:, -1].float().cpu())  # [texts, d], the last token's

    head = nn.Identity()
    head.register_forward_hook(record_input)
    state_names = [str(n) for n in range(model.width)]  # in the place of classes: this head returns d numbers
    with_head(model, head, state_names).scores(texts, title="classifier")
    return torch.cat(states)


def load_classifier(model: LanguageModel, file: Path, labels: Sequence[str]) -> ClassifierModel | None:
    """Return ``model`` with the head that a run stored in ``file``; None if it can't be read or has another size.

    A run that is continued needs its own head: a head that is fitted again with another number of threads differs in
    its last bits, and so the run's results would be those of two classifiers.
    """
    classes = sorted(set(labels))
    head: nn.Linear = nn.utils.skip_init(nn.Linear, model.width, len(classes))
    try:
        head.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError):
        return None
    return with_head(model, head, classes)


def fit_head(states: Tensor, targets: Tensor, *, classes: int, decay: float) -> nn.Linear:
    """Fit the head to ``states`` [texts, d] of the classes ``targets`` [texts].

    The head has the least cross entropy plus ``decay`` |W|^2 / 2.
    """
    mean = states.mean(0)
    deviation = states.std(0, unbiased=False).clamp(min=1e-6)
    scaled = (states - mean) / deviation
    weight = torch.zeros(classes, states.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = nn.functional.cross_entropy(scaled @ weight.T + bias, targets) + decay * weight.square().sum() / 2
        total.backward()
        return total

    optimizer.step(loss)
    # The equivalent head for unscaled states: W (h - mean) / deviation + b.
    head: nn.Linear = nn.utils.skip_init(nn.Linear, states.shape[1], classes)  # draws no random numbers
    with torch.no_grad():
        head.weight.copy_(weight / deviation)  # [classes, d]
        head.bias.copy_(bias - (weight * (mean / deviation)).sum(1))  # [classes]
    return head
