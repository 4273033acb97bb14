"""`LanguageModel`: a causal language model and its tokenizer, loaded by name, with the few modules that editing needs.

`LanguageModel` gives the blocks, the edited weight W [d, d_ff] of a layer (`down_projection`, `weight_name`) and the
head's logits; `weight_matrix` gives a weight as [out, in] for Linear and GPT-2's Conv1D alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.pytorch_utils import Conv1D
from transformers.utils import logging as transformers_logging

from kg_edit.errors import ModelError, PromptError, UnsupportedModelError, describe, is_memory_error
from kg_edit.models.architectures import (
    ModelSpec,
    check_spec,
    content_fingerprint,
    find_spec,
    is_quantised,
    optional_module,
    refuse_experts,
)
from kg_edit.models.devices import takes_onednn, use_onednn
from kg_edit.models.loading import (
    QUANTISED,
    WAYS,
    check_blocks,
    choose_local_files_only,
    in_short,
    load_whole,
    pick_device,
    pick_dtype,
    resolve_model,
    stored_shapes,
)
from kg_edit.models.prompts import ChatForm, Prompt, encode

_ROWS = 512  # rows of the identity matrix that one pass of a quantised layer gets (`dequantise_layer`)
_SHOWN = 60  # the most characters of a prompt that a message shows
ATTENTION = {"full_attention", "sliding_attention", "chunked_attention"}  # names of blocks with keys and values
# The attribute of the module that has its fingerprints, because several `LanguageModel`s may share a module
_FINGERPRINTS = "_kg_edit_fingerprints"


@runtime_checkable
class Foreseeing(Protocol):
    """A ``prompt_transform`` that can prepare many texts together."""

    def foresee(self, texts: Iterable[str]) -> None:
        """Prepare the prompts for ``texts``."""


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class LanguageModel:
    """A Hugging Face causal language model, its tokenizer, and the paths of its modules.

    ``name`` is the name that the user typed; `fingerprint` identifies the model by its weights, whatever its path.
    ``prompt_transform`` is set by a patch of the prompt: it changes a text before the model reads it. ``asked_in`` is
    the form in which `encode` then asks the text by default; None for plain text. `in_chat` sets it.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    spec: ModelSpec
    name: str
    prompt_transform: Callable[[str], str] | None = None
    asked_in: ChatForm | None = None

    @classmethod
    def load(
        cls,
        name: str | Path,
        *,
        revision: str | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "auto",
        device_map: str | dict[str, int | str] | None = None,
        trust_remote_code: bool = False,
        spec: ModelSpec | None = None,
    ) -> LanguageModel:
        """Load a named model (`kg-edit models`), a hub id, a folder, or a ``.gguf`` file.

        ``dtype`` is ``auto`` (float32 on CPU, bfloat16 on an accelerator), the name of a torch dtype, or ``nf4`` or
        ``int8``, in which bitsandbytes stores the linear layers (`kg_edit.models.quantised`). ``device_map`` is that of
        accelerate (``auto``, or a device for each module name), to spread a model over several devices. ``revision``
        and ``trust_remote_code`` are those of transformers. ``spec`` has the paths of the modules, for a family that
        kg-edit does not know.

        Raises:
            ModelError: there is no such model, it can't be loaded, or there is not enough memory for it.
            UnsupportedModelError: its family has no `ModelSpec`.
        """
        name = str(name)
        target = pick_device(device)
        placement = _choose_placement(dtype, target, device_map)  # a wrong dtype is refused before a file is read
        path = resolve_model(name)
        source: dict[str, Any] = {
            "revision": revision,
            "trust_remote_code": trust_remote_code,
            "local_files_only": choose_local_files_only(path, revision),
        }
        try:
            config = AutoConfig.from_pretrained(path, **source)
            chosen = spec or find_spec(config)
            tokenizer = AutoTokenizer.from_pretrained(path, **source)
            model = _load_weights(path, config, source | placement)
            if placement["device_map"] is None:
                nn.Module.to(model, target)  # what model.to(target) does, in a form whose types mypy can check
        except UnsupportedModelError:
            raise
        except Exception as error:  # transformers and tokenizers may raise anything for a damaged folder
            raise ModelError(_why_not_loaded(error, name, path)) from error
        _use_quick_kernels(model)
        loaded = cls.wrap(model, tokenizer, name=name, spec=chosen)
        if str(dtype) in QUANTISED:
            _note_stored_fingerprint(model, path, config, source)
        return loaded

    @classmethod
    def wrap(
        cls,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        spec: ModelSpec | None = None,
    ) -> LanguageModel:
        """Wrap a model and a tokenizer that are already in memory; puts the model in evaluation mode.

        If the model is on a GPU, cuDNN's attention is turned off in this process.

        Raises:
            UnsupportedModelError: its family has no `ModelSpec`, or its weights are not in memory.
            PromptError: the tokenizer gives no character offsets (it is not a fast one).
            ModelError: a weight is not finite.
        """
        chosen = spec or find_spec(model.config)
        check_spec(model, chosen)
        if not tokenizer.is_fast:
            raise PromptError(
                f"the tokenizer of {name!r} gives no character offsets, which finding the subject needs; "
                "load its fast version (tokenizer.json)"
            )
        if any(parameter.is_meta for parameter in model.parameters()):
            raise UnsupportedModelError(
                f"some weights of {name!r} were left on disk or offloaded to the CPU, where they can't be edited; "
                "give a device_map of devices whose memory holds the whole model"
            )
        _check_finite(model, name)
        if any(parameter.is_cuda for parameter in model.parameters()):
            # cuDNN's attention in half precision prepares each new shape for a second or more, and edits are of many
            # shapes. The switch is that of the process; torch's other kernels need no preparation.
            torch.backends.cuda.enable_cudnn_sdp(False)
        model.eval()
        if any(is_quantised(module) for module in model.modules()):
            from kg_edit.models.quantised import keep_gradients

            keep_gradients(model)
        note_fingerprint(model)
        return cls(model=model, tokenizer=tokenizer, spec=chosen, name=name)

    @property
    def fingerprint(self) -> str:
        """The hash of the weights, without a patch that is applied to them; it is another one after `Patch.merge_into`.

        A folder that the model is saved to has the same fingerprint when it is loaded, unless the fingerprint ends in
        "+1", "+2", …: `note_merge` writes the number of merges there if the model had this hash before.
        """
        return self.fingerprints[-1]

    @property
    def fingerprints(self) -> tuple[str, ...]:
        """The fingerprint of the weights as they were loaded, and that after each `Patch.merge_into`."""
        fingerprints: tuple[str, ...] = getattr(self.model, _FINGERPRINTS)
        return fingerprints

    def note_merge(self) -> None:
        """Read the fingerprint again after the weights were changed for good; all copies (`in_chat`) have it too."""
        digest = content_fingerprint(self.model)
        if digest in self.fingerprints:  # the change is in elements that the hash does not read, or is rounded away
            merges = len(self.fingerprints)  # this merge included: the first fingerprint is that of no merge
            digest = f"{self.fingerprints[0]}+{merges}"
        setattr(self.model, _FINGERPRINTS, (*self.fingerprints, digest))

    def encode(self, text: str, *, target: str | None = None, chat: bool = False, fitting: bool = True) -> Prompt:
        """Encode ``text`` as the model reads it, followed by ``target``.

        With ``chat`` the text is a user's turn in chat form. Without, it is in the form of ``asked_in``: in chat form
        too on a model from `in_chat`, else in plain text.

        With ``fitting`` the prompt must fit into the model's positions; without, the caller has to check its length.

        Raises:
            PromptError: the target's first token would merge with the text's last one, or the target has no token.
            ModelError: ``fitting`` is set, and the prompt is longer than the model's positions.
        """
        if self.prompt_transform:
            text = self.prompt_transform(text)
        form = self.chat_form if chat else self.asked_in
        prompt = encode(self.tokenizer, text, target=target, chat=form)
        if fitting:
            self.check_length(prompt)
        return prompt

    def foresee(self, texts: Iterable[str]) -> None:
        """Announce texts that will be encoded soon, so that a patch of the prompt can prepare many together."""
        transform: object = self.prompt_transform
        if isinstance(transform, Foreseeing):
            transform.foresee(texts)

    def encode_fact(
        self, template: str, *, subject: str, target: str | None = None, context: str = "{}", chat: bool = False
    ) -> Prompt:
        """Encode a fact's prompt with the subject's position, as it is used to make an edit.

        It is in chat form with ``chat`` and in plain text without, whatever `in_chat` chose. A patch of the prompt
        (``prompt_transform``) is not applied.

        Raises:
            PromptError, ModelError: as `encode`.
            ChatTemplateError: ``chat`` is set, and the tokenizer has no chat template.
        """
        form = self.chat_form if chat else None
        prompt = encode(self.tokenizer, template, subject=subject, target=target, context=context, chat=form)
        self.check_length(prompt, context=context)
        return prompt

    @cached_property
    def max_positions(self) -> int | None:
        """The largest number of tokens for which the model has positions; None if it computes them for any length."""
        config = self.text_config
        has_rotary = any(name.endswith("inv_freq") for name, _ in self.model.named_buffers())
        # ALiBi is a bias of the attention in place of positions. Falcon computes it for any length. MPT computes it for
        # max_seq_len tokens only, and has its flag in attn_config, so it is not seen here. BLOOM computes it for any
        # length, and its config has neither the flag nor a limit.
        has_alibi = getattr(config, "alibi", False)
        if has_rotary or has_alibi:
            return None
        limit = getattr(config, "max_position_embeddings", None) or getattr(config, "max_seq_len", None)
        return limit if isinstance(limit, int) else None

    @cached_property
    def is_recurrent(self) -> bool:
        """Whether some blocks are not attention (Qwen3.5, LFM2), and so keep no keys and values of earlier tokens."""
        layer_types = getattr(self.text_config, "layer_types", None) or ()
        return not set(layer_types) <= ATTENTION

    def check_length(self, prompt: Prompt, *, new_tokens: int = 0, context: str = "{}") -> None:
        """Check that a prompt and ``new_tokens`` more tokens after it fit into the model's positions.

        Raises:
            ModelError: they do not fit; the message gives the length, and whether there is a ``context`` around the
                prompt.
        """
        if self.max_positions is None or len(prompt.ids) + new_tokens <= self.max_positions:
            return
        beginning = prompt.text
        if len(beginning) > _SHOWN:
            beginning = f"{beginning[:_SHOWN]}…"
        after = f", and {new_tokens} more tokens must fit after it" if new_tokens else ""
        around = "" if context == "{}" else " with the context that is put before it"
        raise ModelError(
            f"the prompt {beginning!r} has {len(prompt.ids)} tokens{around}{after}; {self.name} has positions for "
            f"{self.max_positions}. Shorten the prompt, or use a model with more positions"
        )

    @cached_property
    def chat_form(self) -> ChatForm:
        """The chat template around one user's turn.

        Raises:
            ChatTemplateError: the tokenizer has no template, or one that can't be used.
        """
        from kg_edit.models.chat import find_chat_form  # reads the template, which only a chat needs

        return find_chat_form(self.tokenizer, name=self.name)

    def in_chat(self, *, chat: bool = True) -> LanguageModel:
        """Return the same model, which asks each prompt as a user's turn; with ``chat`` false, in plain text.

        Raises:
            ChatTemplateError: as `find_chat_form`.
        """
        form = self.chat_form if chat else None
        return replace(self, asked_in=form)

    @cached_property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks, from the first (layer 0) to the last."""
        blocks = self.model.get_submodule(self.spec.blocks)
        assert isinstance(blocks, nn.ModuleList)  # noqa: S101 - check_spec has seen it
        return blocks

    def __repr__(self) -> str:
        millions = sum(parameter.numel() for parameter in self.model.parameters()) / 1e6
        parts = [
            self.model.config.model_type,
            f"{len(self.blocks)} layers",
            f"width {self.width}",
            f"{millions:,.1f}M weights",
            f"{self.precision} on {self.device}",
        ]
        if self.asked_in:
            parts.append("in chat form")
        merged = len(self.fingerprints) - 1
        if merged == 1:
            parts.append("with 1 merged patch")
        elif merged > 1:
            parts.append(f"with {merged} merged patches")
        return f"LanguageModel({self.name!r}: {', '.join(parts)})"

    def _repr_html_(self) -> str:
        return f"<code>{escape(repr(self))}</code>"

    @property
    def is_quantised(self) -> bool:
        """Whether linear layers store their weights in fewer bits than they compute with."""
        return any(is_quantised(module) for module in self.model.modules())

    @property
    def precision(self) -> str:
        """How the weights are stored: a dtype such as float32, or nf4, int8 or another type of quantised layers."""
        if self.is_quantised:
            from kg_edit.models.quantised import quantisation_of

            return quantisation_of(self.model)
        return str(self.model.dtype).removeprefix("torch.")

    @property
    def text_config(self) -> PreTrainedConfig:
        """The config of the blocks; a model that also takes images has another one for these."""
        config: PreTrainedConfig = self.model.config.get_text_config()
        return config

    @property
    def width(self) -> int:
        """d, the width of the residual stream."""
        return int(self.text_config.hidden_size)

    @property
    def device(self) -> torch.device:
        """The device of the input embedding, where token ids go."""
        embedding = self.model.get_input_embeddings().weight
        assert isinstance(embedding, Tensor)  # noqa: S101 - true of every causal language model
        return embedding.device

    @property
    def cuda_devices(self) -> list[torch.device]:
        """The CUDA devices that hold a part of the model; each has its own random generator."""
        devices = {parameter.device for parameter in self.model.parameters() if parameter.device.type == "cuda"}
        return sorted(devices, key=str)

    def down_projection(self, layer: int) -> nn.Module:
        """Return the MLP's second matrix in block ``layer`` (0-based).

        Raises:
            ModelError: the model has no such layer.
            UnsupportedModelError: the model is a mixture of experts.
        """
        return self.block(layer).get_submodule(self._down)

    def mlp(self, layer: int) -> nn.Module | None:
        """Return the MLP module of block ``layer`` (0-based); None if the family has no separate MLP module.

        Raises:
            ModelError: the model has no such layer.
            UnsupportedModelError: the model is a mixture of experts.
        """
        path, _, _ = self._down.rpartition(".")
        return self.block(layer).get_submodule(path) if path else None

    def attention(self, layer: int) -> nn.Module:
        """Return the attention module of block ``layer`` (0-based).

        Raises:
            ModelError: the model has no such layer.
            UnsupportedModelError: the family's `ModelSpec` does not give its path.
        """
        try:
            return self.block(layer).get_submodule(self.spec.attention)
        except AttributeError as error:
            way = "give its path in ModelSpec(attention=...)"
            if self.is_recurrent:
                way = "some of its blocks are recurrent and have none: trace --kind mlp or hidden"
            raise UnsupportedModelError(
                f"{self.name} has no attention at {self.spec.blocks}.{layer}.{self.spec.attention}; {way}"
            ) from error

    def block(self, layer: int) -> nn.Module:
        """Return block ``layer`` (0-based).

        Raises:
            ModelError: the model has no such layer.
        """
        if not 0 <= layer < len(self.blocks):
            raise ModelError(
                f"there is no layer {layer}: {self.name} has {len(self.blocks)} layers, 0 to {len(self.blocks) - 1}"
            )
        return self.blocks[layer]

    def weight_name(self, layer: int) -> str:
        """Return the state-dict name of the down-projection's weight in block ``layer``; edits change this weight."""
        return f"{self.spec.blocks}.{layer}.{self._down}.weight"

    @property
    def _down(self) -> str:
        """The path of the down-projection in a block."""
        if self.spec.down_projection is None:  # a mixture of experts
            refuse_experts(self.name)  # raises
        return self.spec.down_projection

    def logits(self, hidden: Tensor) -> Tensor:
        """Return the logits [..., vocabulary] of the last block's output [..., d]: final norm, then head."""
        for path in (self.spec.final_norm, self.spec.project_out):
            module = optional_module(self.model, path)
            if module is not None:
                hidden = module(hidden)
        logits: Tensor = self.model.get_output_embeddings()(hidden)
        scaling = getattr(self.text_config, "logits_scaling", None)
        if scaling:  # Granite
            logits = logits / scaling
        if self.text_config.model_type in ("cohere", "cohere2", "cohere2_moe"):
            logits = logits * self.text_config.logit_scale
        cap = getattr(self.text_config, "final_logit_softcapping", None)
        if cap is not None:
            logits = cap * torch.tanh(logits / cap)
        return logits


