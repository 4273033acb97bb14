"""Covariances under the user's cache folder: computed once, found by content, resumed after a kill."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from safetensors import SafetensorError, safe_open
from torch import Tensor
from tqdm import tqdm

from kg_edit.corpora import Corpus, open_corpus
from kg_edit.covariance import Covariance, SecondMoment
from kg_edit.errors import CovarianceError, OutputError
from kg_edit.files import write_json
from kg_edit.language_model import LanguageModel, weight_matrix
from kg_edit.model_files import cache_folder
from kg_edit.tensor_files import write_safetensors

log = logging.getLogger(__name__)


class CovarianceConfig(BaseModel):
    """From what text C is measured, how much of it, and how it is made invertible."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    corpus: str = Field("self", description="self (the model's own text), a text file, or hf:NAME")
    tokens: int | None = Field(None, ge=1, description="at least so many; default 10 x d_ff")
    seed: int = Field(0, description="of the model's own text")
    ridge: float = Field(1e-4, ge=0, description="added to C's diagonal, relative to its mean")


def find_covariance(
    model: LanguageModel,
    layer: int,
    config: CovarianceConfig | None = None,
    *,
    folder: Path | None = None,
    progress: bool = True,
) -> Covariance:
    """C of the down-projection's inputs in ``layer``: from the cache, or measured now and stored there.

    The file is named by the hash of its manifest (model, module, corpus, tokens), which lies inside and beside it.

    Raises:
        CovarianceError: the corpus can't be read or is too short.
    """
    config = config or CovarianceConfig()
    corpus = open_corpus(config.corpus, seed=config.seed)
    size = weight_matrix(model.down_projection(layer)).shape[1]
    manifest = {
        "format": "kg-edit-covariance/1",
        "model": model.fingerprint,
        "module": model.weight_name(layer).removesuffix(".weight"),
        "corpus": corpus.name,
        "tokens": config.tokens or 10 * size,
    }
    if config.tokens and config.tokens < 10 * size:
        log.warning("%d tokens are few for a covariance of size %d; take %d or more", config.tokens, size, 10 * size)
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()[:16]
    path = (folder or cache_folder() / "covariance") / f"{digest}.safetensors"
    moment, count = _load(path, manifest) if path.is_file() else (None, 0)
    if moment is None:
        moment, count = _measure(model, layer, corpus, manifest, path, progress=progress)
    return Covariance(moment=moment, tokens=count, ridge=config.ridge, id=digest)


def _measure(
    model: LanguageModel,
    layer: int,
    corpus: Corpus,
    manifest: dict[str, Any],
    path: Path,
    *,
    progress: bool,
) -> tuple[Tensor, int]:
    """Add up chunk after chunk, with the sum so far on disk after each."""
    partial = path.with_suffix(".partial.safetensors")
    running, chunk = _resume(partial, manifest, weight_matrix(model.down_projection(layer)).shape[1])
    wanted = int(manifest["tokens"])
    log.info("measuring the covariance of %s (once): %s", manifest["module"], path)
    with tqdm(
        total=wanted, initial=running.count, desc="covariance", unit="token", disable=None if progress else True
    ) as bar:
        while running.count < wanted:
            before = running.count
            if corpus.feed(model, layer, chunk, running.add) == 0:
                raise CovarianceError(
                    f"the corpus {manifest['corpus']} ends after {running.count} of {wanted} tokens; "
                    "give more text, or ask for fewer tokens"
                )
            chunk += 1
            _store(partial, running.total, {**manifest, "count": running.count, "chunks": chunk})
            bar.update(running.count - before)
    moment = running.mean().float()
    manifest = {**manifest, "count": running.count, "chunks": chunk}
    _store(path, moment, manifest)
    write_json(path.with_suffix(".json"), manifest)
    partial.unlink(missing_ok=True)
    return moment, running.count


def _resume(partial: Path, manifest: dict[str, Any], size: int) -> tuple[SecondMoment, int]:
    running = SecondMoment(size)
    if not partial.is_file():
        return running, 0
    stored, running.total = _read(partial)
    running.count = int(stored["count"])
    log.info("going on with %s after %d of %d tokens", partial, running.count, manifest["tokens"])
    return running, int(stored["chunks"])


def _read(path: Path) -> tuple[dict[str, Any], Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return json.loads(file.metadata()["manifest"]), file.get_tensor("moment")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CovarianceError(f"{path} is damaged ({error}); delete the file, and it is measured again") from error


def _store(path: Path, moment: Tensor, manifest: dict[str, Any]) -> None:
    try:
        write_safetensors(path, {"moment": moment}, {"manifest": json.dumps(manifest, sort_keys=True)})
    except OutputError as error:
        error.add_note("the environment variable KG_EDIT_CACHE names another folder for what is kept between runs")
        raise


def _load(path: Path, manifest: dict[str, Any]) -> tuple[Tensor, int]:
    stored, moment = _read(path)
    for name, value in manifest.items():
        if stored.get(name) != value:
            raise CovarianceError(f"{path}: expected {name} = {value!r}, found {stored.get(name)!r}; delete the file")
    if not torch.isfinite(moment).all():
        raise CovarianceError(f"{path} holds values that are not finite; delete the file")
    return moment, int(stored["count"])
