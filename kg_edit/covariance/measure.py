"""Measures C = E[k k^T] of several layers in one pass over a text.

The pass consists of `open_sums`, `add_text` and `write_covariances`; `Sums` is its state between two chunks of
text. The sums are saved every 20 seconds (`CHECKPOINT_SECONDS`), so that a killed run can be resumed. `Doublings` tells
whether the text was long enough.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from kg_common.progress import Bar
from kg_edit.covariance.corpora import Corpus
from kg_edit.covariance.doublings import KEYS, Doublings, list_marks
from kg_edit.covariance.files import (
    LARGEST,
    Identity,
    Manifest,
    Position,
    check_finite,
    damaged,
    read_position,
    write_moment,
    write_tensors,
)
from kg_edit.covariance.moment import SecondMoment, flat_size
from kg_edit.errors import CovarianceError
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel, matrix_shape
from kg_edit.version import code_sha256

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 20.0
"""Seconds between two saves, which is about the work that a killed run may lose; a chunk is always finished first."""


def open_sums(
    model: LanguageModel,
    identities: dict[int, Identity],
    folder: Path,
    *,
    ridge: float,
) -> Sums:
    """Return the sums for some layers: those of an interrupted run in ``folder``, or else empty ones."""
    # All layers end at the same number of tokens. By default it is a multiple of d_ff, which differs in a few models.
    if len({identity.tokens for identity in identities.values()}) > 1:
        raise CovarianceError(
            "these layers have different sizes; give the number of tokens, or measure the layers one by one"
        )
    sizes = {layer: matrix_shape(model.down_projection(layer))[1] for layer in identities}
    fresh = Position(identities=identities, sizes=sizes, model_name=model.name, ridge=ridge)
    path = fresh.path(folder)
    if not path.is_file():
        return Sums(fresh)
    sums = Sums.load(path)
    stored = sums.position
    if stored.identities != identities or stored.sizes != sizes:
        raise CovarianceError(f"{path} belongs to another run; delete the file")
    log.info("continuing %s after %d of %d tokens", path, stored.count, fresh.tokens_wanted)
    return sums


def add_text(model: LanguageModel, corpus: Corpus, sums: Sums, folder: Path, *, progress: bool) -> None:
    """Add the rest of the text to ``sums``, and save them in ``folder`` every `CHECKPOINT_SECONDS`."""
    total = sums.position.tokens_wanted
    _check_writable(folder)
    _check_at_hand(model, corpus, total)
    modules = ", ".join(identity.module for identity in sums.position.identities.values())
    log.info("measuring the covariance of %s (once) into %s", modules, folder)
    bar = Bar(title="covariance", unit="token", total=total, done=sums.position.count, shown=progress)
    # Untouched, because dropout in training mode would change the keys.
    with bar, keep_untouched(model):

        def receive(layer: int, keys: Tensor) -> None:  # keys: [..., d_ff]
            sums.add(layer, keys)
            if layer == min(sums.moments):  # once for all layers; within a chunk too, which may take minutes
                bar.update(keys.shape[:-1].numel())  # the number of tokens

        saved = time.monotonic()
        chunks = corpus.chunks(model, tokens=total)
        for chunk in islice(chunks, sums.position.chunks, None):  # without those that an earlier run has added
            chunk.feed(tuple(sums.moments), receive)
            sums.end_chunk()
            if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                sums.save(sums.position.path(folder))
                saved = time.monotonic()
    _check_length(corpus.name, sums.position.count, total)


def write_covariances(sums: Sums, folder: Path) -> dict[int, Manifest]:
    """Write the covariances into ``folder``, then delete the saved sums; return the manifests by layer."""
    manifests = sums.finish(folder)
    sums.position.path(folder).unlink(missing_ok=True)
    return manifests


def _check_writable(folder: Path) -> None:
    """Check now, and not after hours, that ``folder`` can be written, or created in the nearest folder that exists."""
    nearest = folder.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise CovarianceError(f"can't write into the cache {folder}; set KG_EDIT_CACHE to a folder of yours")


def _check_at_hand(model: LanguageModel, corpus: Corpus, total: int) -> None:
    """Check now, and not after hours, that a corpus has enough tokens, if it is at hand as a whole."""
    if corpus.at_hand:
        available = sum(chunk.tokens for chunk in corpus.chunks(model, tokens=total))
        _check_length(corpus.name, available, total)


def _check_length(corpus: str, tokens: int, expected: int) -> None:
    """Check that a corpus has at least the expected number of tokens."""
    if tokens < expected:
        raise CovarianceError(
            f"the corpus {corpus} ends after {tokens} of {expected} tokens; give more text (--corpus FILE), or ask for "
            "fewer tokens"
        )


class Sums:
    """The sums of k k^T of some layers, and how much C still changes (`Doublings`).

    Attributes:
        position: how far the pass is, and what it measures (layers and text); it is replaced after each chunk.
        moments: the sum of k k^T of each layer, with its count.
        doublings: by layer: the comparisons of C with itself at half as many tokens.
    """

    def __init__(self, position: Position, tensors: Mapping[str, Tensor] | None = None) -> None:
        stored = tensors or {}
        self.position = position
        self.moments = dict[int, SecondMoment]()
        self.doublings = dict[int, Doublings]()
        for layer, size in position.sizes.items():
            self.moments[layer] = SecondMoment(size, stored.get(f"total.{layer}"), position.count)
            self.doublings[layer] = Doublings(
                size,
                ridge=position.ridge,
                checks=position.doublings.get(layer, ()),
                mark=stored.get(f"mark.{layer}"),
                count_at_mark=position.count_at_mark,
                probes=stored.get(f"probes.{layer}"),
            )

    @classmethod
    def load(cls, path: Path) -> Sums:
        """Read what `save` wrote."""
        position = read_position(path)
        try:
            with safe_open(path, framework="pt") as file:
                shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 - no mapping
            for layer, size in position.sizes.items():
                _check_shapes(shapes, layer, size, path)  # before any tensor is read
            tensors = load_file(path)
        except (OSError, SafetensorError) as error:
            raise damaged(path, error) from error
        return cls(position, tensors)

    def save(self, path: Path) -> None:
        """Write the sums, their copies at the last mark, the probe keys and the position to ``path``, atomically."""
        tensors = dict[str, Tensor]()
        for layer, moment in self.moments.items():
            doublings = self.doublings[layer]
            tensors[f"total.{layer}"] = moment.total.cpu()
            tensors[f"probes.{layer}"] = doublings.probes
            if doublings.mark is not None:
                tensors[f"mark.{layer}"] = doublings.mark.cpu()
        write_tensors(path, tensors, self.position)

    def add(self, layer: int, keys: Tensor) -> None:
        """Add ``keys`` [..., d_ff] of ``layer``; in the first chunk, some are stored as probe keys."""
        self.moments[layer].add(keys)
        if self.position.chunks == 0:
            self.doublings[layer].draw_probes(keys)

    def end_chunk(self) -> None:
        """Note in the position that a chunk has been added; at a mark, compare and copy the sums."""
        for layer, moment in self.moments.items():
            moment.flush()  # so that a resumed run adds the same keys together, with the same rounding
            check_finite(moment.total, self.position.identities[layer])
        count_before = self.position.count
        first, *_ = self.moments.values()  # all have the same count
        self._update_position(chunks=self.position.chunks + 1, count=first.count)
        wanted = self.position.tokens_wanted
        marks = list_marks(wanted, max(self.position.sizes.values()))
        has_passed_mark = any(count_before < mark <= first.count for mark in marks)
        if has_passed_mark and first.count < wanted:
            self._set_mark()

    def _set_mark(self) -> None:
        """Compare the sums of each layer with those at the mark before, and make this the last mark."""
        for layer, moment in self.moments.items():
            self.doublings[layer].set_mark(moment.total, moment.count)
        checks = {layer: doublings.checks for layer, doublings in self.doublings.items()}
        self._update_position(doublings=checks, count_at_mark=self.position.count)

    def finish(self, folder: Path) -> dict[int, Manifest]:
        """After the last `end_chunk`, write every layer's C into ``folder``; return the manifests by layer.

        The last doubling, which ends here and not at a mark, is only in the manifest.
        """
        manifests = {}
        for layer, moment in self.moments.items():
            manifests[layer] = Manifest(
                code_sha256=code_sha256(),
                **self.position.identities[layer].model_dump(),
                count=moment.count,
                chunks=self.position.chunks,
                model_name=self.position.model_name,
                size=moment.size,
                doublings=self.doublings[layer].with_check(moment.total, moment.count),
            )
            write_moment(folder, moment.mean(), manifests[layer])
        return manifests

    def _update_position(self, **changes: object) -> None:
        """Replace the position by one with these fields changed."""
        self.position = self.position.model_copy(update=changes)


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], layer: int, size: int, path: Path) -> None:
    """Check the shapes of the tensors of a layer with keys of this size, in the saved sums at ``path``."""
    if not 0 < size < LARGEST:
        raise damaged(path, f"it has sums of size {size} for layer {layer}")
    expected = (flat_size(size),)
    total = shapes.get(f"total.{layer}")
    at_mark = shapes.get(f"mark.{layer}", expected)  # there is none before the first mark
    if total != expected or at_mark != expected:
        raise damaged(path, f"it has no sum of size {size} for layer {layer}")
    probes = shapes.get(f"probes.{layer}", (0, size))
    if len(probes) != 2 or probes[0] > KEYS or probes[1] != size:
        raise damaged(path, f"its probes of layer {layer} have the shape {list(probes)}")
