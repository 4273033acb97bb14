"""What a model is asked at once: texts to continue, answers to score, and what else a metric reads.

`Requests` say what is asked, and `kg_edit.scoring.asking` asks it. The requests of a benchmark's record follow from its
metrics (`kg_edit.evaluation.metrics`), those of the report of `kg-edit edit` from its probes. The functions below make
the requests for one `Query`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from kg_edit.edits.record import Query
from kg_edit.scoring.pairs import Pair
from kg_edit.scoring.questions import ANSWER, generation_prompt, pair_of, scoring_prompt, steps_prompt
from kg_edit.text.fact_words import fact_words

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ANSWER_TOKENS = 24  # the longest answer that a model may write
# The longest list of answers. The limit of RippleEdits' program is one token for each character of the prompt, and 30.
LIST_TOKENS = 128
LONG_TOKENS = 60  # a text in which the model may contradict an edit
STEP_TOKENS = 40  # the longest answer with written steps
STATEMENT_TOKENS = 10  # the least limit after an edit's own prompt; a long target may take more
SURE = "Are you sure?"
BUDGETS = (0, 64, 256)  # tokens of a thought
COMPARED = 5  # the first tokens of a text, by which two models are compared
_SLACK = 2  # added to the number of tokens of a name alone


@dataclass(frozen=True, kw_only=True)
class Continued:
    """A text that the model continues greedily.

    Attributes:
        prompt: the text.
        name: the name under which the continuation is recorded: the plain question, without the examples that are put
            before it; "": the prompt.
        least: the limit of tokens if no answer needs more room.
        answers: the answers that must have room in the continuation.
        listed: all answers in one text, such as "Rome, Milan, Turin", if all are required; "": one is enough. It gets
            room for at most `LIST_TOKENS`.
        several_lines: whether the continuation goes on after the end of a line.
        compared: whether its beginning is compared with the unedited model's.
    """

    prompt: str
    name: str = ""
    least: int = ANSWER_TOKENS
    answers: tuple[str, ...] = ()
    listed: str = ""
    several_lines: bool = False
    compared: bool = False

    def limit(self, tokenizer: PreTrainedTokenizerBase, *, chat: bool) -> int:
        """Return the largest number of tokens of the continuation."""
        limit = self.least
        if chat:  # a chat model answers in a sentence
            limit = max(limit, ANSWER_TOKENS)
        for answer in self.answers:
            limit = max(limit, room_for(tokenizer, answer))
        if self.listed:
            limit = max(limit, min(room_for(tokenizer, self.listed), LIST_TOKENS))
        return limit


@dataclass(frozen=True, kw_only=True)
class Conversation:
    """What is said to a chat model in two steps (`kg_edit.scoring.conversations`).

    Either the model replies to ``prompt`` and then to ``follow_up``, or it thinks about ``prompt`` and then answers it.

    Attributes:
        prompt: the user's first turn.
        follow_up: the user's second turn; "" if the model thinks instead.
        thinking: the most tokens of the thought; None if there is a ``follow_up`` instead.
    """

    prompt: str
    follow_up: str = ""
    thinking: int | None = None

    @property
    def names(self) -> tuple[str, str]:
        """The names under which two texts of the model are recorded: the first reply or the thought, and the answer.

        With the follow-up "Are you sure?", the prompt "Where is Rome?" has the names "Where is Rome? (chat)" and
        "Where is Rome? (chat: Are you sure?)".
        """
        if self.thinking is None:
            return f"{self.prompt} (chat)", f"{self.prompt} (chat: {self.follow_up})"
        return f"{self.prompt} (thought of {self.thinking} tokens)", f"{self.prompt} (after {self.thinking} tokens)"


@dataclass(frozen=True, kw_only=True)
class Requests:
    """All that a model is asked about one thing, such as a record or a prompt of the report.

    Attributes:
        continued: texts that the model continues greedily.
        pairs: answers whose likelihood is computed.
        predicted: answers at whose positions the arg-max tokens are read.
        next_token_prompts: prompts whose next token's probabilities are read.
        sampled: texts that the model continues by sampling.
        conversations: what is said to the model in its chat template.
        chat: ask each prompt as a user's turn.
    """

    continued: tuple[Continued, ...] = ()
    pairs: tuple[Pair, ...] = ()
    predicted: tuple[Pair, ...] = ()
    next_token_prompts: tuple[str, ...] = ()
    sampled: tuple[str, ...] = ()
    conversations: tuple[Conversation, ...] = ()
    chat: bool = False


def join_requests(parts: Iterable[Requests], *, chat: bool = False) -> Requests:
    """Return several requests as one: each prompt once, with the largest of its limits.

    ``chat`` says how all of them are asked, whatever the parts say.
    """
    texts: dict[str, Continued] = {}
    # Dicts without values, as sets that keep their order
    pairs: dict[Pair, None] = {}
    predicted: dict[Pair, None] = {}
    next_token_prompts: dict[str, None] = {}
    sampled: dict[str, None] = {}
    conversations: dict[Conversation, None] = {}
    for part in parts:
        for text in part.continued:
            known = texts.get(text.prompt)
            texts[text.prompt] = text if known is None else _serve_both(known, text)
        pairs |= dict.fromkeys(part.pairs)
        predicted |= dict.fromkeys(part.predicted)
        next_token_prompts |= dict.fromkeys(part.next_token_prompts)
        sampled |= dict.fromkeys(part.sampled)
        conversations |= dict.fromkeys(part.conversations)
    return Requests(
        continued=tuple(texts.values()),
        pairs=tuple(pairs),
        predicted=tuple(predicted),
        next_token_prompts=tuple(next_token_prompts),
        sampled=tuple(sampled),
        conversations=tuple(conversations),
        chat=chat,
    )


def _serve_both(first: Continued, second: Continued) -> Continued:
    """Return the continuation of one prompt that serves two requests."""
    return replace(
        first,
        name=second.name or first.name,  # if both have a name, it is the same: the question of this prompt
        least=max(first.least, second.least),
        answers=(*first.answers, *second.answers),
        listed=max(first.listed, second.listed, key=len),
        several_lines=first.several_lines or second.several_lines,
        compared=first.compared or second.compared,
    )


def room_for(tokenizer: PreTrainedTokenizerBase, name: str) -> int:
    """Return the least token limit of a text that may contain ``name``: the tokens of the name alone, and two more."""
    return len(tokenizer(name, add_special_tokens=False)["input_ids"]) + _SLACK


def continue_and_score(prompt: str, answers: Iterable[str], *, least: int, chat: bool = False) -> Requests:
    """Return the request for a continuation of a prompt, and for the likelihood of some answers after it."""
    answers = tuple(answers)
    return Requests(
        continued=(Continued(prompt=prompt, least=least, answers=answers),),
        pairs=tuple(Pair(prompt, answer) for answer in answers),
        chat=chat,
    )


def continue_query(query: Query, *, least: int = ANSWER_TOKENS, several_lines: bool = False) -> Requests:
    """Return the request for a greedy continuation of the query, a question in its few-shot form."""
    listed = ""
    if query.every:  # all answers have to be in the text, such as a film's cast: make room for the longest name of each
        listed = ", ".join(max(names, key=len) for names in query.answers)
    text = Continued(
        prompt=generation_prompt(query),
        name=scoring_prompt(query),
        least=least,
        answers=query.right_names,
        listed=listed,
        several_lines=several_lines,
    )
    return Requests(continued=(text,))


def continue_at_length(query: Query) -> Requests:
    """Return the request for a continuation of several sentences."""
    return continue_query(query, least=LONG_TOKENS)


def continue_with_steps(query: Query) -> Requests:
    """Return the request for an answer with its steps written out."""
    return Requests(continued=(Continued(prompt=steps_prompt(query), least=STEP_TOKENS),))


def begin_query(query: Query) -> Requests:
    """Return the request for the beginning of a text, which is compared with the unedited model's."""
    text = Continued(prompt=generation_prompt(query), name=scoring_prompt(query), least=COMPARED, compared=True)
    return Requests(continued=(text,))