def _choose_placement(
    dtype: str | torch.dtype, target: torch.device, device_map: str | dict[str, int | str] | None
) -> dict[str, Any]:
    """Return the options of transformers that say in which type and on which devices a model is loaded."""
    torch_dtype = pick_dtype(dtype, target)
    if str(dtype) in QUANTISED:
        from kg_edit.models.quantised import quantised_options

        return quantised_options(str(dtype), torch_dtype, target, device_map)
    return {"dtype": torch_dtype, "device_map": device_map}


def _load_weights(path: str, config: PreTrainedConfig, options: Mapping[str, Any]) -> PreTrainedModel:
    """Load the model at ``path``; ``options`` are transformers': where the files are from, the type, the devices."""
    _check_stored_blocks(path, config)
    all_options = dict(options)
    if _is_compressed(config):
        # Else transformers makes plain weights in the first pass of the whole model, and an edit's passes may begin
        # inside it, at weights that are still packed.
        config.quantization_config["dequantize"] = True
        all_options["config"] = config
    with _without_bars(path):
        return load_whole(path, all_options)


def _is_compressed(config: PreTrainedConfig) -> bool:
    """Return whether compressed-tensors has stored the weights, in FP8 or in integers."""
    stored = getattr(config, "quantization_config", None)
    return isinstance(stored, dict) and stored.get("quant_method") == "compressed-tensors"


