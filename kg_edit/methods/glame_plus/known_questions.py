"""A cache for questions that several edits of `glame-plus` share: their prefixes, and their keys.

Edits of one relation ask the same questions about the same other things. Prefixes and keys are computed on the model
without the edit, so they are the same for all edits. The keys describe the unedited model on purpose: the update should
change the answers about other things as little as possible.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor

from kg_edit.models.hooks import watched
from kg_edit.models.language_model import LanguageModel, weight_matrix
from kg_edit.models.prefix_cache import SharedContexts
from kg_edit.models.prefix_store import PrefixStore, model_state
from kg_edit.models.prompts import Prompt, left_pad
from kg_edit.models.replay import block_output

_ROWS = 32  # questions in one pass
_HELD = 4096  # questions whose keys are kept


class KnownQuestions:
    """Caches the prefixes before a subject (``starts``), and the key of each question for each state of the model."""

    def __init__(self) -> None:
        self.starts = PrefixStore()
        self._held: OrderedDict[tuple[str, int, tuple[int, ...]], Tensor] = OrderedDict()

    def keys(self, model: LanguageModel, rows: Sequence[Prompt], layer: int, starts: SharedContexts) -> Tensor:
        """The inputs of the down-projection of ``layer`` at the edited token of each row, [d_ff, rows].

        Rows that are equal up to this token count once.
        """
        state = model_state(model)
        asked = {(state, layer, row.ids[: row.edited_at + 1]): row for row in rows}
        new = [place for place in asked if place not in self._held]
        for first in range(0, len(new), _ROWS):
            some = new[first : first + _ROWS]
            found = last_keys(model, [asked[place] for place in some], layer, starts)
            self._held.update(zip(some, found.unbind(), strict=True))
        if not asked:
            return torch.empty(weight_matrix(model.down_projection(layer)).shape[1], 0)
        keys = torch.stack([self._held[place] for place in asked]).T
        self._use(list(asked))
        return keys

    def _use(self, places: Sequence[tuple[str, int, tuple[int, ...]]]) -> None:
        """Mark these entries as used, and drop the least recently used entries beyond the limit."""
        for place in places:
            self._held.move_to_end(place)
        while len(self._held) > _HELD:
            self._held.popitem(last=False)


@torch.no_grad()
def last_keys(model: LanguageModel, rows: Sequence[Prompt], layer: int, starts: SharedContexts) -> Tensor:
    """The inputs of the down-projection of ``layer`` at the edited token of each row, [rows, d_ff]."""
    keys: list[Tensor] = []
    prefix = starts.prefix(model, [row.ids[: row.edited_at] for row in rows], beyond=1)
    last = left_pad([[row.ids[row.edited_at]] for row in rows], device=model.device)
    with watched(model.down_projection(layer), lambda key, _: keys.append(key.reshape(len(rows), -1))):
        block_output(model, last, layer, prefix=prefix)
    return keys[0].float()
