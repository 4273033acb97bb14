"""Shards of a pass over the text, measured by several processes or machines, become the covariances of the whole."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from kg_edit.covariance.files import Manifest
from kg_edit.covariances.position import Position, read_position
from kg_edit.covariances.sums import Sums
from kg_edit.errors import CovarianceError

_WAY_OUT = "give every shard of one run, each once"


def missing_shards(position: Position, folder: Path) -> list[int]:
    """The numbers of the shards of this run that are not finished in ``folder``."""
    shards = [position.model_copy(update={"part": part}) for part in range(position.parts)]
    return [shard.part for shard in shards if not _finished(shard.path(folder))]


def merge_shards(files: Sequence[Path], folder: Path) -> dict[int, Manifest]:
    """Add up the sums of all shards of one run and write its covariances into ``folder``; the manifests by layer.

    They are those of the run in one process up to rounding: the same products are added, in float64, in another order.
    Of the doublings the last one is there. The shards' files are left as they are.

    Raises:
        CovarianceError: a file is damaged or no shard; a shard is missing, unfinished, given twice or of another run.
    """
    positions = _in_order({path: _read_position(path) for path in files})
    total: Sums | None = None
    for path in positions:
        shard = Sums.load(path)
        total = shard if total is None else _add(total, shard)
    if total is None:
        raise CovarianceError(f"no shard is given; {_WAY_OUT}")
    return total.finish(folder)


def _in_order(positions: dict[Path, Position]) -> list[Path]:
    found: dict[int, Path] = {}
    for path, position in positions.items():
        if not position.finished:
            raise CovarianceError(f"{path} is not finished ({position.seen} of {position.wanted} tokens); run it again")
        _check_same(next(iter(positions.items())), (path, position))
        if position.part in found:
            raise CovarianceError(f"{found[position.part]} and {path} are both shard {position.part}; {_WAY_OUT}")
        found[position.part] = path
    parts = max((position.parts for position in positions.values()), default=0)
    if absent := sorted(set(range(parts)) - set(found)):
        names = ", ".join(f"{part}/{parts}" for part in absent)
        raise CovarianceError(f"missing shards: {names}; {_WAY_OUT}")
    return [found[part] for part in sorted(found)]


def _check_same(first: tuple[Path, Position], other: tuple[Path, Position]) -> None:
    """All that must be equal in shards of one run."""
    own = {"part", "count", "half_count", "doublings", "model_name", "ridge"}
    left, right = (position.model_dump(mode="json", exclude=own) for _, position in (first, other))
    for name in right:
        if left[name] != right[name]:
            raise CovarianceError(
                f"{first[0]} and {other[0]} are no shards of one run: {name} is {left[name]} and {right[name]}; "
                f"{_WAY_OUT}"
            )


def _add(total: Sums, shard: Sums) -> Sums:
    for layer, moment in total.moments.items():
        moment.total += shard.moments[layer].total
        moment.count += shard.moments[layer].count
        if layer in total.halves:
            total.halves[layer] = total.halves[layer] + shard.halves[layer]
    total.position = total.position.model_copy(
        update={
            "count": total.position.count + shard.position.count,
            "half_count": total.position.half_count + shard.position.half_count,
        }
    )
    return total


def _read_position(path: Path) -> Position:
    position = read_position(path)
    if position.parts == 1:
        raise CovarianceError(f"{path} is no shard of a covariance; {_WAY_OUT}")
    return position


def _finished(path: Path) -> bool:
    return path.is_file() and _read_position(path).finished


def forget(files: Iterable[Path]) -> None:
    """Delete shards that have been merged."""
    for path in files:
        path.unlink(missing_ok=True)
