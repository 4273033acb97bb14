"""The unedited model as a teacher: its answers to direct questions, with example facts in the prompt.

The teacher's next-token distributions become soft targets q for the edited model. The edited model is asked for the
same answer through the edited fact, and without the example facts (context distillation, Askell et al. 2021,
arXiv 2112.00861; Hinton et al. 2015). The loss is the cross-entropy -sum q log p, with q [tokens, k].
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from kg_edit.engine.prefix_store import PrefixStore
from kg_edit.languages import ENGLISH, RelationForms, fill
from kg_edit.locate_then_edit.objective import SoftTarget
from kg_edit.methods.composed_facts import Answer, hop_of
from kg_edit.models.language_model import LanguageModel
from kg_edit.scoring.greedy import Written, greedy
from kg_edit.text.fact_words import FactWords, fact_words
from kg_edit.text.matching import begins_with
from kg_edit.writing_systems import join

_ENDS = (".", ",", "\u3002", "\uff0c", "\u3001")  # the last three are Chinese and Japanese
_TOP_K = 64  # the likeliest tokens, which a soft target has
_SHOWN = 4  # example facts before a question


@dataclass(frozen=True, kw_only=True)
class TeacherQuestion:
    """The question "What is the ``noun`` of ``of``?"; ``examples`` are facts (thing, object) of the same relation.

    ``forms`` are those of the relation in a language other than English, and None in English.
    """

    noun: str
    of: str
    examples: tuple[tuple[str, str], ...] = ()
    forms: RelationForms | None = None

    @property
    def as_question(self) -> TeacherPrompt:
        """The prompt in question form."""
        words = self._words
        return self._prompt(words.ask, "\n\n", words.shots_as("question"))

    @property
    def as_sentence(self) -> TeacherPrompt:
        """The prompt as a sentence to continue. If both forms get the same answer, the model knows it."""
        words = self._words
        return self._prompt(words.sentence, f"{words.sentence_end}\n", words.shots_as("sentence"))

    @property
    def _words(self) -> FactWords:
        return fact_words(self._language)

    @property
    def _language(self) -> str:
        if self.forms is None:
            return ENGLISH
        return self.forms.language

    def _prompt(self, wording: str, end: str, shots: Sequence[tuple[str, str]]) -> TeacherPrompt:
        """Return the prompt in a ``wording``.

        Each example fact before it ends with ``end``. A relation without examples of its own gets the ``shots``, pairs
        of a question about a well-known thing and its answer, which only show the form of an answer. The questions
        that score a model have another form (`scoring.questions`).
        """
        template = self._words.say(wording, hop_of(self.noun, self.forms), self.forms)  # {} stands for the thing
        examples = []
        for thing, target in self.examples:
            if thing != self.of:
                examples.append((fill(template, thing, self._language), target))
        if not examples:
            examples = list(shots)
        shown = ""
        for text, target in examples[:_SHOWN]:
            shown += f"{join(text, target)}{end}"
        before_thing = template.partition("{}")[0].rstrip(" ")
        alone = fill(template, self.of, self._language)
        return TeacherPrompt(start=shown + before_thing, shown=shown, alone=alone)


@dataclass(frozen=True, kw_only=True)
class TeacherPrompt:
    """A question ``alone``, and the facts ``shown`` before it.

    ``start`` is the part of both together that comes before the thing's name; questions about other things share it.
    """

    start: str
    shown: str
    alone: str

    @property
    def longest_first(self) -> tuple[str, str]:
        """The prompt with the facts, then without them for models with a short context."""
        return self.shown + self.alone, self.alone


@torch.no_grad()
def answers_of(
    model: LanguageModel, questions: Sequence[TeacherQuestion], *, most: int, store: PrefixStore | None = None
) -> list[Answer | None]:
    """Return the model's greedy answer to each question, with at most ``most`` tokens.

    An answer is None if it is empty, or if the sentence form gets another answer, which means that the model guesses.
    A question uses the first of its prompts that fits into the model's positions; if none fits, the answer is None.
    ``store`` caches the prefixes before the thing for later calls.
    """
    prompts = [question.as_question for question in questions]
    prompts += [question.as_sentence for question in questions]
    answer_to = _answer_each(model, prompts, most=most, store=store)
    answers = list[Answer | None]()
    for question in questions:
        answer = answer_to.get(question.as_question)
        other = answer_to.get(question.as_sentence)
        if answer and other and _agree(answer, other):
            answers.append(answer)
        else:
            answers.append(None)
    return answers


def _agree(answer: Answer, other: Answer) -> bool:
    return begins_with(answer.text, other.text) or begins_with(other.text, answer.text)


def _answer_each(
    model: LanguageModel, prompts: Sequence[TeacherPrompt], *, most: int, store: PrefixStore | None
) -> dict[TeacherPrompt, Answer | None]:
    """Return the model's greedy answer after each prompt that fits into its positions; None for an empty one."""
    rows = dict[TeacherPrompt, tuple[int, ...]]()  # the tokens of each prompt
    prefixes = list[tuple[int, ...]]()  # the tokens before the thing, which are the same for other things
    for prompt in prompts:
        ids = _encode_fitting(model, prompt, new_tokens=most)
        if ids is None:
            continue
        rows[prompt] = ids
        start = model.encode(prompt.start, fitting=False).ids
        # A prompt does not begin with the tokens of the start if the facts were left out to make it fit, or if one of
        # its tokens spans the end of the start.
        if ids[: len(start)] == start:
            prefixes.append(start)

    def is_finished(tokens: Sequence[int]) -> bool:
        return _ends_answer(model, tokens[-1])

    contexts = None
    if store and prefixes:
        contexts = store.find_contexts(model, prefixes)
    limits = [most] * len(rows)
    texts = greedy(model, list(rows.values()), limits=limits, top_k=_TOP_K, is_finished=is_finished, contexts=contexts)
    return {prompt: _read_answer(model, written) for prompt, written in zip(rows, texts, strict=True)}


def _encode_fitting(model: LanguageModel, prompt: TeacherPrompt, *, new_tokens: int) -> tuple[int, ...] | None:
    """Return the tokens of a prompt with its facts, or without them if ``new_tokens`` do not fit behind; or None."""
    for text in prompt.longest_first:
        ids = model.encode(text, fitting=False).ids
        if model.max_positions is None or len(ids) + new_tokens <= model.max_positions:
            return ids
    return None


def _ends_answer(model: LanguageModel, token: int) -> bool:
    """Return whether an answer ends before this token."""
    text = str(model.tokenizer.decode([token]))
    return token in model.tokenizer.all_special_ids or "\n" in text or text.strip() in _ENDS


def _read_answer(model: LanguageModel, written: Written) -> Answer | None:
    """Return the written text up to its first line break, full stop or comma (`_ENDS`), as an answer; None if empty.

    The text "yen, the currency of Japan" gives the answer "yen".
    """
    stop = 0
    while stop < len(written.tokens) and not _ends_answer(model, written.tokens[stop]):
        stop += 1
    # Drop tokens of blanks and dots at its end.
    while stop and not str(model.tokenizer.decode([written.tokens[stop - 1]])).strip(" .\u3002"):
        stop -= 1
    text = str(model.tokenizer.decode(list(written.tokens[:stop]))).strip()
    if not text:
        return None
    shares = written.probabilities / written.probabilities.sum(-1, keepdim=True)
    soft_target = SoftTarget(tokens=written.likeliest[:stop], probabilities=shares[:stop])
    return Answer(text=text, ids=written.tokens[:stop], soft_target=soft_target)
