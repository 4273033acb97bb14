"""The store of covariances C = E[k k^T] in the user's cache folder. Each is measured once; all methods share it.

- `CovarianceConfig`: the settings, from which text and how many tokens C is measured.
- `find_covariances`: C of the down-projection inputs of layers; it is measured if no file has it.
- `measure_covariances`: the same for a user who wants C measured in advance; it returns manifests.
- `stored_covariances`: the manifests of all stored covariances.

A covariance is found by its identity (model, module, corpus, tokens), whose hash is the name of its file. The format of
the files is in `kg_edit.covariance.files`. A pass that was killed is resumed.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from kg_edit.covariance.corpora import (
    IMPORTED,
    PACKAGED,
    PACKAGED_TOKENS,
    Corpus,
    is_imported,
    open_corpus,
)
from kg_edit.covariance.files import (
    Identity,
    Manifest,
    OtherFormatError,
    moment_path,
    read_manifest,
    read_moment,
)
from kg_edit.covariance.moment import Covariance
from kg_edit.errors import CovarianceError
from kg_edit.models.architectures import content_fingerprint
from kg_edit.models.hooks import refuse_patched
from kg_edit.models.language_model import LanguageModel, matrix_shape
from kg_edit.models.loading import cache_folder
from kg_edit.storage.atomic import mark_used
from kg_edit.storage.setting_fields import NAMES_A_FILE, Seed

log = logging.getLogger(__name__)
MOST_TOKENS = 10**10  # Wikipedia in all languages has some 10^10
_TOKENS_PER_COLUMN = 10  # the default number of tokens is this times d_ff


class CovarianceConfig(BaseModel):
    """Settings: the text from which C is measured, the number of tokens, and the ridge that makes C invertible."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    corpus: str = Field(
        PACKAGED,
        json_schema_extra=NAMES_A_FILE,
        description="packaged (text by SmolLM2), self (the model's own text), a text file, hf:NAME, or imported:NAME",
    )
    tokens: int | None = Field(
        None,
        ge=1,
        le=MOST_TOKENS,
        description=f"minimum number of tokens; default 10 x d_ff, of the packaged text at most {PACKAGED_TOKENS:,}",
    )
    seed: Seed = Field(0, description="random seed of the model's own text (corpus self)")
    ridge: float = Field(1e-4, ge=0, description="added to C's diagonal, as a multiple of its mean")

    def tokens_for(self, size: int) -> int:
        """Return the least number of tokens from which a covariance of this size (d_ff) is measured."""
        if self.tokens:
            return self.tokens
        if self.corpus == PACKAGED:
            return min(_TOKENS_PER_COLUMN * size, PACKAGED_TOKENS)
        return min(_TOKENS_PER_COLUMN * size, MOST_TOKENS)


def store_folder() -> Path:
    """Return the default folder of the covariances."""
    return cache_folder() / "covariance"


def find_covariances(
    model: LanguageModel,
    layers: Sequence[int],
    config: CovarianceConfig | None = None,
    *,
    folder: Path | None = None,
    progress: bool = True,
) -> dict[int, Covariance]:
    """Return C of the down-projection's inputs, by layer: from the store, or measured now, in one pass, and stored."""
    config = config or CovarianceConfig()
    folder = folder or store_folder()
    identities = _measure_missing(model, layers, config, folder, progress=progress)
    covariances = {}
    for layer, identity in identities.items():
        path = moment_path(folder, identity)
        mark_used(path)
        moment, manifest = read_moment(path, identity, size=key_size(model, layer))
        covariances[layer] = Covariance(moment=moment, tokens=manifest.count, ridge=config.ridge, id=identity.id)
    return covariances


def measure_covariances(
    model: LanguageModel,
    layers: Sequence[int],
    config: CovarianceConfig | None = None,
    *,
    folder: Path | None = None,
    progress: bool = True,
) -> dict[int, Manifest]:
    """Measure the covariances of ``layers`` that are not stored yet; return the manifests by layer."""
    config = config or CovarianceConfig()
    folder = folder or store_folder()
    identities = _measure_missing(model, layers, config, folder, progress=progress)
    return {layer: read_manifest(moment_path(folder, identity), identity) for layer, identity in identities.items()}


