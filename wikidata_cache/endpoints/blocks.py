"""How many ids to put into one question: halved where that was too many, grown again slowly."""

from dataclasses import dataclass

from wikidata_cache.sources.templates import Template

_PATIENT = 4  # successes until a larger block is tried
_MOST_PATIENT = 64


@dataclass
class _Size:
    ids: int
    most: int
    streak: int = 0
    needed: int = _PATIENT
    probing: bool = False  # nothing has yet come back at this size


class BlockSizes:
    """The size that an endpoint bears with, learned for each template."""

    def __init__(self) -> None:
        self._sizes: dict[str, _Size] = {}

    def of(self, template: Template) -> int:
        """How many ids to ask about at once."""
        return self._of(template).ids

    def too_many(self, template: Template, ids: int) -> None:
        """So many ids failed: halve, and be slower to grow where the failure came from growing."""
        size = self._of(template)
        if size.probing:
            size.needed = min(_MOST_PATIENT, 2 * size.needed)
        size.ids, size.streak, size.probing = max(1, ids // 2), 0, False

    def fine(self, template: Template) -> None:
        """A block came back: after enough of them in a row, double."""
        size = self._of(template)
        size.streak, size.probing = size.streak + 1, False
        if size.streak >= size.needed and size.ids < size.most:
            size.ids, size.streak, size.probing = min(size.most, 2 * size.ids), 0, True

    def _of(self, template: Template) -> _Size:
        return self._sizes.setdefault(template.name, _Size(template.size, template.size))