def _check_stored_blocks(path: str, config: PreTrainedConfig) -> None:
    """Check that a folder has the weights of as many blocks as its config says."""
    stored = stored_shapes(Path(path))
    if stored:
        check_blocks(getattr(config.get_text_config(), "num_hidden_layers", 0), stored)


def _why_not_loaded(error: Exception, name: str, path: str) -> str:
    """Return the message about a model that can't be loaded from ``path``."""
    reason = in_short(error)
    if is_memory_error(error):
        way = "load it in bfloat16, on another device, or on several (device_map)"
        return f"there is not enough memory for {name!r}: {reason}; {way}"
    way = WAYS
    if not Path(path).exists():
        way += f"; without internet access, download a hub model first: hf download {name}"
    return f"can't load the model {name!r}: {reason}; {way}"


def _check_finite(model: PreTrainedModel, name: str) -> None:
    """Check that all weights are finite."""
    for path, parameter in model.named_parameters():
        weight = parameter.detach()
        # The sum is not finite if an element is not, and takes a 25th of the time of a look at each element. It may
        # also be too large for float32; only then each element is looked at.
        if not torch.isfinite(weight.sum(dtype=torch.float32)) and not torch.isfinite(weight).all():
            raise ModelError(f"the weight {path} of {name!r} is not finite; get the model again, or another dtype")


