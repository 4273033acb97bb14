"""What `glame-plus` asks about one edit, in words: of the teacher, and of the edited model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import Field, PositiveInt

from kg_edit.edits.edit import Edit
from kg_edit.graphs.ripple_facts import Ripple, first_hop, gives_away, recalls, ripples
from kg_edit.methods.glame_plus.teacher import Answer, Asked
from kg_edit.methods.rank_one.rome import RomeConfig
from kg_edit.scoring.questions import right_answers


class RippleConfig(RomeConfig):
    """ROME's settings, and what is asked besides the edit."""

    own: int = Field(2, ge=0, description="questions of the edit itself, which o* answers")
    stated: int = Field(6, ge=0, description="statements of the graph that are learned as they are")
    per_relation: PositiveInt = Field(1, description="objects of one r' that are learned, the likeliest first")
    recalled: int = Field(
        4, ge=0, description="further relations r', of which the model teaches itself what it knows of o*, and of s"
    )
    statements_told: int = Field(6, ge=0, description="statements of the graph in the teacher's prompt")
    exclude_answers: bool = Field(True, description="learn nothing that shares a word with a test question's answer")


@dataclass(frozen=True, kw_only=True)
class EditRipples:
    """An edit, what the graph says of its o* (objects by noun, the likeliest first), and what is made of them."""

    edit: Edit
    objects: Mapping[str, Sequence[str]]
    config: RippleConfig

    @property
    def barred(self) -> list[str]:
        """What may not be learned, see `barred`."""
        return barred(self.edit, self.config)

    @property
    def own(self) -> list[Ripple]:
        """The edit itself, to be asked for; not where o* gives a test question's answer away."""
        if gives_away(self.edit.target_new, self.barred):
            return []
        return [Ripple(hop=first_hop(self.edit), target=self.edit.target_new)] * self.config.own

    @property
    def stated(self) -> list[Ripple]:
        """Composed facts of the graph, which are learned as they are."""
        limit, most = self.config.stated, self.config.per_relation
        return ripples(self.edit, self.objects, limit=limit, a_relation=most)

    @property
    def told(self) -> str:
        """What the graph says of o*, in sentences."""
        limit = self.config.statements_told
        facts = ripples(self.edit, self.objects, limit=limit, a_relation=1)
        return " ".join(f"{fact.noun.capitalize()} of {self.edit.target_new}: {fact.target}." for fact in facts)

    @property
    def asks(self) -> list[Asked]:
        """Each relation twice: of o*, the graph's statements before it, and of r of s, the new fact before it.

        Relations that are learned from the graph are not asked for.
        """
        edit, told, first = self.edit, self.told, f"the {first_hop(self.edit)} of {self.edit.subject}"
        known = {fact.noun for fact in self.stated}
        asked_for = [noun for noun in recalls(edit) if noun not in known]
        return [
            asked
            for noun in asked_for[: self.config.recalled]
            for asked in (
                Asked(noun=noun, of=edit.target_new, facts=told),
                Asked(noun=noun, of=first, facts=f"{edit.text} {edit.target_new}."),
            )
        ]

    def learned(self, asked: Asked, answer: Answer | None) -> Ripple | None:
        """What the edited model is to say in turn; None if the teacher said nothing, or a test question's answer."""
        if not answer or gives_away(answer.text, self.barred):
            return None
        return Ripple(hop=f"{asked.noun} of the {first_hop(self.edit)}", target=answer.text)


def barred(edit: Edit, config: RippleConfig) -> list[str]:
    """Answers of test questions, of which nothing may be learned; they serve for nothing else."""
    answers = [answer for question in edit.portability for answer in right_answers(question)]
    return answers if config.exclude_answers else []
