"""Patches of the prompt: relevant edited facts are put before a text; no weight changes.

- `PromptRule`: which facts are relevant to a prompt, and how they are put before it. `PromptFact`: one fact.
- `FactBook`: facts under one rule, and the search for the facts that are relevant to a prompt.
- `PromptPatch`: facts with their rules, applied to a model or saved.

Only the text of the prompt is used for the search, never the target, so no target can leak into it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt
from torch import Tensor

from kg_common.terminal import number_of
from kg_edit.errors import PatchError
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches import join_provenances
from kg_edit.patches.base import ChangedPart, Patch, without_edits
from kg_edit.patches.container import PatchFile
from kg_edit.text.matching import bare_question
from kg_edit.text.similarity import Scorer, best, bm25_index, index_of, normalise_text, share_index, within_letters

_ROOM = 256  # the most tokens that examples leave free: see `count_reserved`


class PromptRule(BaseModel):
    """Settings: which facts are relevant to a prompt, and how they are put before it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    gate: Literal["subject", "similarity", "bm25"] = Field(
        "subject",
        description="a fact is relevant to a prompt that names its subject, that is like the edit's prompt, or that "
        "finds the edit's prompt by BM25",
    )
    threshold: float = Field(
        0.75, ge=0, le=1, description="part of the subject that must be named, or the similarity that is needed"
    )
    most: PositiveInt = Field(3, description="maximum number of facts before a prompt, the most similar ones")
    encoder: str | None = Field(
        None, description="sentence encoder: a sentence-transformers name or folder; unset: TF-IDF"
    )
    before_fact: str = Field("", description="text before each fact, such as 'New Fact: '")
    before_prompt: str = Field("", description="text before the prompt, such as 'Prompt: '")
    own_examples: int = Field(0, ge=0, description="number of other facts of the patch that are shown as examples")
    letters: int | None = Field(
        None, ge=0, description="a fact is also relevant to a question that differs from its prompt by so few letters"
    )


class PromptFact(BaseModel):
    """The fact of one edit, as text for the model.

    Attributes:
        id: the edit's id.
        subject: the edit's subject.
        prompt: the edit's own prompt without its target; other prompts are compared with it.
        text: what is put before a prompt.
        examples: texts that are shown before the fact; the most similar one is the first.
        withheld: whether the fact is stored but never shown.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    subject: str
    prompt: str
    text: str
    examples: tuple[str, ...] = ()
    withheld: bool = False


@dataclass(frozen=True, kw_only=True)
class FactBook:
    """Facts in the order of their edits, with the rule that applies to them."""

    rule: PromptRule
    facts: tuple[PromptFact, ...]

    def find_relevant(self, prompt: str) -> tuple[PromptFact, ...]:
        """Return the facts to put before ``prompt``: the most similar first, of equally similar ones the earlier."""
        rule = self.rule
        question = self._find_question(prompt)
        similarities = self._prompt_scorer(question)  # of each fact: how similar its prompt is to the question
        gate_scores = self._score_for_gate(question, similarities)  # of each fact, too
        normalised = normalise_text(question)
        fitting = list[int]()  # the numbers of the facts that pass the gate
        for number, score in enumerate(gate_scores):
            if score >= rule.threshold or self._is_nearly_prompt(number, normalised):
                fitting.append(number)
        return tuple(self.facts[number] for number in _most_similar(fitting, similarities, rule.most))

    def _find_question(self, prompt: str) -> str:
        """Return the part of a prompt that facts are compared with: its last paragraph, behind those with examples.

        Where facts are found by a few different letters, it is also without marks such as "Q:" and "A:", because each
        mark would count as letters.
        """
        if self.rule.letters is None:
            return prompt.rstrip().rpartition("\n\n")[2]
        return bare_question(prompt)

    def _score_for_gate(self, question: str, similarities: list[float]) -> list[float]:
        """Return of each fact the score that has to reach the rule's threshold.

        It is the similarity of its prompt; with the gate "subject" it is the share of its subject that the question
        names. A fact without a subject, such as a paragraph, is always compared by its prompt.
        """
        if self.rule.gate != "subject":
            return similarities
        scores = list(similarities)
        named_shares = self._subject_scorer(question)
        for number, fact in enumerate(self.facts):
            if fact.subject:
                scores[number] = named_shares[number]
        return scores

    def _is_nearly_prompt(self, number: int, normalised: str) -> bool:
        """Return whether a ``normalised`` question is the prompt of the fact ``number`` but for a few letters.

        The rule says how many (`PromptRule.letters`); false if it does not.
        """
        most_letters = self.rule.letters
        if most_letters is None:
            return False
        return within_letters(self._normalised_prompts[number], normalised, most_letters)

    def text_before(self, prompt: str, *, examples: int | None = None) -> str:
        """Return the relevant examples and facts, the most similar one of each last; "" if no fact is relevant.

        The rule's ``before_prompt`` is not in it: `PromptPatch.prompt_transform` puts it right before the prompt.
        ``examples`` is the maximum number of other facts that are shown as examples; None: as in the rule.
        """
        facts = self.find_relevant(prompt)
        rule = self.rule
        if not facts:
            return ""
        most = rule.own_examples
        if examples is not None:
            most = min(examples, most)
        shown = [*facts[0].examples, *self._make_examples(facts, most)]
        lead = "".join(f"{example}\n\n" for example in reversed(shown))
        lines = "".join(f"{rule.before_fact}{fact.text}\n" for fact in reversed(facts))
        return f"{lead}{lines}"

    def _make_examples(self, facts: Sequence[PromptFact], most: int) -> list[str]:
        """Make examples of ``most`` facts besides ``facts``: those with the prompts most like the first one's."""
        if not most:
            return []
        rule = self.rule
        others = [number for number, fact in enumerate(self.facts) if fact not in facts]
        similarities = self._prompt_scorer(facts[0].prompt)
        examples = []
        for number in _most_similar(others, similarities, most):
            text = self.facts[number].text
            # The fact, and then a prompt that is answered by it, which is the same text: "New Fact: A\nPrompt: A"
            examples.append(f"{rule.before_fact}{text}\n{rule.before_prompt}{text}")
        return examples

    # These three are computed once, when they are first needed, because a book does not change.

    @cached_property
    def _prompt_scorer(self) -> Scorer:
        """The function from a text to its similarity with each fact's prompt."""
        prompts = [fact.prompt for fact in self.facts]
        if self.rule.gate == "bm25":
            return bm25_index(prompts)
        return index_of(prompts, self.rule.encoder)

    @cached_property
    def _subject_scorer(self) -> Scorer:
        """The function from a text to the share of each fact's subject that it names."""
        return share_index([fact.subject for fact in self.facts])

    @cached_property
    def _normalised_prompts(self) -> list[str]:
        """The facts' prompts as `within_letters` compares them."""
        return [normalise_text(fact.prompt) for fact in self.facts]


