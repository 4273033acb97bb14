"""Rows of tokens that the loss reads, each kind's part in the loss, and the passes in which they run.

`Rewrites`, `Essences` and `DistillationRows` are the kinds: logits in, a loss an edit out. A `Pass` is one forward of
rows of any kinds. With few tokens a pass takes as long as it takes to read the weights, so `passes` puts rows of unlike
lengths together where the padding costs less than a pass of their own; else equally long ones, and of few enough tokens
to stay in the processor's caches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.value.tail_forward import tail

_PASS = 32  # tokens: what a pass costs besides its tokens; 36 measured on one thread of a processor
Part = Literal["nll", "kl", "further"]


@dataclass(frozen=True, eq=False, kw_only=True)
class SoftTarget:
    """What a teacher expects at each of a row's target tokens: its likeliest ``tokens`` [target tokens, k], and their
    ``probabilities``, which sum to 1 a token."""

    tokens: Tensor
    probabilities: Tensor


@dataclass(frozen=True, kw_only=True)
class TargetRow:
    """A prompt of the edit with the index ``edit``; ``weight``: its share in ``part`` of that edit's loss."""

    edit: int
    prompt: Prompt
    part: Part = "nll"
    weight: float = 1.0
    taught: SoftTarget | None = None

    @property
    def kind(self) -> type[Rows]:
        """What its loss is."""
        if self.part == "kl":
            return Essences
        return Rewrites if self.taught is None else DistillationRows

    @property
    def length(self) -> int:
        """Of its tail, in tokens."""
        return len(tail(self.prompt))

    @property
    def reads(self) -> int:
        """At how many tokens the loss reads it."""
        return max(1, len(self.prompt.target_ids))


class Forward(Protocol):
    """Rows of prompts whose logits are wanted under a change: `TailForward`, or its oracle `PlainForward`.

    ``keys`` [rows, d_ff] and ``values`` [rows, d] are the clean input and output of the edited down-projection at the
    subject's last token.
    """

    keys: Tensor
    values: Tensor

    def logits(self, change: Tensor | None = None) -> Tensor:
        """Logits [reads, vocabulary] under ``change`` [rows, d]."""

    def kept(self, rows: Sequence[int]) -> Forward:
        """The forward of the rows with these indices alone."""


class ForwardFactory(Protocol):
    """Makes the `Forward` of rows of prompts whose change is in block ``layer``."""

    def __call__(self, model: LanguageModel, layer: int, rows: Sequence[Prompt], /) -> Forward:
        """The forward for ``rows`` with the change in ``layer``."""


class Pass:
    """Rows that run together, those of one kind after the other; ``edits``: how many there are in all."""

    def __init__(self, rows: Sequence[TargetRow], forward: Forward, *, edits: int) -> None:
        self.rows, self.forward, self._edits = rows, forward, edits
        self._edit_of_row = torch.tensor([row.edit for row in rows])
        self._kinds: list[tuple[Rows, slice]] = []
        clean, start = self._clean_logits(), 0
        for kind, part in dict.fromkeys((row.kind, row.part) for row in rows):
            own = [row for row in rows if (row.kind, row.part) == (kind, part)]
            reads = slice(start, start := start + sum(row.reads for row in own))
            self._kinds.append((kind(own, part, None if clean is None else clean[reads], edits=edits), reads))

    @torch.no_grad()
    def _clean_logits(self) -> Tensor | None:
        """Of the unedited model, if a kind asks for them."""
        return self.forward.logits() if any(row.kind is Essences for row in self.rows) else None

    def losses(self, change: Tensor) -> list[tuple[Part, Tensor]]:
        """Each kind's part in the loss of each edit, [edits], under ``change`` [edits, d]."""
        logits = self._logits(change)
        return [(kind.part, kind.loss(logits[reads])) for kind, reads in self._kinds]

    def wrong(self, change: Tensor, *, margin: float) -> list[Tensor]:
        """How many target tokens of each edit's own prompt are not the likeliest by ``margin``, [edits]."""
        own = [(kind, reads) for kind, reads in self._kinds if isinstance(kind, Rewrites) and kind.part == "nll"]
        logits = self._logits(change) if own else change
        return [kind.wrong(logits[reads], margin=margin) for kind, reads in own]

    def without(self, done: set[int]) -> Pass | None:
        """The pass without the rows of edits that are ``done``, once these are half of it; None if all are."""
        left = [place for place, row in enumerate(self.rows) if row.edit not in done]
        if not left:
            return None
        if 2 * len(left) > len(self.rows):
            return self
        return Pass([self.rows[place] for place in left], self.forward.kept(left), edits=self._edits)

    def _logits(self, change: Tensor) -> Tensor:
        return self.forward.logits(change[self._edit_of_row.to(change.device)])


