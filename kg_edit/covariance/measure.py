"""Measures C = E[k k^T] of several layers in one pass over a text, alone or as one shard of several.

The pass consists of `open_sums`, `add_text` and `write_covariances`; `Sums` is its state between two chunks of
text. The sums are saved every 20 seconds (`CHECKPOINT_SECONDS`), so that a killed run can be resumed.

Whether the text was long enough is seen at marks, at ..., 1/4 and 1/2 of the tokens and at the end: how far the
directions C^-1 k of some probe keys k have turned since the mark before, when half of the tokens had been read. The
result of each such comparison is a "doubling" in the manifest.
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
    part: int = 0,
    parts: int = 1,
) -> Sums:
    """Return the sums for some layers: those of an interrupted run in ``folder``, or else empty ones."""
    if len({identity.tokens for identity in identities.values()}) > 1:
        raise CovarianceError(
            "these layers have different sizes; give the number of tokens, or measure the layers one by one"
        )
    sizes = {layer: matrix_shape(model.down_projection(layer))[1] for layer in identities}
    fresh = Position(identities=identities, sizes=sizes, model_name=model.name, ridge=ridge, part=part, parts=parts)
    path = fresh.path(folder)
    if not path.is_file():
        return Sums(fresh)
    sums = Sums.load(path)
    stored = sums.position
    same_layers = stored.identities == identities and stored.sizes == sizes
    same_shard = stored.part == part and stored.parts == parts
    if not same_layers or not same_shard:
        raise CovarianceError(f"{path} belongs to another run; delete the file")
    log.info("continuing %s after %d of %d tokens", path, stored.seen, fresh.total)
    return sums


def add_text(model: LanguageModel, corpus: Corpus, sums: Sums, folder: Path, *, progress: bool) -> None:
    """Add the rest of the text to ``sums``, and save them in ``folder`` every `CHECKPOINT_SECONDS`."""
    total = sums.position.total
    # What would fail after hours fails now: a folder that can't be written, and a text that is too short.
    _check_writable(folder)
    if corpus.at_hand:
        available = sum(chunk.tokens for chunk in corpus.chunks(model, tokens=total))
        _check_length(corpus.name, available, total)
    modules = ", ".join(identity.module for identity in sums.position.identities.values())
    log.info("measuring the covariance of %s (once) into %s", modules, folder)
    # Untouched, because dropout in training mode would change the keys.
    with _make_bar(sums.position, shown=progress) as bar, keep_untouched(model):

        def see(layer: int, keys: Tensor) -> None:
            sums.see(layer, keys)
            if layer == min(sums.moments):  # once for all layers; within a chunk too, which may take minutes
                bar.update(keys.shape[:-1].numel())

        saved = time.monotonic()
        chunks = corpus.chunks(model, tokens=total)
        for chunk in islice(chunks, sums.position.chunks, None):  # without those that an earlier run has added
            if sums.position.takes_next_chunk:
                chunk.feed(tuple(sums.moments), see)
            sums.end_chunk(chunk.tokens)
            bar.update(sums.position.seen - bar.n)  # also the tokens of other shards
            if time.monotonic() - saved >= CHECKPOINT_SECONDS:
                sums.save(sums.position.path(folder))
                saved = time.monotonic()
    _check_length(corpus.name, sums.position.seen, total)


def _check_writable(folder: Path) -> None:
    """Check that ``folder`` can be written, or created in the nearest folder above it that exists."""
    nearest = folder.absolute()
    while not nearest.exists():
        nearest = nearest.parent
    if not nearest.is_dir() or not os.access(nearest, os.W_OK | os.X_OK):
        raise CovarianceError(f"can't write into the cache {folder}; set KG_EDIT_CACHE to a folder of yours")


def _make_bar(position: Position, *, shown: bool) -> Bar:
    """Return the progress bar of a pass that continues at ``position``."""
    title = "covariance"
    if position.parts > 1:
        title += f", shard {position.part}/{position.parts}"
    return Bar(title=title, unit="token", total=position.total, done=position.seen, shown=shown)


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
        halves: the copies of these sums at the last mark.
        probes: the probe keys of each layer, drawn in the first chunk.
    """

    def __init__(self, position: Position, tensors: Mapping[str, Tensor] | None = None) -> None:
        stored = tensors or {}
        self.position = position
        self.moments = dict[int, SecondMoment]()
        self.halves = dict[int, Tensor]()
        self.probes = dict[int, ProbeKeys]()
        for layer, size in position.sizes.items():
            self.moments[layer] = SecondMoment(size, stored.get(f"total.{layer}"), position.count)
            self.probes[layer] = ProbeKeys(list(stored.get(f"probes.{layer}", ())))
            if f"half.{layer}" in stored:
                self.halves[layer] = stored[f"half.{layer}"]
        # C^-1 k of the probe keys at the last mark, so that they are solved once; a resumed run has to solve them again
        self._directions_at_mark = dict[int, Tensor | None]()

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
        tensors |= {f"half.{layer}": half.cpu() for layer, half in self.halves.items()}
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
        if self.position.parts == 1:  # the sums of a single shard are not comparable; shards are merged later
            self._update_position(doublings={layer: self._compute_doublings(layer) for layer in self.moments})
        self.halves = {layer: moment.total.float() for layer, moment in self.moments.items()}
        self._update_position(half_count=self.position.count)

    def _list_marks(self) -> list[float]:
        """Return the numbers of tokens at which the sums are compared: 1/2, 1/4, ... of the wanted number.

        The smallest one is about d_ff; with fewer tokens C has no inverse.
        """
        marks = [self.position.total / 2]
        while marks[-1] / 2 >= max(self.position.sizes.values()):
            marks.append(marks[-1] / 2)
        return marks

    def close(self) -> None:
        """Mark the pass over the text as complete."""
        self._update_position(finished=True)

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
        moment = self.moments[layer]
        before = self.position.half_count
        if layer not in self.halves or not 0 < before < moment.count:
            return earlier
        if layer in self._directions_at_mark:  # this run passed the last mark itself
            first = self._directions_at_mark[layer]
        else:
            first = self._solve_directions(layer, self.halves[layer], before)
        # Rounded like the copy of the sums, so that a resumed run finds the same angle.
        second = self._solve_directions(layer, moment.total.float(), moment.count)
        self._directions_at_mark[layer] = second
        check = compare_directions(first, second, tokens_before=before, tokens=moment.count, ridge=self.position.ridge)
        if check is None:
            return earlier
        return (*earlier, check)

    def _solve_directions(self, layer: int, total: Tensor, count: int) -> Tensor | None:
        """Return C^-1 k of the probe keys, with C = ``total`` / ``count``."""
        size = self.moments[layer].size
        here = self.moments[layer].total.device
        # Three matrices in float64 (8 bytes a number): C, its factor and a copy. The CPU has room for them.
        free = free_bytes(here)
        has_room = free is None or free > 3 * 8 * size**2
        device = here if has_room else CPU
        c = square(total.to(device, torch.float64) / count, size)
        covariance = Covariance(moment=c, tokens=count, ridge=self.position.ridge, id="")
        return directions(covariance, self.probe_keys(layer))

    def _update_position(self, **changes: object) -> None:
        """Replace the position by one with these fields changed."""
        self.position = self.position.model_copy(update=changes)


def _check_shapes(shapes: Mapping[str, tuple[int, ...]], layer: int, size: int, path: Path) -> None:
    """Check the shapes of the tensors of a layer with keys of this size, in the saved sums at ``path``."""
    expected = (flat_size(size),) if 0 < size < LARGEST else None
    total = shapes.get(f"total.{layer}")
    half = shapes.get(f"half.{layer}", expected)  # there may be none yet
    if total != expected or half != expected:
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