def _most_similar(numbers: Sequence[int], similarities: Sequence[float], most: int) -> list[int]:
    """Return those of the ``numbers`` of facts that have the highest similarities, the best first, at most ``most``."""
    places = best([similarities[number] for number in numbers], most)
    return [numbers[place] for place in places]


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PromptPatch(Patch):
    """Facts in the order of their edits, each with its rule. Adding patches appends the facts.

    ``applied`` yields another `LanguageModel` with the same weights; use that one. If the model has a
    ``prompt_transform`` already, it runs afterwards, on the text with the facts.
    """

    changed_part: ClassVar[ChangedPart] = "prompt"
    file_kind: ClassVar[str] = "prompt"
    rule_class: ClassVar[type[PromptRule]] = PromptRule

    facts: tuple[tuple[PromptRule, PromptFact], ...]
    provenance: Mapping[str, Any] = field(default_factory=dict)

    @property
    def summary(self) -> str:
        """The number of facts, the gate and the threshold of each rule."""
        counts = Counter(rule for rule, _ in self.facts)
        parts = []
        for rule, count in counts.items():
            parts.append(f"{number_of(count, 'fact')} inserted by {rule.gate} ≥ {rule.threshold:g}")
        return ", ".join(parts)

    @property
    def is_empty(self) -> bool:
        """Whether there is no fact."""
        return not self.facts

    @cached_property
    def books(self) -> tuple[FactBook, ...]:
        """The facts that may be used, by rule; the book with the latest fact is the first.

        Of two facts with the same prompt only the later one may be used, also if it has another rule or is withheld.
        """
        latest = dict[str, int]()  # by prompt: the index of its latest fact
        for index, (_, fact) in enumerate(self.facts):
            latest[fact.prompt.casefold()] = index
        by_rule = dict[PromptRule, list[PromptFact]]()
        for index in sorted(latest.values()):
            rule, fact = self.facts[index]
            facts = by_rule.pop(rule, [])  # put in again behind the others: the rule with the latest fact is the last
            by_rule[rule] = [*facts, fact]
        books = []
        for rule, facts in reversed(by_rule.items()):
            books.append(FactBook(rule=rule, facts=tuple(fact for fact in facts if not fact.withheld)))
        return tuple(books)

    def prompt_transform(self, text: str, *, examples: int | None = None) -> str:
        """Return the prompt that the model reads instead of ``text``: the relevant facts, then the text.

        With the facts A and B of two rules that say the same words before facts and before the prompt:

            New Fact: A
            New Fact: B
            Prompt: text

        ``examples`` is the maximum number of other facts that are shown as examples; None: as in the rules.
        """
        facts = ""
        before_prompt = ""
        for book in self.books:  # that with the latest fact first, so that it stands right before the text
            facts_of_book = book.text_before(text, examples=examples)
            facts = facts_of_book + facts
            if facts_of_book and not before_prompt:
                before_prompt = book.rule.before_prompt
        return f"{facts}{before_prompt}{text}"

    def transform_for(self, model: LanguageModel) -> Callable[[str], str]:
        """Return the function that turns a text into the prompt for ``model``.

        It is `prompt_transform`, with fewer other facts as examples if the model's positions hold no more. The text is
        known here and is counted with the facts, so the positions of `count_reserved` are left to its answer alone.
        """
        most = max((rule.own_examples for rule, _ in self.facts), default=0)
        positions = model.max_positions
        if positions is None or not most:
            return self.prompt_transform
        room = positions - count_reserved(positions)

        def insert_as_fits(text: str) -> str:
            for count in range(most, 0, -1):
                prompt = self.prompt_transform(text, examples=count)
                if len(model.tokenizer(prompt)["input_ids"]) <= room:
                    return prompt
            return self.prompt_transform(text, examples=0)

        return insert_as_fits

    def without(self, ids: Collection[str]) -> Self:
        """Return the patch without the edits with these ids, as if they had never been made."""
        provenance = without_edits(self.provenance, ids, known={fact.id for _, fact in self.facts})
        facts = tuple((rule, fact) for rule, fact in self.facts if fact.id not in ids)
        return replace(self, facts=facts, provenance=provenance)

    def depends_on(self, earlier: Patch) -> bool:
        """Return whether an earlier patch could have changed this one.

        A text does not depend on a patch, but an answer of the model does, which MemPrompt's records have. So
        ``earlier`` itself is not looked at.
        """
        return any("answer" in record for record in self.edits)

    def tensors_of_edit(self, index: int) -> Mapping[str, tuple[Tensor, Tensor]]:
        """Return {}, as the record of an edit has its text."""
        return {}

    def _plus(self, other: Self) -> Self:
        return replace(
            self, facts=self.facts + other.facts, provenance=join_provenances(self.provenance, other.provenance)
        )

    @contextmanager
    def applied_on_top(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """Yield another `LanguageModel` with the same weights, whose prompts get the facts; ``model`` is unchanged."""
        self.check_model(model)
        insert = self.transform_for(model)
        further = model.prompt_transform
        if further is None:
            # Not wrapped in another function: MeLLo's function is a `Foreseeing`, which prepares many texts together,
            # and `LanguageModel.foresee` would not find that in a function around it.
            yield replace(model, prompt_transform=insert)
            return

        def transform(text: str) -> str:
            return further(insert(text))

        yield replace(model, prompt_transform=transform)

    def check_finite(self) -> None:
        """Do nothing: the patch holds only text, no numbers."""

    def _stored(self) -> tuple[dict[str, Any], dict[str, Tensor]]:
        rules = list(dict.fromkeys(rule for rule, _ in self.facts))
        content = {
            "rules": [rule.model_dump(mode="json") for rule in rules],
            "facts": [[rules.index(rule), fact.model_dump(mode="json")] for rule, fact in self.facts],
        }
        return content, {}

    @classmethod
    def from_file(cls, file: PatchFile) -> Self:
        """Build the patch of a file."""
        try:
            rules = [cls.rule_class.model_validate(rule) for rule in file.content["rules"]]
            facts = tuple((rules[number], PromptFact.model_validate(fact)) for number, fact in file.content["facts"])
        except (TypeError, KeyError, IndexError, ValueError) as error:
            raise PatchError(f"can't read the facts of the patch {file.path}: {error}; make the patch again") from error
        return cls(facts=facts, provenance=file.provenance)


def count_reserved(positions: int) -> int:
    """Return how many of a model's positions examples leave free for a prompt and its answer: at most a quarter."""
    return min(_ROOM, positions // 4)