def _use_quick_kernels(model: PreTrainedModel) -> None:
    """Let quicker kernels compute what they compute alike: oneDNN's on new AMD processors, PyTorch's fused on CUDA."""
    if takes_onednn():
        use_onednn(model)
    if any(parameter.is_cuda for parameter in model.parameters()):
        from kg_edit.models.fused_kernels import use_fused_kernels  # for CUDA alone

        use_fused_kernels(model)


def note_fingerprint(model: PreTrainedModel) -> None:
    """Store the fingerprint of the weights on the model, so that it stays the same while a patch is applied."""
    setattr(model, _FINGERPRINTS, (content_fingerprint(model),))


def _note_stored_fingerprint(
    model: PreTrainedModel, path: str, config: PreTrainedConfig, source: Mapping[str, Any]
) -> None:
    """Store on a model that was quantised the fingerprint of its weights before that, if its files give one.

    ``source`` has the options with which transformers loaded the config.
    """
    from kg_edit.models.quantised import stored_fingerprint

    digest = stored_fingerprint(
        path,
        config,
        revision=source["revision"],
        trust_remote_code=source["trust_remote_code"],
        local=source["local_files_only"],
    )
    if digest is not None:
        setattr(model, _FINGERPRINTS, (digest,))


def as_model(given: LanguageModel | str | Path) -> LanguageModel:
    """Return a model; a name, a hub id, a folder or a file is loaded. The door of every call that takes a model."""
    if isinstance(given, LanguageModel):
        return given
    if isinstance(given, str | Path):
        return LanguageModel.load(given)
    raise ModelError(f"found {describe(given)} in the place of a model; {_way_to_a_model(given)}")


