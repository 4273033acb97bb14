"""The job behind `kg-edit doctor`: describe the parts of a model that editing uses, and test one edit."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kg_edit.covariance.moment import Covariance
from kg_edit.edits.edit import Edit
from kg_edit.errors import ModelError
from kg_edit.methods.rome.method import Rome, RomeConfig
from kg_edit.models.hooks import watched
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import encode
from kg_edit.scoring.generation import continuations

_EDIT = Edit(id="self-test", subject="The Eiffel Tower", prompt="{} is located in the city of", target_new="Rome")
_CONTEXTS = ("{}", "It is well known. {}")


def examine(model: LanguageModel, *, layer: int | None = None) -> Iterator[tuple[str, str]]:
    """Yield (name, finding) pairs: the model's parts, then the self-test's results.

    Raises:
        KgEditError: the test's edit can't be made.
    """
    method = _method(model, layer)
    weight = weight_matrix(model.down_projection(method.layer))
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    yield "model", f"{model.name} ({type(model.model).__name__}), fingerprint {model.fingerprint}"
    yield "size", f"{parameters / 1e6:.1f} M parameters, {model.model.dtype}, on {model.device}"
    yield "blocks", f"{len(model.blocks)} at {model.spec.blocks}, width {model.width}"
    yield "edited weight", f"{model.weight_name(method.layer)}, [{weight.shape[0]}, {weight.shape[1]}]"
    yield "tokenizer", f"{type(model.tokenizer).__name__}, {_special_tokens(model)}"
    yield from self_test(model, method)


def self_test(model: LanguageModel, method: Rome) -> Iterator[tuple[str, str]]:
    """Make one edit with two contexts and C = I; check the written value, and that the weights are restored.

    Raises:
        ModelError: the value did not move as intended, or the weights are not restored.
    """
    original = weight_matrix(model.down_projection(method.layer)).clone()
    patch = method.edit([_EDIT])
    record = patch.provenance["edits"][0]
    yield "self-test", f"{_EDIT.text!r} -> {_EDIT.target_new!r}"
    yield "loss", f"{record['loss_before']:.3f} -> {record['loss_after']:.3f} in {record['steps']} steps"
    before = continuations(model, [_EDIT.text], limits=[6])[0]
    clean, change = _value(model, method.layer), record["norms"]["change"]
    with patch.applied(model):
        after = continuations(model, [_EDIT.text], limits=[6])[0]
        moved = _value(model, method.layer)
    yield "continuation", f"{before!r} -> {after!r}"
    yield "value", f"|m| {clean.norm():.3f} -> |m*| {moved.norm():.3f}, change {change:.3f}"
    written, near = float((moved - clean).norm()), 1e-3 if model.model.dtype == torch.float32 else 0.1
    if abs(written - change) > near * change:
        raise ModelError(
            f"the value moved by {written:.3f} instead of {change:.3f}: the ModelSpec names a wrong module"
        )
    if not torch.equal(original, weight_matrix(model.down_projection(method.layer))):
        raise ModelError("the weights were not restored bit for bit; please report this")
    yield "restored", "bit for bit"


def _method(model: LanguageModel, layer: int | None) -> Rome:
    config = RomeConfig(layer=layer)
    probe = Rome(model, config, contexts=_CONTEXTS)
    size = weight_matrix(model.down_projection(probe.layer)).shape[1]
    identity = Covariance(moment=torch.eye(size), tokens=0, ridge=0.0, id="identity")
    return Rome(model, config, contexts=_CONTEXTS, covariance=identity)


@torch.no_grad()
def _value(model: LanguageModel, layer: int) -> torch.Tensor:
    """The down-projection's output at the subject's last token of the bare prompt."""
    prompt = encode(model.tokenizer, _EDIT.prompt, subject=_EDIT.subject)
    seen: list[torch.Tensor] = []
    with watched(model.down_projection(layer), lambda _, value: seen.append(value)):
        model.model(torch.tensor([prompt.ids], device=model.device))
    return seen[0].reshape(len(prompt.ids), -1)[prompt.edited_at].float()


def _special_tokens(model: LanguageModel) -> str:
    tokenizer = model.tokenizer
    first = tokenizer("a")["input_ids"][0]
    adds = "adds a BOS" if first == tokenizer.bos_token_id else "adds no BOS"
    return f"bos {tokenizer.bos_token!r}, eos {tokenizer.eos_token!r}, {adds}"
