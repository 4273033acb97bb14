"""What linking gives back: candidates with reasons, and whether one of them clearly leads."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Literal, NamedTuple, Protocol, TypeVar

from wikidata_cache.errors import AmbiguousLabelError, UnknownLabelError

Status = Literal["exact", "ambiguous", "none"]
Policy = Literal["clear", "top"]

LEAD = 2.0  # points by which the best candidate must lead


class Reason(NamedTuple):
    """Something that speaks for a candidate, or (with no or negative points) against it."""

    points: float
    text: str

    def __str__(self) -> str:
        return f"{self.points:+.1f} {self.text}"


@dataclass(frozen=True)
class Candidate:
    """An entity that a text may mean. `score` is the sum of its reasons' points (`points.py`).

    `can_settle` says that the text is one of its names as a whole (or its id), and that nothing known of
    the relation speaks against it.
    """

    id: str
    label: str | None
    description: str | None
    types: tuple[str, ...]
    reasons: tuple[Reason, ...]
    can_settle: bool

    @property
    def score(self) -> float:
        """The points of all reasons together."""
        return round(sum(reason.points for reason in self.reasons), 2)

    def __str__(self) -> str:
        said = self.description or ", ".join(self.types) or "of no stated type"
        return f"{self.id} ({self.label or 'without a label'}: {said})"


@dataclass(frozen=True)
class Linked:
    """The candidates for a text, the best first; `notes` say what could not be looked at.

    The status is "exact" where the best candidate can settle and leads by at least `LEAD` points, "none"
    where there is no candidate, and else "ambiguous": then a person has to choose.
    """

    text: str
    candidates: tuple[Candidate, ...]
    source: str
    notes: tuple[str, ...] = ()

    @property
    def status(self) -> Status:
        """Whether one candidate clearly leads."""
        if not self.candidates:
            return "none"
        best, *others = self.candidates
        leads = not others or round(best.score - others[0].score, 2) >= LEAD
        return "exact" if best.can_settle and leads else "ambiguous"

    def only(self, *, policy: Policy = "clear") -> Candidate:
        """The one that is meant; `policy="top"` takes the best candidate even where it does not clearly lead.

        Raises UnknownLabelError where there is none, AmbiguousLabelError where none clearly leads.
        """
        if not self.candidates:
            raise UnknownLabelError(self.text, self.source)
        if policy != "top" and self.status != "exact":
            ids = [candidate.id for candidate in self.candidates]
            raise AmbiguousLabelError(self.text, ids, [str(candidate) for candidate in self.candidates])
        return self.candidates[0]

    def to_json(self) -> dict[str, object]:
        """Plain JSON values, with the reasons in words."""
        return {
            "text": self.text,
            "status": self.status,
            "source": self.source,
            "candidates": [_as_json(candidate) for candidate in self.candidates],
            "notes": list(self.notes),
        }


class Scored(Protocol):
    """Whatever has an id and points."""

    @property
    def id(self) -> str:
        """A Wikidata id."""

    @property
    def score(self) -> float:
        """Its points."""


_S = TypeVar("_S", bound=Scored)


def ranked(found: Iterable[_S]) -> list[_S]:
    """The highest score first; of equals the lower number, which is mostly the better known entity."""
    return sorted(found, key=lambda one: (-round(one.score, 2), int(one.id[1:])))


def _as_json(candidate: Candidate) -> dict[str, object]:
    reasons = [str(reason) for reason in candidate.reasons]
    return asdict(candidate) | {"score": candidate.score, "types": list(candidate.types), "reasons": reasons}