def score_answer(query: Query) -> Requests:
    """Return the request for the likelihood of the first right answer."""
    return Requests(pairs=(pair_of(query),))


def score_answers(query: Query) -> Requests:
    """Return the request for the likelihood of all right and competing answers."""
    prompt = scoring_prompt(query)
    right = [names[0] for names in query.answers]  # each answer has several names
    return Requests(pairs=tuple(Pair(prompt, candidate) for candidate in (*right, *query.others)))


def score_gains(query: Query) -> Requests:
    """Return the request for the likelihood of the answers after the question, and after the word "Answer:" alone.

    After "Answer:" alone, only the first right answer and the competitors are scored.
    """
    candidates = (query.answers[0][0], *query.others)
    alone = tuple(Pair(ANSWER, candidate) for candidate in candidates)
    return Requests(pairs=(*score_answers(query).pairs, *alone))


def predict_answer(query: Query) -> Requests:
    """Return the request for the arg-max tokens at the positions of the first right answer."""
    return Requests(predicted=(pair_of(query),))


def ask_again(query: Query) -> Requests:
    """Return the request for a conversation in which the user asks after the answer whether the model is sure."""
    return Requests(conversations=(Conversation(prompt=query.prompt, follow_up=sure_in(query.language)),))


def sure_in(language: str) -> str:
    """Return the second question of a conversation in a language, which is `SURE` in English."""
    return fact_words(language).are_you_sure


def ask_after_thinking(query: Query) -> Requests:
    """Return the requests for an answer after a thought, one for each limit of the thought's tokens in `BUDGETS`."""
    conversations = [Conversation(prompt=query.prompt, thinking=budget) for budget in BUDGETS]
    return Requests(conversations=tuple(conversations))
