"""The rows of tokens in the objective: the loss of each kind of row, and the forward passes in which rows run.

`Rewrites`, `Essences` and `DistillationRows` are the kinds of rows. Each turns logits into one loss per edit. A `Pass`
is one forward pass, with rows of any kind. `passes` groups the rows: a pass with few tokens takes as long as reading
the weights, so rows of different length share a pass if the padding costs less than another pass. A pass has few enough
tokens to stay in the processor's caches.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from kg_edit.locate_then_edit.tail_forward import tail
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt

_PASS = 32  # fixed cost of a pass, in tokens; measured: 36 on one thread of a processor
Part = Literal["nll", "kl", "further"]


@dataclass(frozen=True, eq=False, kw_only=True)
class SoftTarget:
    """A teacher's distribution at each target token of a row.

    ``tokens`` [target tokens, k] are the likeliest token ids, ``probabilities`` [target tokens, k] their probabilities,
    which sum to 1 for each target token.
    """

    tokens: Tensor
    probabilities: Tensor


@dataclass(frozen=True, kw_only=True)
class TargetRow:
    """A prompt of the edit with index ``edit``, with its ``weight`` in one ``part`` of that edit's loss.

    ``taught`` is the soft target of the row; None: the target is the prompt's own text.
    """

    edit: int
    prompt: Prompt
    part: Part = "nll"
    weight: float = 1.0
    taught: SoftTarget | None = None

    @property
    def kind(self) -> type[Rows]:
        """The class that computes the loss of this row."""
        if self.part == "kl":
            return Essences
        return Rewrites if self.taught is None else DistillationRows

    @property
    def length(self) -> int:
        """The length of the row's tail (`tail`), in tokens."""
        return len(tail(self.prompt))

    @property
    def reads(self) -> int:
        """The number of positions of this row whose logits the loss reads."""
        return max(1, len(self.prompt.target_ids))


class Forward(Protocol):
    """Computes the logits of rows of prompts under a change: `TailForward`, or its reference `PlainForward`.

    ``keys`` [rows, d_ff] and ``values`` [rows, d] are the input and output of the edited down-projection at the
    subject's last token, in the model without the change.
    """

    keys: Tensor
    values: Tensor

    def logits(self, change: Tensor | None = None) -> Tensor:
        """Logits [reads, vocabulary] under ``change`` [rows, d]."""

    def kept(self, rows: Sequence[int]) -> Forward:
        """The forward of only the rows with these indices."""


class ForwardFactory(Protocol):
    """Makes a `Forward` for rows of prompts, with the change in block ``layer``."""

    def __call__(self, model: LanguageModel, layer: int, rows: Sequence[Prompt], /) -> Forward:
        """The forward for ``rows`` with the change in ``layer``."""


class Pass:
    """Rows that run in one forward pass, ordered by kind. ``edits`` is the number of edits of the whole objective."""

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
        """The logits of the unedited model, if a row is an essence; else None."""
        return self.forward.logits() if any(row.kind is Essences for row in self.rows) else None

    def losses(self, change: Tensor) -> list[tuple[Part, Tensor]]:
        """Under ``change`` [edits, d], the loss of each kind of rows: (part of the loss, loss by edit [edits])."""
        logits = self._logits(change)
        return [(kind.part, kind.loss(logits[reads])) for kind, reads in self._kinds]

    def wrong(self, change: Tensor, *, margin: float) -> list[Tensor]:
        """The number of target tokens in each edit's rewrites that are not the likeliest by ``margin``, [edits]."""
        own = [(kind, reads) for kind, reads in self._kinds if isinstance(kind, Rewrites) and kind.part == "nll"]
        logits = self._logits(change) if own else change
        return [kind.wrong(logits[reads], margin=margin) for kind, reads in own]

    def without(self, done: set[int]) -> Pass | None:
        """The pass without the rows of the edits in ``done``; None if no row remains.

        If less than half of the rows can go, the pass itself is returned, because building a new pass has a cost.
        """
        left = [place for place, row in enumerate(self.rows) if row.edit not in done]
        if not left:
            return None
        if 2 * len(left) > len(self.rows):
            return self
        return Pass([self.rows[place] for place in left], self.forward.kept(left), edits=self._edits)

    def _logits(self, change: Tensor) -> Tensor:
        return self.forward.logits(change[self._edit_of_row.to(change.device)])


class Rows(ABC):
    """The rows of one kind in a pass. Subclasses define their loss.

    ``part`` is the part of the loss that the rows belong to. ``clean`` has the unedited model's logits at the positions
    that are read, [reads, vocabulary]. ``edits`` is the number of edits of the whole objective; the loss of an edit
    without such rows is 0.
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
        """The sums of ``values`` [reads] over the reads of each edit, [edits]."""
        return values.new_zeros(self._edits).index_add(0, self._edit_of_read.to(values.device), values)

    def _mean(self, values: Tensor) -> Tensor:
        """For each edit, the weighted sum over its rows of the mean of ``values`` over a row's reads, [edits]."""
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
        """The number of each edit's target tokens that are not the likeliest by ``margin``, [edits]."""
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
    """Soft targets: the mean over a row's target tokens of -sum q log p, where q is the teacher's distribution.

    Its gradient is that of KL(q || p), because q is constant (Hinton et al. 2015, arXiv 1503.02531).
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
    """Group the rows into passes of at most about ``tokens`` tokens, padding included."""
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
    """Split rows of up to ``width`` tokens into parts of equal size; each part is ordered by kind of row."""
    if not rows:
        return
    size = -(-len(rows) // -(-len(rows) * width // tokens))
    order = sorted(rows, key=lambda row: (row.part, row.kind.__name__))
    for start in range(0, len(order), size):
        yield order[start : start + size]
