"""Three bounds on an update D = R U^T of a weight W [d, d_ff], with R [d, facts] and U [d_ff, facts].

- SPHERE (arXiv 2510.01172), `remove_principal`: D avoids W's principal directions V: it becomes D (I - strength V V^T);
- RECT (arXiv 2401.04700), `keep_most_changed`: only the elements of D that change their weight most are written;
- PRUNE (arXiv 2405.16821), `prune`: the singular values of all updates together are bounded by the unedited W's.

`exact` converts to float64, in which the first and the third are computed; the factors of an update are in float32.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from kg_edit.models.devices import exact
from kg_edit.patches.factors import Factors

_ENERGY = 0.5  # share of the eigenvalues' sum that the principal directions have, as in the public code


def find_principal_directions(weight: Tensor) -> Tensor:
    """Return V [d_ff, directions] of ``weight`` W [d, d_ff], in float64.

    With A the rows of W scaled to norm 1, they are the eigenvectors of A^T A with the largest eigenvalues, as many as
    have half of the eigenvalues' sum. If u is an eigenvector of the smaller A A^T with the eigenvalue e, then
    A^T u / sqrt(e) is one of A^T A with the same eigenvalue, of norm 1.
    """
    rows = exact(weight)
    rows = rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-8)  # A
    values, vectors = torch.linalg.eigh(rows @ rows.T)  # of A A^T, [d, d]
    values = values.flip(0).clamp(min=0)  # the largest first
    vectors = vectors.flip(1)
    share = values.cumsum(0) / values.sum()
    count = int((share <= _ENERGY).sum()) + 1
    directions: Tensor = rows.T @ vectors[:, :count] / values[:count].sqrt()  # V
    return directions


def remove_principal(principal: Tensor, right: Tensor, *, strength: float) -> Tensor:
    """Return P U for the right factor U [d_ff, facts] of an update R U^T, with P = I - strength V V^T.

    V is ``principal``, the `find_principal_directions` of the weight that the update changes.
    """
    wide = exact(right)
    removed: Tensor = strength * principal @ (principal.T @ wide)
    return (wide - removed).to(right.dtype)


def keep_most_changed(update: Factors, weight: Tensor, *, share: float) -> Factors:
    """Return the update D [d, d_ff] with 0 for all but a share of its elements: those with the largest |D / W| (RECT).

    Where several are as large as the smallest of them, all are written.
    """
    change = update.product.to(weight.device)
    # Where an element of W is 0: 0/0 counts as unchanged (0), and D/0 as the largest (inf).
    relative = (change / weight.float()).abs().nan_to_num(0.0, posinf=torch.inf).flatten()
    written = max(1, round(share * relative.numel()))
    threshold = relative.kthvalue(relative.numel() - written + 1).values
    return Factors.dense(change * (relative >= threshold).view_as(change))


def prune(update: Factors, weight: Tensor, *, earlier: Sequence[Factors], base: float) -> Factors:
    """Return the update D [d, d_ff], corrected so that all updates together are bounded (PRUNE).

    With S = sum of the earlier updates + D and s the largest singular value of the unedited W_0, each singular value
    sigma > s of S becomes min(sigma, s + log_base(sigma / s)).

    Args:
        update: D.
        weight: W, which is W_0 with the earlier updates, [d, d_ff].
        earlier: the updates of earlier edits.
        base: of the logarithm.
    """
    unedited = exact(weight)  # W_0, when the earlier updates are subtracted
    for pair in earlier:
        unedited = unedited - exact(pair.product).to(unedited.device)

    # S = X Y^T with X [d, r] and Y [d_ff, r], where r is the sum of the updates' ranks. By QR, X = Q_X T_X and
    # Y = Q_Y T_Y, with orthonormal columns in Q_X and Q_Y. So S = Q_X (T_X T_Y^T) Q_Y^T has the singular values sigma
    # of the small T_X T_Y^T, and its singular vectors are those of the small one, times Q_X and Q_Y.
    updates = [pair.float32_on(update.left.device) for pair in earlier]
    updates.append(update)
    total = Factors.join(updates)
    q_x, t_x = torch.linalg.qr(exact(total.left))
    q_y, t_y = torch.linalg.qr(exact(total.right))
    u, sigma, v_transposed = torch.linalg.svd(t_x @ t_y.T, full_matrices=False)

    # |W_0|^2 is the sum of the squares of W_0's min(d, d_ff) singular values, so the largest one s is at least this:
    least_s = unedited.norm() / min(unedited.shape) ** 0.5
    if sigma[0] <= least_s:  # no sigma exceeds s, which need not be computed
        return update

    # D + sum over sigma > s of (bounded sigma - sigma) u v^T
    s = torch.linalg.matrix_norm(unedited, 2).to(sigma.device)
    over = sigma > s
    bounded = torch.minimum(sigma, s + (sigma / s).log() / math.log(base))
    correction_left = q_x @ u[:, over] * (bounded - sigma)[over]  # [d, over]
    correction_right = q_y @ v_transposed[over].T  # [d_ff, over]
    correction = Factors(left=correction_left.to(update.left), right=correction_right.to(update.right))
    return update + correction
