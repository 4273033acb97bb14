"""Average changes of weights: the sum of patches of the same edits, each with its share (arXiv 2203.05482, 2212.04089).

What two methods change for an edit adds up, because both make its target likelier; what they change elsewhere, each in
its own way, hardly does.
"""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from kg_edit.errors import ConfigError, PatchError
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch

log = logging.getLogger(__name__)

AVERAGED = "averaged"  # the field of a provenance with the patches and their shares
_AND = " + "  # between the names of the methods that made an edit, in its record


def average_patches(patches: Sequence[Patch], shares: Sequence[float]) -> WeightPatch:
    """Return the sum of the patches' changes, each times its share.

    The result lists every edit once, has no state, and single edits can't be removed from it. Edits that are not in
    every patch, and so get less than their whole change, are a warning.

    Args:
        patches: at least two patches of weights for one model.
        shares: the factor of each patch's change.
    """
    if len(patches) < 2 or len(patches) != len(shares):
        raise ConfigError(f"expected at least two patches and as many shares; found {len(patches)} and {len(shares)}")
    scaled = list[Patch]()
    for number, (patch, share) in enumerate(zip(patches, shares, strict=True), 1):
        if not isinstance(patch, WeightPatch):
            raise PatchError(
                f"patch {number} of {len(patches)} is of the {patch.changed_in_words}, which can't be averaged; "
                "expected patches of weights, such as rome's"
            )
        scaled.append(patch.scaled(share))
    records = _join_records(patches)
    _warn_of_weaker_edits(patches, shares)

    total = scaled[0]
    for patch in scaled[1:]:
        total = total + patch
    assert isinstance(total, WeightPatch)  # noqa: S101 - the sum of patches of weights
    note = [
        {"share": share, "methods": patch.provenance.get("methods", ()), "edits": len(patch.edits)}
        for patch, share in zip(patches, shares, strict=True)
    ]
    provenance = {**total.provenance, "edits": records, AVERAGED: note}
    return WeightPatch(factors=total.factors, provenance=provenance)


def _join_records(patches: Sequence[Patch]) -> list[dict[str, Any]]:
    """Return one record of each edit, with the names of all methods that made it, such as "rome + memit"."""
    edits = dict[str, Mapping[str, Any]]()  # by the edit's id
    methods = defaultdict[str, list[str]](list)  # by the edit's id: the names, which may repeat
    for patch in patches:
        for record in patch.edits:
            if not {"edit", "method"} <= record.keys():
                raise PatchError("a record of a patch lacks its edit or its method; make the patch again")
            edit = record["edit"]
            id_ = str(edit["id"])
            earlier = edits.get(id_)
            if earlier is not None and _find_fact(earlier) != _find_fact(edit):
                raise PatchError(
                    f"the patches have different edits of the id {id_!r}, of which one would be lost from the record; "
                    "give the edits ids of their own, and make the patches again"
                )
            edits[id_] = edit
            methods[id_] += record["method"].split(_AND)  # several names if that patch is an average itself
    return [{"edit": edit, "method": _AND.join(dict.fromkeys(methods[id_]))} for id_, edit in edits.items()]


def _find_fact(edit: Mapping[str, Any]) -> tuple[Any, ...]:
    """Return the fields of an edit that say which fact it makes."""
    return edit.get("subject"), edit.get("prompt"), edit.get("target_new")


def _warn_of_weaker_edits(patches: Sequence[Patch], shares: Sequence[float]) -> None:
    """Warn of edits that are not in every patch, if their shares add up to less than 1."""
    total_shares = defaultdict[str, float](float)  # by the edit's id
    counts = Counter[str]()  # by the edit's id: the number of the patches that have it
    for patch, share in zip(patches, shares, strict=True):
        ids = [str(record["edit"]["id"]) for record in patch.edits]
        for id_ in dict.fromkeys(ids):  # a patch counts once for an edit that it has twice
            total_shares[id_] += share
            counts[id_] += 1
    weaker = [id_ for id_, total in total_shares.items() if counts[id_] < len(patches) and total < 1]
    if weaker:
        log.warning(
            "%d of %d edits are not in every patch and get less than their whole change, such as %r (%g of it); "
            "average patches of the same edits, or give these a share of 1",
            len(weaker),
            len(counts),
            weaker[0],
            total_shares[weaker[0]],
        )
