"""What the commands of `kg-edit covariance` share: which layers, which files, and the table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from kg_edit.cli.console import plain, stdout
from kg_edit.errors import ConfigError

if TYPE_CHECKING:
    from kg_edit.covariance.files import Manifest


def parse_layers(text: str | None, count: int | None) -> list[int]:
    """The layers that ``text`` names, such as 4-8 or 4,6,8, in a model of ``count`` layers.

    Raises:
        ConfigError: it names none, or some that the model does not have.
    """
    if text is None:
        raise ConfigError("say which layers: --layers 4-8 (or 4,6,8, or all); see `kg-edit covariance --help`")
    if text.strip() == "all":
        return list(range(count or 0))
    found: set[int] = set()
    for piece in text.split(","):
        first, dash, last = (part.strip() for part in piece.partition("-"))
        ends = (first, last if dash else first)
        if not all(end.isdecimal() for end in ends) or int(ends[0]) > int(ends[1]):
            raise ConfigError(f"--layers {text}: expected layers such as 4-8, 4,6,8 or all; found {piece!r}")
        found |= set(range(int(ends[0]), int(ends[1]) + 1))
    if count is not None and max(found) >= count:
        raise ConfigError(f"--layers {text}: the model has layers 0 to {count - 1}")
    return sorted(found)


def choose(manifests: Sequence[Manifest], ids: Sequence[str]) -> list[Manifest]:
    """Those whose id begins with one of ``ids``; all, if there are none.

    Raises:
        ConfigError: one of ``ids`` names none.
    """
    for one in ids:
        if not any(manifest.id.startswith(one) for manifest in manifests):
            raise ConfigError(f"no covariance {one!r} is stored here; see `kg-edit covariance list`")
    return [manifest for manifest in manifests if not ids or manifest.id.startswith(tuple(ids))]


def show(manifests: Iterable[Manifest], folder: Path | None) -> None:
    """A table of covariances, and where their files are."""
    from rich.table import Table

    from kg_edit.covariance.store import store_folder

    table = Table()
    for header in ("module", "model", "text", "tokens", "id", "direction turned as the tokens doubled"):
        table.add_column(header, overflow="fold", no_wrap=header == "id")
    for manifest in manifests:
        model = manifest.model_name or manifest.model
        tokens = f"{manifest.count:,}"
        table.add_row(*map(plain, (manifest.module, model, manifest.corpus, tokens, manifest.id, _turned(manifest))))
    if table.row_count:
        stdout().print(table)
    stdout().print(f"{plain(str(folder or store_folder()))}: {table.row_count} covariances", soft_wrap=True)


def _turned(manifest: Manifest) -> str:
    """The angles of all doublings, the last one with its tokens and its worst key."""
    if not manifest.doublings:
        return "not known: too few tokens"
    last = manifest.doublings[-1]
    angles = " → ".join(f"{one.median_degrees:.1f}°" for one in manifest.doublings)
    return f"{angles} ({last.tokens_before:,} to {last.tokens:,}; at most {last.max_degrees:.1f}°)"