class Rows(ABC):
    """The rows of one kind in a pass, and the ``part`` of the loss in which they are: [edits], 0 for other edits.

    ``clean``: the unedited model's logits where they are read, [reads, vocabulary].
    """

    def __init__(self, rows: Sequence[TargetRow], part: Part, clean: Tensor | None, *, edits: int) -> None:
        self.part, self._edits = part, edits
        sizes = torch.tensor([row.reads for row in rows])
        self._edit_of_read = torch.tensor([row.edit for row in rows]).repeat_interleave(sizes)
        self._weights = (torch.tensor([row.weight for row in rows]) / sizes).repeat_interleave(sizes)

    @abstractmethod
    def loss(self, logits: Tensor) -> Tensor:
        """The rows' part in each edit's loss, [edits], with ``logits`` [reads, vocabulary]."""

    def _of_edits(self, values: Tensor) -> Tensor:
        """Sum ``values`` [reads] edit by edit: [edits]."""
        return values.new_zeros(self._edits).index_add(0, self._edit_of_read.to(values.device), values)

    def _mean(self, values: Tensor) -> Tensor:
        """The weighted mean over rows of the mean over a row's reads, edit by edit: [edits]."""
        return self._of_edits(values * self._weights.to(values.device))


class Rewrites(Rows):
    """L_p: the mean over an edit's rows of the mean over a row's target tokens of -log p."""

    def __init__(self, rows: Sequence[TargetRow], part: Part, clean: Tensor | None, *, edits: int) -> None:
        super().__init__(rows, part, clean, edits=edits)
        self._targets = torch.tensor([token for row in rows for token in row.prompt.target_ids])

    def loss(self, logits: Tensor) -> Tensor:
        """The rows' part in each edit's loss, [edits], with ``logits`` [reads, vocabulary]."""
        targets = self._targets.to(logits.device)
        return self._mean(torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none"))

    def wrong(self, logits: Tensor, *, margin: float) -> Tensor:
        """How many of each edit's target tokens are not the likeliest by ``margin``, [edits]."""
        two, tokens = logits.float().topk(2, dim=-1)
        missed = (tokens[:, 0] != self._targets.to(logits.device)) | (two[:, 0] - two[:, 1] < margin)
        return self._of_edits(missed.to(two.dtype))


class Essences(Rows):
    """L_a: KL(edited || unedited) of the next-token distribution at the subject's last token."""

    def __init__(self, rows: Sequence[TargetRow], part: Part, clean: Tensor | None, *, edits: int) -> None:
        super().__init__(rows, part, clean, edits=edits)
        assert clean is not None  # noqa: S101 - `Pass` has them where a row is an essence
        self._clean = clean.float().log_softmax(-1)

    def loss(self, logits: Tensor) -> Tensor:
        """The rows' part in each edit's loss, [edits], with ``logits`` [reads, vocabulary]."""
        edited = logits.float().log_softmax(-1)
        return self._of_edits((edited.exp() * (edited - self._clean)).sum(-1))


class DistillationRows(Rows):
    """Soft targets: the mean over a row's target tokens of -sum q log p, where q is what a teacher expects there.

    Its gradient is that of KL(q || p), as q does not change (Hinton et al. 2015, arXiv 1503.02531).
    """

    def __init__(self, rows: Sequence[TargetRow], part: Part, clean: Tensor | None, *, edits: int) -> None:
        super().__init__(rows, part, clean, edits=edits)
        targets = [row.taught for row in rows if row.taught is not None]
        self._tokens = torch.cat([target.tokens for target in targets])
        self._probabilities = torch.cat([target.probabilities for target in targets])

    def loss(self, logits: Tensor) -> Tensor:
        """The rows' part in each edit's loss, [edits], with ``logits`` [reads, vocabulary]."""
        found = logits.float().log_softmax(-1).gather(-1, self._tokens.to(logits.device))
        return self._mean(-(self._probabilities.to(logits.device) * found).sum(-1))


def passes(rows: Sequence[TargetRow], *, tokens: int) -> Iterator[list[TargetRow]]:
    """The rows in passes of about ``tokens`` tokens at most, padding included; those of one kind keep their order."""
    by_length: dict[int, list[TargetRow]] = {}
    for row in rows:
        by_length.setdefault(row.length, []).append(row)
    some, width = list[TargetRow](), 0
    for length, alike in sorted(by_length.items()):
        fits = (len(some) + len(alike)) * length <= tokens
        if some and not (fits and len(some) * (length - width) <= _PASS):
            yield from _pieces(some, width, tokens)
            some = []
        some, width = [*some, *alike], length
    yield from _pieces(some, width, tokens)


def _pieces(rows: Sequence[TargetRow], width: int, tokens: int) -> Iterator[list[TargetRow]]:
    """Rows of ``width`` tokens in parts of equal size, each with one kind after the other."""
    if not rows:
        return
    size = -(-len(rows) // -(-len(rows) * width // tokens))
    order = sorted(rows, key=lambda row: (row.part, row.kind.__name__))
    for start in range(0, len(order), size):
        yield order[start : start + size]
