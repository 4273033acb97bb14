"""What many edits of `glame-plus` ask alike, found once: how questions begin, and the keys of other things' questions.

A relation's edits ask the same questions about the same other things. Both are taken from the model without the edit:
what an edit changes in a question about another thing is what its update is to keep small.
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
_HELD = 4096  # whose keys are held


class KnownQuestions:
    """``starts`` holds what stands before a subject; `keys` of a question are found once for each model state."""

    def __init__(self) -> None:
        self.starts = PrefixStore()
        self._held: OrderedDict[tuple[str, int, tuple[int, ...]], Tensor] = OrderedDict()

    def keys(self, model: LanguageModel, rows: Sequence[Prompt], layer: int, starts: SharedContexts) -> Tensor:
        """The inputs of the down-projection of ``layer`` at the token where each row is edited, [d_ff, rows]."""
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
        """What was used longest ago goes first."""
        for place in places:
            self._held.move_to_end(place)
        while len(self._held) > _HELD:
            self._held.popitem(last=False)


@torch.no_grad()
def last_keys(model: LanguageModel, rows: Sequence[Prompt], layer: int, starts: SharedContexts) -> Tensor:
    """The inputs of the down-projection at the token where each row is edited, [rows, d_ff]."""
    keys: list[Tensor] = []
    prefix = starts.prefix(model, [row.ids[: row.edited_at] for row in rows], beyond=1)
    last = left_pad([[row.ids[row.edited_at]] for row in rows], device=model.device)
    with watched(model.down_projection(layer), lambda key, _: keys.append(key.reshape(len(rows), -1))):
        block_output(model, last, layer, prefix=prefix)
    return keys[0].float()