def stored_covariances(folder: Path | None = None) -> list[Manifest]:
    """Return the manifests of all covariances in ``folder``, sorted by model, corpus, tokens and module.

    A file that can't be read is left out with a warning that names it, and files of another format with one warning
    for all of them.
    """
    manifests = []
    other_formats = list[str]()
    folder = folder or store_folder()
    for path in sorted(folder.glob("*.safetensors")):
        if path.suffixes != [".safetensors"]:  # the sums of an unfinished pass
            continue
        try:
            manifests.append(read_manifest(path))
        except OtherFormatError as error:
            other_formats.append(error.form)
        except CovarianceError as error:
            log.warning("%s", error)
    if other_formats:
        log.warning(
            "%d files of another format (%s) are left out; kg-edit cache covariances lists them, and with --clear "
            "--older-than DAYS it deletes those that were not used in that time",
            len(other_formats),
            ", ".join(sorted(set(other_formats))),
        )
    return sorted(manifests, key=_sort_key)


def _sort_key(manifest: Manifest) -> tuple[object, ...]:
    """Return the sort key of a manifest. The length of the module's name puts layer 10 after layer 9."""
    return manifest.model, manifest.corpus, manifest.tokens, len(manifest.module), manifest.module


def _measure_missing(
    model: LanguageModel, layers: Sequence[int], config: CovarianceConfig, folder: Path, *, progress: bool
) -> dict[int, Identity]:
    """Measure the covariances of ``layers`` that no file has; return the identities of all, by layer."""
    corpus = open_corpus(config.corpus, seed=config.seed)
    identities = _identify(model, layers, corpus, config)
    _warn_of_few_tokens(model, layers, config)
    missing = _find_missing(identities, folder)
    if missing:
        from kg_edit.covariance.measure import add_text, open_sums, write_covariances  # later edits only read C

        refuse_patched(model)  # only covariances of the model without patches are stored
        sums = open_sums(model, missing, folder, ridge=config.ridge)
        add_text(model, corpus, sums, folder, progress=progress)
        write_covariances(sums, folder)
    return identities


def _identify(
    model: LanguageModel, layers: Sequence[int], corpus: Corpus, config: CovarianceConfig
) -> dict[int, Identity]:
    """Return the identity of each layer's covariance, by which its file is found."""
    weights = content_fingerprint(model.model)  # computed now: a patch may have been merged after the model was loaded
    dtype = str(model.model.dtype).removeprefix("torch.")
    identities = {}
    for layer in sorted(set(layers)):
        identity = Identity(
            model=weights,
            dtype=dtype,
            module=model.weight_name(layer).removesuffix(".weight"),
            corpus=corpus.name,
            tokens=config.tokens_for(key_size(model, layer)),
        )
        if is_imported(corpus.name):
            # An imported covariance serves the model in any dtype, and its own file has the number of its tokens:
            # neither is part of the identity, and these two values stand for that.
            identity = identity.model_copy(update={"dtype": "float32", "tokens": 0})
        identities[layer] = identity
    return identities


def _warn_of_few_tokens(model: LanguageModel, layers: Sequence[int], config: CovarianceConfig) -> None:
    """Warn if a number of tokens was chosen that is small for the size of a covariance."""
    size = max((key_size(model, layer) for layer in layers), default=0)
    if config.tokens and config.tokens < _TOKENS_PER_COLUMN * size:
        log.warning(
            "%d tokens are few for a covariance of size %d; use at least %d",
            config.tokens,
            size,
            _TOKENS_PER_COLUMN * size,
        )


def _find_missing(identities: dict[int, Identity], folder: Path) -> dict[int, Identity]:
    """Return the covariances that no file has; an imported one can't be measured, so it must have a file."""
    missing = {}
    for layer, identity in identities.items():
        if moment_path(folder, identity).is_file():
            continue
        if is_imported(identity.corpus):
            raise CovarianceError(
                f"no covariance {identity.corpus} of layer {layer} ({identity.module}) of this model is stored; import "
                f"it (kg-edit covariance import FILE.npz --layer {layer} --name "
                f"{identity.corpus.removeprefix(IMPORTED)}), or give another corpus"
            )
        missing[layer] = identity
    return missing


def key_size(model: LanguageModel, layer: int) -> int:
    """Return d_ff, the size of a key: the number of columns of the layer's down-projection weight [d, d_ff]."""
    return matrix_shape(model.down_projection(layer))[1]
