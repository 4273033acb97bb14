"""What an edit's subgraph may not tell: the old fact, and the answers of the test questions."""

import unicodedata
from dataclasses import dataclass
from functools import cached_property

from wikidata_cache.errors import BadOptionError


@dataclass(frozen=True)
class Leakage:
    """Guards against a subgraph that gives the test away.

    No statement leads to or from one of the `answers`, which are item ids, or labels (compared without case,
    width and surplus spaces); the edit's own subject and new object are exempt, as they are in the prompt.
    `drop_old_edge=False` lets the replaced edge s -r-> o in, for control experiments.
    Raises BadOptionError where `answers` is one string or holds an empty one.
    """

    answers: tuple[str, ...] = ()
    drop_old_edge: bool = True

    def __post_init__(self) -> None:
        given: object = self.answers
        if isinstance(given, str) or not all(isinstance(text, str) and text.strip() for text in self.answers):
            raise BadOptionError(f"answers={self.answers!r}: expected a tuple of ids or labels, none of them empty.")
        object.__setattr__(self, "answers", tuple(self.answers))

    def gives_away(self, node: str, label: str | None) -> bool:
        """Whether a node is an answer, by its id or its label."""
        return bool(self.answers) and (node in self.answers or (label is not None and folded(label) in self._folded))

    def provenance(self) -> dict[str, object]:
        """The guards as plain JSON values."""
        return {"answers": list(self.answers), "drop_old_edge": self.drop_old_edge}

    @cached_property
    def _folded(self) -> frozenset[str]:
        return frozenset(folded(answer) for answer in self.answers)


def folded(text: str) -> str:
    """A label as it is compared with another: without case, width (NFKC) and surplus spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
