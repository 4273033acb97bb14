"""One pass over the text for all layers asked, alone or as a shard; killed, it goes on from what is on disk."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from tqdm import tqdm

from kg_edit.covariance.corpora import Corpus
from kg_edit.covariance.files import Identity, Manifest
from kg_edit.covariances.position import Position
from kg_edit.covariances.sums import Sums
from kg_edit.errors import CovarianceError
from kg_edit.models.language_model import LanguageModel, weight_matrix

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 20.0
"""How much work a kill may cost, about; a chunk is finished first."""


def start(
    model: LanguageModel,
    identities: dict[int, Identity],
    folder: Path,
    *,
    ridge: float,
    part: int = 0,
    parts: int = 1,
) -> Sums:
    """Sums for some layers: from disk where a run was stopped, else empty.

    Raises:
        CovarianceError: the file on disk is damaged, or of another run; the layers are of several sizes, for which
            different numbers of tokens are the default.
    """
    if len({identity.tokens for identity in identities.values()}) > 1:
        raise CovarianceError("these layers are of several sizes; say how many tokens, or measure them one by one")
    sizes = {layer: weight_matrix(model.down_projection(layer)).shape[1] for layer in identities}
    fresh = Position(identities=identities, sizes=sizes, model_name=model.name, ridge=ridge, part=part, parts=parts)
    path = fresh.path(folder)
    if not path.is_file():
        return Sums(fresh)
    sums = Sums.load(path)
    if sums.position.identities != identities or (sums.position.part, sums.position.parts) != (part, parts):
        raise CovarianceError(f"{path} belongs to another run; delete the file")
    log.info("going on with %s after %d of %d tokens", path, sums.position.seen, fresh.wanted)
    return sums


def run(model: LanguageModel, corpus: Corpus, sums: Sums, folder: Path, *, progress: bool) -> None:
    """Add the rest of the text to ``sums``; what is on disk follows, at most some seconds behind.

    Raises:
        CovarianceError: the text ends before the tokens asked for.
    """
    wanted, path = sums.position.wanted, sums.position.path(folder)
    if corpus.at_hand:  # better to hear it now than after hours
        _check_length(corpus.name, sum(chunk.tokens for chunk in corpus.chunks(model, tokens=wanted)), wanted)
    log.info("measuring %s (once) into %s", _modules(sums), folder)
    saved = time.monotonic()
    with tqdm(
        total=wanted, initial=sums.position.seen, desc=_title(sums), unit="token", disable=_hidden(progress)
    ) as bar:
        for chunk in islice(corpus.chunks(model, tokens=wanted), sums.position.chunks, None):
            if sums.position.mine:
                chunk.feed(tuple(sums.moments), sums.see)
            sums.end_chunk(chunk.tokens)
            bar.update(chunk.tokens)
            if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                sums.save(path)
                saved = time.monotonic()
    _check_length(corpus.name, sums.position.seen, wanted)


def finish(sums: Sums, folder: Path) -> dict[int, Manifest]:
    """Write the covariances, then forget the sums on disk."""
    manifests = sums.finish(folder)
    sums.position.path(folder).unlink(missing_ok=True)
    return manifests


def _check_length(corpus: str, found: int, wanted: int) -> None:
    if found < wanted:
        raise CovarianceError(
            f"the corpus {corpus} ends after {found} of {wanted} tokens; give more text, or ask for fewer tokens"
        )


def _modules(sums: Sums) -> str:
    modules: Sequence[str] = [identity.module for identity in sums.position.identities.values()]
    return f"the covariance of {', '.join(modules)}"


def _title(sums: Sums) -> str:
    position = sums.position
    return "covariance" if position.parts == 1 else f"covariance, shard {position.part}/{position.parts}"


def _hidden(progress: bool) -> bool | None:
    """None: the bar is shown on a terminal only."""
    return None if progress else True
