"""Measures C = E[k k^T] of several layers in one pass over a text.

The pass consists of `open_sums`, `add_text` and `write_covariances`; `Sums` is its state between two chunks of
text. The sums are saved every 20 seconds (`CHECKPOINT_SECONDS`), so that a killed run can be resumed.

Was the text long enough? Of 100,000 tokens there are marks at 12,500, 25,000 and 50,000. From each mark to the next
one, and from the last one to the end, the number of tokens doubles. At the end of each such "doubling" C is compared
with what it was at the mark before: by what angle have the directions C^-1 k of some probe keys k turned? The manifest
lists these angles.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from kg_common.progress import Bar
from kg_edit.covariance.corpora import Corpus
from kg_edit.covariance.factor import CPU
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
from kg_edit.covariance.moment import (
    ConvergenceCheck,
    Covariance,
    SecondMoment,
    compare_directions,
    directions,
    flat_size,
    square,
)
from kg_edit.errors import CovarianceError
from kg_edit.models.devices import free_bytes
from kg_edit.models.hooks import keep_untouched
from kg_edit.models.language_model import LanguageModel, matrix_shape
from kg_edit.version import code_sha256

log = logging.getLogger(__name__)

CHECKPOINT_SECONDS = 20.0
"""Seconds between two saves, which is about the work that a killed run may lose; a chunk is always finished first."""

KEYS = 16
"""The number of keys on which a layer's C is compared with C from half of the tokens."""

_KEYS_A_CALL = 4  # probe keys drawn in a call, so that the `KEYS` are from several texts


def open_sums(
    model: LanguageModel,
    identities: dict[int, Identity],
    folder: Path,
    *,
    ridge: float,
) -> Sums:
    """Return the sums for some layers: those of an interrupted run in ``folder``, or else empty ones."""
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
    log.info("continuing %s after %d of %d tokens", path, stored.seen, fresh.total)
    return sums


def add_text(model: LanguageModel, corpus: Corpus, sums: Sums, folder: Path, *, progress: bool) -> None:
    """Add the rest of the text to ``sums``, and save them in ``folder`` every `CHECKPOINT_SECONDS`."""
    total = sums.position.total
    _check_writable(folder)
    _check_at_hand(model, corpus, total)
    modules = ", ".join(identity.module for identity in sums.position.identities.values())
    log.info("measuring the covariance of %s (once) into %s", modules, folder)
    bar = Bar(title="covariance", unit="token", total=total, done=sums.position.seen, shown=progress)
    # Untouched, because dropout in training mode would change the keys.
    with bar, keep_untouched(model):

        def see(layer: int, keys: Tensor) -> None:  # keys: [..., d_ff]
            sums.see(layer, keys)
            if layer == min(sums.moments):  # once for all layers; within a chunk too, which may take minutes
                bar.update(keys.shape[:-1].numel())  # the number of tokens

        saved = time.monotonic()
        chunks = corpus.chunks(model, tokens=total)
        for chunk in islice(chunks, sums.position.chunks, None):  # without those that an earlier run has added
            chunk.feed(tuple(sums.moments), see)
            sums.end_chunk(chunk.tokens)
            if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                sums.save(sums.position.path(folder))
                saved = time.monotonic()
    _check_length(corpus.name, sums.position.seen, total)


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


def write_covariances(sums: Sums, folder: Path) -> dict[int, Manifest]:
    """Write the covariances into ``folder``, then delete the saved sums; return the manifests by layer."""
    manifests = sums.finish(folder)
    sums.position.path(folder).unlink(missing_ok=True)
    return manifests


def _check_length(corpus: str, tokens: int, expected: int) -> None:
    """Check that a corpus has at least the expected number of tokens."""
    if tokens < expected:
        raise CovarianceError(
            f"the corpus {corpus} ends after {tokens} of {expected} tokens; give more text (--corpus FILE), or ask for "
            "fewer tokens"
        )


