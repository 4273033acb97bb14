"""Covariances under the user's cache folder: computed once, found by content, resumed after a kill."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from kg_edit.covariance.corpora import Corpus, open_corpus
from kg_edit.covariance.files import Identity, Manifest, moment_path, read_manifest, read_moment
from kg_edit.covariance.measure import finish, run, start
from kg_edit.covariance.moment import Covariance
from kg_edit.covariances.position import Position
from kg_edit.covariances.shards import forget, merge_shards, missing_shards
from kg_edit.errors import CovarianceError
from kg_edit.fingerprint import content_fingerprint
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.loading import cache_folder
from kg_edit.patches.base import refuse_patched
from kg_edit.storage.input_hashes import NAMES_A_FILE

log = logging.getLogger(__name__)


class CovarianceConfig(BaseModel):
    """From what text C is measured, how much of it, and how it is made invertible."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    corpus: str = Field(
        "self", json_schema_extra=NAMES_A_FILE, description="self (the model's own text), a text file, or hf:NAME"
    )
    tokens: int | None = Field(None, ge=1, description="at least so many; default 10 x d_ff")
    seed: int = Field(0, description="of the model's own text")
    ridge: float = Field(1e-4, ge=0, description="added to C's diagonal, relative to its mean")


def store_folder() -> Path:
    """Where covariances are kept unless a folder is given."""
    return cache_folder() / "covariance"


def find_covariance(
    model: LanguageModel,
    layer: int,
    config: CovarianceConfig | None = None,
    *,
    folder: Path | None = None,
    progress: bool = True,
) -> Covariance:
    """C of the down-projection's inputs in ``layer``: from the cache, or measured now and stored there.

    The file is named by the hash of what it is measured from (model, module, corpus, tokens), which stands in its
    manifest, inside and beside it.

    Raises:
        CovarianceError: the corpus can't be read or is too short; the file is damaged.
    """
    return find_covariances(model, [layer], config, folder=folder, progress=progress)[layer]


def find_covariances(
    model: LanguageModel,
    layers: Sequence[int],
    config: CovarianceConfig | None = None,
    *,
    folder: Path | None = None,
    progress: bool = True,
) -> dict[int, Covariance]:
    """`find_covariance` for several layers; those that are not stored yet are measured in one pass.

    Raises:
        CovarianceError: as `find_covariance`.
    """
    config, folder = config or CovarianceConfig(), folder or store_folder()
    identities = _ensure(model, layers, config, folder, progress=progress)
    return {layer: _load(folder, identity, config.ridge) for layer, identity in identities.items()}


def measure_covariances(
    model: LanguageModel,
    layers: Sequence[int],
    config: CovarianceConfig | None = None,
    *,
    folder: Path | None = None,
    progress: bool = True,
) -> dict[int, Manifest]:
    """Make sure that the covariances of ``layers`` are stored: the manifests, by layer.

    Raises:
        CovarianceError: as `find_covariance`.
    """
    config, folder = config or CovarianceConfig(), folder or store_folder()
    identities = _ensure(model, layers, config, folder, progress=progress)
    return _manifests(identities, folder)


def measure_shard(
    model: LanguageModel,
    layers: Sequence[int],
    config: CovarianceConfig | None = None,
    *,
    part: int,
    parts: int,
    folder: Path | None = None,
    progress: bool = True,
) -> dict[int, Manifest] | Path:
    """Shard ``part`` of ``parts`` (from 0) of `measure_covariances`: every ``parts``-th chunk of the text.

    The shard that finishes last, all being in ``folder``, merges them: the manifests. Before that: the shard's file.

    Raises:
        CovarianceError: as `find_covariance`; there is no such shard.
    """
    if not 0 <= part < parts or parts < 2:
        raise CovarianceError(
            f"there is no shard {part} of {parts}; give part from 0 to parts - 1, and 2 parts or more"
        )
    config, folder = config or CovarianceConfig(), folder or store_folder()
    corpus = open_corpus(config.corpus, seed=config.seed)
    identities = _identities(model, layers, corpus, config)
    if _missing(identities, folder):
        sums = start(model, identities, folder, ridge=config.ridge, part=part, parts=parts)
        if not sums.position.finished:
            run(model, corpus, sums, folder, progress=progress)
            sums.close()
            sums.save(sums.position.path(folder))
        if missing_shards(sums.position, folder):
            return sums.position.path(folder)
        _merge_all(sums.position, folder)
    return _manifests(identities, folder)


def _merge_all(position: Position, folder: Path) -> None:
    files = [position.model_copy(update={"part": part}).path(folder) for part in range(position.parts)]
    merge_shards(files, folder)
    forget(files)


def stored_covariances(folder: Path | None = None) -> list[Manifest]:
    """The manifests of all covariances in ``folder``, by model, corpus and module."""
    files = sorted((folder or store_folder()).glob("*.safetensors"))
    found = [read_manifest(path) for path in files if path.suffixes == [".safetensors"]]
    return sorted(found, key=lambda one: (one.model, one.corpus, one.tokens, len(one.module), one.module))


def _ensure(
    model: LanguageModel, layers: Sequence[int], config: CovarianceConfig, folder: Path, *, progress: bool
) -> dict[int, Identity]:
    corpus = open_corpus(config.corpus, seed=config.seed)
    identities = _identities(model, layers, corpus, config)
    if missing := _missing(identities, folder):
        refuse_patched(model)  # what is kept is the model's own, and no patch's
        sums = start(model, missing, folder, ridge=config.ridge)
        run(model, corpus, sums, folder, progress=progress)
        finish(sums, folder)
    return identities


def _identities(
    model: LanguageModel, layers: Sequence[int], corpus: Corpus, config: CovarianceConfig
) -> dict[int, Identity]:
    weights = content_fingerprint(model.model)  # as they are: a patch may have been merged since the model was loaded
    identities = {layer: _identity(model, weights, layer, corpus, config) for layer in sorted(set(layers))}
    size = max((_size(model, layer) for layer in identities), default=0)
    if config.tokens and config.tokens < 10 * size:
        log.warning("%d tokens are few for a covariance of size %d; take %d or more", config.tokens, size, 10 * size)
    return identities


def _identity(model: LanguageModel, weights: str, layer: int, corpus: Corpus, config: CovarianceConfig) -> Identity:
    return Identity(
        model=weights,
        dtype=str(model.model.dtype).removeprefix("torch."),
        module=model.weight_name(layer).removesuffix(".weight"),
        corpus=corpus.name,
        tokens=config.tokens or 10 * _size(model, layer),
    )


def _size(model: LanguageModel, layer: int) -> int:
    """d_ff."""
    return int(weight_matrix(model.down_projection(layer)).shape[1])


def _missing(identities: dict[int, Identity], folder: Path) -> dict[int, Identity]:
    return {layer: found for layer, found in identities.items() if not moment_path(folder, found).is_file()}


def _manifests(identities: dict[int, Identity], folder: Path) -> dict[int, Manifest]:
    return {layer: read_manifest(moment_path(folder, found), found) for layer, found in identities.items()}


def _load(folder: Path, identity: Identity, ridge: float) -> Covariance:
    moment, manifest = read_moment(moment_path(folder, identity), identity)
    return Covariance(moment=moment, tokens=manifest.count, ridge=ridge, id=identity.id)
