"""The closed form that writes many values under many keys (MEMIT, arXiv 2210.07229), and what it needs of the facts.

For the layers l_1 < ... < l_n, with the updates of the earlier layers in the model (section 4.3 and Algorithm 1):

    r_i = (z_i - h_i) / (n - j + 1)  [d],   W_{l_j} += R U^T  [d, d_ff]

where z_i is the wanted state of fact i, h_i its present state in the last layer, R [d, facts] has the columns r_i, and
U [d_ff, facts] = `joint_directions` of the facts' keys K [d_ff, facts] in layer l_j (`FactStates` reads h and K). EMMET
writes only one layer, PMET divides by the root of n - j + 1. The loop over the layers is `JointMethod.write_weights`
(`kg_edit.methods.memit.joint_method`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from kg_edit.errors import PatchError
from kg_edit.locate_then_edit.objective import Request
from kg_edit.locate_then_edit.states import Site, SubjectStates
from kg_edit.models.devices import exact
from kg_edit.models.language_model import LanguageModel
from kg_edit.models.prompts import Prompt
from kg_edit.patches.factors import Factors

_SMALLEST_PIVOT = 1e-6  # of the Cholesky factor, as a share of the largest; below it, keys count as dependent


class FactStates:
    """The keys K and the states h of the facts of a batch, for one layer after the other.

    h is read at ``site`` of the last layer: the block's output, or that of its MLP. ``memory`` is in MB, for hidden
    states that are kept from layer to layer (without them lower blocks run again).
    """

    def __init__(
        self, model: LanguageModel, requests: Sequence[Request], layers: Sequence[int], *, site: Site, memory: float
    ) -> None:
        self._counts = [len(request.rewrites) for request in requests]  # rows of each fact, the bare prompt first
        rows = list[Prompt]()
        for request in requests:
            rows += request.rewrites
        self._states = SubjectStates(model, rows, layers, site=site, memory=memory)

    def at(self, layer: int) -> tuple[Tensor, Tensor]:
        """Return K [d_ff, facts] of block ``layer``, and h [facts, d] of the last block in the bare prompts."""
        row_keys, row_states = self._states.at(layer)  # [rows, d_ff], [rows, d]
        keys = [fact_key(contexts_keys) for contexts_keys in row_keys.split(self._counts)]
        states = [fact_states[0] for fact_states in row_states.split(self._counts)]
        return torch.stack(keys, 1), torch.stack(states)


def fact_key(keys: Tensor) -> Tensor:
    """Return k [d_ff] of one fact: (k_0 + mean of k_1, ..., k_n) / 2, where k_0 is the key of the bare prompt.

    This is how MEMIT's public code weights the contexts; ROME's `Objective.mean_key` is the plain mean of all. ``keys``
    [contexts, d_ff] begins with k_0.
    """
    if len(keys) == 1:
        return keys[0]
    return (keys[0] + keys[1:].mean(0)) / 2


def norms_of_facts(updates: Mapping[str, Factors]) -> Tensor:
    """Return the Frobenius norm of each fact's share in the updates of all weights together, [facts]."""
    squares = []
    for update in updates.values():  # |r_i u_i^T|^2 = |r_i|^2 |u_i|^2
        square = update.left.norm(dim=0).square() * update.right.norm(dim=0).square()
        squares.append(square.cpu())
    return torch.stack(squares).sum(0).sqrt()


def joint_directions(keys: Tensor, mapped_keys: Tensor, *, weight: float, count: int | None = None) -> Tensor:
    """Return U = M K (K^T M K + weight I)^-1, which is (weight I + M K K^T)^-1 M K: [d_ff, facts] in float64.

    The update of W [d, d_ff] is R U^T, where R [d, facts] are the wanted changes of the values:

    - MEMIT (arXiv 2210.07229, Eq. 14), M = C^-1, weight = lambda: R K^T (lambda C + K K^T)^-1, the least squares that
      balance R against the unchanged outputs for other keys.
    - EMMET (arXiv 2403.14236), M = C^-1, weight = 0 or small: the output for every key is exact, (W + D) K = W K + R.
    - AlphaEdit (arXiv 2410.02355), M = P, the projection onto directions that other keys hardly use.

    Args:
        keys: K, one column per fact, [d_ff, facts].
        mapped_keys: M K, [d_ff, facts], for a symmetric M without negative eigenvalues.
        weight: the number added to the diagonal.
        count: how many columns of U are returned, the first ones: [d_ff, count]. The columns of K after them are keys
            whose values must not change, such as those of earlier edits: their R is 0, so their U is not needed. None:
            all columns.
    """
    keys = exact(keys)
    mapped_keys = exact(mapped_keys)
    size, columns = keys.shape

    # Solve the smaller of the two systems: [d_ff, d_ff] or [facts, facts].
    if columns > size:
        system = mapped_keys @ keys.T
        system.diagonal().add_(weight)
        solution: Tensor = torch.linalg.solve_ex(system, mapped_keys[:, :count])[0]
        return solution  # not finite if the system is singular; the caller checks this
    gram = keys.T @ mapped_keys
    gram.diagonal().add_(weight)
    lower, failed = torch.linalg.cholesky_ex((gram + gram.T) / 2)
    pivots = lower.diagonal()
    if failed or not pivots.min() > _SMALLEST_PIVOT * pivots.max():
        raise PatchError(
            f"the {len(gram)} keys of these edits, and of what they must leave alone, are linearly dependent or not "
            "finite, so no update fits all of them. Make duplicate edits and edits of the same subject in sequence, or "
            "relax the constraint"
        )
    return torch.cholesky_solve(mapped_keys.T, lower).T[:, :count]