class Sums:
    """The second moments of some layers, a copy of them at an earlier mark, and the probe keys that compare both.

    At each mark the sums are compared with the copy from the previous mark, and a new copy in float32 replaces it.

    Attributes:
        position: what is read so far, of which text and layers; replaced at the end of each chunk.
        moments: the sum of k k^T of each layer, with its count.
        at_mark: the copies of these sums at the last mark; empty before the first one.
        probes: the probe keys of each layer, drawn in the first chunk.
    """

    def __init__(self, position: Position, tensors: Mapping[str, Tensor] | None = None) -> None:
        stored = tensors or {}
        self.position = position
        self.moments = dict[int, SecondMoment]()
        self.at_mark = dict[int, Tensor]()
        self.probes = dict[int, ProbeKeys]()
        for layer, size in position.sizes.items():
            self.moments[layer] = SecondMoment(size, stored.get(f"total.{layer}"), position.count)
            self.probes[layer] = ProbeKeys(list(stored.get(f"probes.{layer}", ())))
            if f"mark.{layer}" in stored:
                self.at_mark[layer] = stored[f"mark.{layer}"]
        # C^-1 k of the probe keys, by layer and number of tokens: those of a mark are compared twice, and solved once.
        self._directions = dict[tuple[int, int], Tensor | None]()

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
        """Write the sums, the probe keys and the position to ``path``, atomically."""
        tensors = {f"total.{layer}": moment.total.cpu() for layer, moment in self.moments.items()}
        tensors |= {f"mark.{layer}": total.cpu() for layer, total in self.at_mark.items()}
        tensors |= {f"probes.{layer}": self.probe_keys(layer) for layer in self.moments}
        write_tensors(path, tensors, self.position)

    def see(self, layer: int, keys: Tensor) -> None:
        """Add ``keys`` [..., d_ff] of ``layer``; in the first chunk, some are stored as probe keys."""
        self.moments[layer].add(keys)
        if self.position.chunks == 0:
            self.probes[layer].see(keys)

    def end_chunk(self, tokens: int) -> None:
        """Count the chunk of ``tokens`` tokens that has just been read; at a mark, compare and copy the sums."""
        for layer, moment in self.moments.items():
            moment.flush()  # so that a resumed run adds the same keys together, with the same rounding
            check_finite(moment.total, self.position.identities[layer])
        before = self.position.seen
        seen = before + tokens
        first, *_ = self.moments.values()  # all have the same count
        self._update_position(chunks=self.position.chunks + 1, seen=seen, count=first.count)
        passed_mark = any(before < mark <= seen for mark in self._list_marks())
        if passed_mark and seen < self.position.total:
            self._compare_and_copy()

    def _compare_and_copy(self) -> None:
        """At a mark, note the doubling since the mark before, and copy the sums for the next one."""
        doublings = {layer: self._compute_doublings(layer) for layer in self.moments}
        self.at_mark = {layer: moment.total.float() for layer, moment in self.moments.items()}
        self._update_position(doublings=doublings, count_at_mark=self.position.count)

    def _list_marks(self) -> list[float]:
        """Return the numbers of tokens at which the sums are compared: 1/2, 1/4, ... of the wanted number.

        The smallest one is about d_ff; with fewer tokens C has no inverse.
        """
        marks = [self.position.total / 2]
        while marks[-1] / 2 >= max(self.position.sizes.values()):
            marks.append(marks[-1] / 2)
        return marks

    def finish(self, folder: Path) -> dict[int, Manifest]:
        """Write every layer's C, with its last doubling, into ``folder``; return the manifests by layer."""
        manifests = {}
        for layer, moment in self.moments.items():
            manifests[layer] = Manifest(
                code_sha256=code_sha256(),
                **self.position.identities[layer].model_dump(),
                count=moment.count,
                chunks=self.position.chunks,
                model_name=self.position.model_name,
                size=moment.size,
                doublings=self._compute_doublings(layer),
            )
            write_moment(folder, moment.total / max(1, moment.count), manifests[layer])
        return manifests

    def probe_keys(self, layer: int) -> Tensor:
        """Return the keys on which the doublings of ``layer`` are measured: [at most `KEYS`, d_ff] in float32."""
        return self.probes[layer].keys(self.position.sizes[layer])

    def _compute_doublings(self, layer: int) -> tuple[ConvergenceCheck, ...]:
        """Return the doublings of a layer, with that from the last mark to the present sums, if there is one."""
        earlier = self.position.doublings.get(layer, ())
        count_at_mark = self.position.count_at_mark
        moment = self.moments[layer]
        if layer not in self.at_mark or not 0 < count_at_mark < moment.count:
            return earlier
        first = self._solve_directions(layer, self.at_mark[layer], count_at_mark)
        # Rounded like the copy of the sums, so that a resumed run finds the same angle.
        second = self._solve_directions(layer, moment.total.float(), moment.count)
        check = compare_directions(
            first, second, tokens_before=count_at_mark, tokens=moment.count, ridge=self.position.ridge
        )
        if check is None:
            return earlier
        return (*earlier, check)

    def _solve_directions(self, layer: int, total: Tensor, count: int) -> Tensor | None:
        """Return C^-1 k of the probe keys, with C = ``total`` / ``count``; None if C has no inverse."""
        if (layer, count) in self._directions:
            return self._directions[layer, count]
        size = self.moments[layer].size
        here = self.moments[layer].total.device
        # Three matrices in float64 (8 bytes a number): C, its factor and a copy. The CPU has room for them.
        free = free_bytes(here)
        has_room = free is None or free > 3 * 8 * size**2
        device = here if has_room else CPU
        c = square(total.to(device, torch.float64) / count, size)
        covariance = Covariance(moment=c, tokens=count, ridge=self.position.ridge, id="")
        solved = directions(covariance, self.probe_keys(layer))
        self._directions[layer, count] = solved
        return solved

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


class ProbeKeys:
    """The probe keys, on which doublings are measured: some keys of each call; the latest `KEYS` are used.

    A probe key is part of the sum itself, but this does not turn its direction: (C + k k^T)^-1 k is parallel to C^-1 k.
    """

    def __init__(self, keys: Sequence[Tensor] = ()) -> None:
        self._keys = list(keys)
        self._generator = torch.Generator().manual_seed(0)

    def see(self, keys: Tensor) -> None:
        """Keep a few of ``keys`` [..., d_ff], drawn at random; drop the oldest ones beyond `KEYS`."""
        rows = keys.detach().reshape(-1, keys.shape[-1])
        chosen = torch.randperm(len(rows), generator=self._generator)[:_KEYS_A_CALL]
        self._keys += rows[chosen.to(rows.device)].float().cpu().unbind()
        self._keys = self._keys[-KEYS:]

    def keys(self, size: int) -> Tensor:
        """Return the stored keys, [at most `KEYS`, size] in float32."""
        if not self._keys:
            return torch.zeros(0, size)
        return torch.stack(self._keys)
