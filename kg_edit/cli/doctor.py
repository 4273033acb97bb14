"""The job behind `kg-edit doctor`: describe the parts of a model that editing uses, and test one edit."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kg_edit.covariance.moment import Covariance
from kg_edit.edits.edit import Edit
from kg_edit.errors import ModelError
from kg_edit.methods.rome.method import Rome, RomeConfig
from kg_edit.models.hooks import record_last_call
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prompts import encode
from kg_edit.scoring.generation import continuations

_EDIT = Edit(id="self-test", subject="The Eiffel Tower", prompt="{} is located in the city of", target_new="Rome")
_CONTEXTS = ("{}", "It is well known. {}")


def examine(model: LanguageModel, *, layer: int | None = None) -> Iterator[tuple[str, str]]:
    """Yield (name, finding) pairs: the model's parts, then those of a self-test.

    The self-test makes one edit by ROME with two contexts and C = I, compares the change of the value with the one that
    was computed, and checks that the weights are restored.
    """
    config = RomeConfig(layer=layer)
    layer = Rome(model, config, contexts=_CONTEXTS).layer  # the default, if none is given
    yield from _describe(model, layer)

    weight = weight_matrix(model.down_projection(layer))  # [d, d_ff]
    identity = Covariance(moment=torch.eye(weight.shape[1]), tokens=0, ridge=0.0, id="identity")  # [d_ff, d_ff]
    original = weight.clone()
    yield from _try_edit(Rome(model, config, contexts=_CONTEXTS, covariance=identity))
    if not torch.equal(original, weight_matrix(model.down_projection(layer))):
        raise ModelError("the weights were not restored bit for bit; please report this")
    yield "restored", "bit for bit"


def _describe(model: LanguageModel, layer: int) -> Iterator[tuple[str, str]]:
    """Yield the parts of a model, and the weight of the edited layer."""
    weight = weight_matrix(model.down_projection(layer))
    parameters = sum(parameter.numel() for parameter in model.model.parameters())
    tokenizer = model.tokenizer
    bos = "adds no BOS"
    if tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id:
        bos = "adds a BOS"
    yield "model", f"{model.name} ({type(model.model).__name__}), fingerprint {model.fingerprint}"
    yield "size", f"{parameters / 1e6:.1f} M parameters, {model.model.dtype}, on {model.device}"
    yield "blocks", f"{len(model.blocks)} at {model.spec.blocks}, width {model.width}"
    yield "edited weight", f"{model.weight_name(layer)}, [{weight.shape[0]}, {weight.shape[1]}]"
    yield "tokenizer", f"{type(tokenizer).__name__}, bos {tokenizer.bos_token!r}, eos {tokenizer.eos_token!r}, {bos}"


def _try_edit(method: Rome) -> Iterator[tuple[str, str]]:
    """Make the edit of the self-test, and yield what it did; the value has to move as far as ROME computed."""
    model = method.model
    patch = method.edit([_EDIT])
    record = patch.provenance["edits"][0]
    yield "self-test", f"{_EDIT.text!r} -> {_EDIT.target_new!r}"
    yield "loss", f"{record['loss_before']:.3f} -> {record['loss_after']:.3f} in {record['steps']} steps"
    unedited = continuations(model, [_EDIT.text], limits=[6])[0]
    value = _read_value(model, method.layer)  # m, [d]
    with patch.applied(model):
        edited = continuations(model, [_EDIT.text], limits=[6])[0]
        new_value = _read_value(model, method.layer)
    change = record["norms"]["change"]  # |m* - m|
    yield "continuation", f"{unedited!r} -> {edited!r}"
    yield "value", f"|m| {value.norm():.3f} -> |m*| {new_value.norm():.3f}, change {change:.3f}"
    written = float((new_value - value).norm())
    tolerance = 0.1  # the edited weight is rounded to the model's dtype, such as bfloat16, and so is the value
    if model.model.dtype == torch.float32:
        tolerance = 1e-3
    if abs(written - change) > tolerance * change:
        raise ModelError(
            f"the value moved by {written:.3f} instead of {change:.3f}: the ModelSpec names a wrong module"
        )


@torch.no_grad()
def _read_value(model: LanguageModel, layer: int) -> torch.Tensor:
    """Return the down-projection's output [d] at the subject's last token of the bare prompt."""
    prompt = encode(model.tokenizer, _EDIT.prompt, subject=_EDIT.subject)
    with record_last_call(model.down_projection(layer)) as call:
        model.model(torch.tensor([prompt.ids], device=model.device))
    by_token = call.output.reshape(len(prompt.ids), -1)  # [tokens, d]
    return by_token[prompt.edited_at].float()