def _way_to_a_model(given: object) -> str:
    """Return how to get a model from what was given in its place."""
    if hasattr(given, "applied") or hasattr(given, "__enter__"):  # a patch, or `Patch.applied` without its statement
        return "an edited model is what a with statement gives: with patch.applied(model) as edited: ask(edited, …)"
    return (
        "expected a LanguageModel or the name of a model. A model of transformers is wrapped: "
        "LanguageModel.wrap(model, tokenizer, name=…)"
    )


def weight_matrix(module: nn.Module) -> Tensor:
    """Return a projection's weight as [out, in]: a view, for a Linear or for GPT-2's transposed Conv1D.

    Of a quantised layer it is the dequantised matrix, which takes a pass of the layer.
    """
    if is_quantised(module):
        return dequantise_layer(module)
    weight = module.weight
    assert isinstance(weight, Tensor)  # noqa: S101 - check_spec has seen it
    if isinstance(module, Conv1D):
        return weight.T
    return weight


@torch.no_grad()
def dequantise_layer(module: Any) -> Tensor:
    """Return W [out, in] in float32 as a quantised layer computes with it.

    The layer computes x W^T + bias. So its output for the identity matrix, without the bias, is W^T. Row i of the
    identity gives row i of W^T, and a pass gets `_ROWS` rows.
    """
    device = next(module.parameters()).device
    dtype = getattr(module, "compute_dtype", None) or torch.float32
    transposed_rows = list[Tensor]()  # of W^T + bias, [rows, out] from each pass
    for start in range(0, module.in_features, _ROWS):
        size = min(_ROWS, module.in_features - start)
        # Rows start, start + 1, ... of the identity [in, in]
        rows = torch.zeros(size, module.in_features, dtype=dtype, device=device)
        rows[:, start:].fill_diagonal_(1)
        transposed_rows.append(type(module).forward(module, rows).float())  # without the hooks of a patch
    transposed = torch.cat(transposed_rows)  # W^T + bias, [in, out]
    if module.bias is not None:
        transposed = transposed - module.bias.float()
    return transposed.T


def matrix_shape(module: Any) -> tuple[int, int]:
    """Return the shape (out, in) of a projection's weight."""
    if is_quantised(module):
        return module.out_features, module.in_features
    rows, columns = weight_matrix(module).shape
    return rows, columns


@contextmanager
def _without_bars(path: str) -> Iterator[None]:
    """Hide transformers' bar for the weights of a folder, which takes a second; a hub's downloads keep their bars."""
    hidden = Path(path).is_dir() and transformers_logging.is_progress_bar_enabled()
    if hidden:
        transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if hidden:
            transformers_logging.enable_progress_bar()
