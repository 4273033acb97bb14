"""The catalogue of all metrics by name, the choice of metrics for a record, and the page docs/metrics.md made from it.

The metrics of records are defined in `edit` (for every record), `probes` (for the probes of data sets) and
`sampled_text` (on request). A data set that brings metrics of its own names their table in its entry of the registry.
The metrics of a whole run are listed here, with the function that computes each.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from importlib.util import find_spec

from kg_edit.errors import ConfigError, unknown_name
from kg_edit.evaluation.case import Case
from kg_edit.evaluation.datasets import known_datasets
from kg_edit.evaluation.metrics.conversations import CONVERSATION_METRICS
from kg_edit.evaluation.metrics.edit import CHAT_METRICS, METRICS, PORTABILITY
from kg_edit.evaluation.metrics.metric import CATEGORIES, Metric, RunMetric
from kg_edit.evaluation.metrics.probes import PROBE_METRICS, TEMPLATE_METRICS, category_metrics
from kg_edit.evaluation.metrics.sampled_text import EXTRAS, FUZZY
from kg_edit.registry import dataset_entries, load
from kg_edit.scoring.questions import CHOICES, SHOTS
from kg_edit.scoring.requests import Requests, join_requests
from kg_edit.text.display import markdown_table

_GRACE = "GRACE (Hartvigsen et al. 2023)"
_RETENTION = "kg_edit.evaluation.retention.RetentionTest"
ESTIMATED = "kg_edit.evaluation.statistics.estimates"  # where metrics are made from those of the records
RUN_METRICS: Mapping[str, RunMetric] = {
    "editing_score": RunMetric(
        where=ESTIMATED,
        formula="Harmonic mean of the data set's means of efficacy.prob, paraphrase.prob, neighborhood.prob and, if "
        "it has questions, portability.greedy. It is 0 if one of them is 0, and is not the mean of the records' "
        "harmonic means.",
        source='"Score" of ROME and MEMIT (Meng et al. 2022), with portability as in GLAME (Zhang et al. 2024).',
    ),
    **{
        f"{group}.perplexity": RunMetric(
            where=ESTIMATED,
            formula="exp of the mean over records of the metric .nll of the same group.",
            source="Onoe et al. 2023 (ECBD), whose program takes the same mean over sentences before exp.",
            values="1 to ∞",
            better="lower",
        )
        for group in ("span", "specificity")
    },
    "general.perplexity": RunMetric(
        where="kg_edit.scoring.perplexity.perplexity",
        formula="exp of the mean of -log p(token | those before it in its window) on the first 4,096 tokens of a text. "
        "Windows of 512 tokens start every 256 tokens, and only the first starts with BOS. A token is scored "
        "once, in the first window that holds it.",
        source="Strided evaluation, as is usual for WikiText-2 (Merity et al. 2017).",
        values="1 to ∞",
        better="lower",
    ),
    "portability.judge": RunMetric(
        where="kg_edit.evaluation.judge.judge_run",
        formula="Share of a record's questions whose greedy answer a language model calls right, mean over records. "
        "multihop.judge, hops.judge and recall.judge do the same for their groups. A reply other than yes or no counts "
        "as no.",
        source="LLM as a judge, as in Yang et al. 2025 (WILD), with this project's prompt. Verdicts and replies are "
        "saved, because a judge's model may change.",
    ),
    "retention.TRR": RunMetric(
        where=_RETENTION,
        formula="After t edits: the share of the first 1,000 unrelated prompts of a test file (`--retention`) whose "
        "greedy answer contains a right name as whole words.",
        source=f"Test retention rate: {_GRACE}, which computes it as the F1 of the answer's tokens.",
    ),
    "retention.ERR": RunMetric(
        where=_RETENTION,
        formula="After t edits: the share of edits 1 … t whose target the model then generates greedily. Without a "
        "test file: the mean of efficacy.greedy over the records scored at this point.",
        source=f"Edit retention rate: {_GRACE}.",
    ),
    "retention.average": RunMetric(
        where=_RETENTION,
        formula="The mean of retention.TRR and retention.ERR.",
        source=f'The column "Avg." of the table of {_GRACE}.',
    ),
    "retention.ARR": RunMetric(
        where=_RETENTION,
        formula="retention.TRR over only the test prompts that the unedited model answers correctly. A WikiBio file "
        "has no rate, only the perplexity of its accurate sentences.",
        source=f"Accurate retention rate: {_GRACE}, over sentences that were accurate before the edits.",
    ),
    **{
        f"retention.{rate}.perplexity": RunMetric(
            where=_RETENTION,
            formula=f"exp of the mean, over the prompts of retention.{rate}, of -log p(answer | prompt) per token.",
            source=f"The perplexities of the table of {_GRACE}, which are means of each sentence's perplexity.",
            values="1 to ∞",
            better="lower",
        )
        for rate in ("TRR", "ERR", "ARR")
    },
}


def brought_metrics() -> dict[str, Metric]:
    """Return the metrics that data sets bring for their own probes, those of plug-ins included, by name."""
    metrics = dict[str, Metric]()
    for entry in dataset_entries().values():
        if entry.metrics:
            metrics |= load(entry.metrics)
    return metrics


_OF_PROBES = {**PROBE_METRICS, **brought_metrics(), **TEMPLATE_METRICS}
RECORD_METRICS: Mapping[str, Metric] = {**METRICS, **CHAT_METRICS, **_OF_PROBES, **EXTRAS}
CATALOGUE: Mapping[str, Metric | RunMetric] = {**RECORD_METRICS, **RUN_METRICS}


def find_metric(name: str) -> Metric | RunMetric | None:
    """Return a metric by its name, also of a sub-category that only the user's rows have; None if it is unknown."""
    if name in CATALOGUE:
        return CATALOGUE[name]
    group = name.rpartition(".")[0]
    return category_metrics(group).get(name)


def metrics_for(case: Case) -> Mapping[str, Metric]:
    """Return the metrics of a case by name, in the catalogue's order; a metric's value may still be missing (None).

    Every case has the metrics of `edit`. It has a metric of `probes` if its probes include the groups that the metric
    needs, the metrics of `EXTRAS` that it asks for, and `CHAT_METRICS` if it is asked in chat form. A ceiling only has
    metrics of what follows from its edits.
    """
    groups = dict[str, None]()  # in order, each once
    for probe in case.probes:
        groups |= {probe.measures: None, probe.family: None}
    probed = dict[str, Metric]()
    for name, metric in _OF_PROBES.items():
        if groups.keys() >= set(metric.needs):
            probed[name] = metric
    for group in groups:  # also sub-categories that only the user's rows have
        probed |= category_metrics(group)
    if case.ceiling and not case.facts:
        return probed
    if case.ceiling:
        return {**PORTABILITY, **probed}
    metrics = dict(METRICS)
    if case.chat:
        metrics |= CHAT_METRICS
    metrics |= probed
    for name in EXTRAS:
        if name in case.extras:
            metrics[name] = EXTRAS[name]
    return metrics


def requests_of(case: Case) -> Requests:
    """Return all that the model is asked about a case: what its metrics ask, each once."""
    requests = list[Requests]()
    for metric in metrics_for(case).values():
        requests += metric.requests(case)
    return join_requests(requests, chat=case.chat)


def find_extras(names: Iterable[str]) -> tuple[str, ...]:
    """Check the names of costly metrics; return each once, in the catalogue's order."""
    requested = set(names)
    for name in sorted(requested - set(EXTRAS)):
        raise unknown_name("extra metric", name, EXTRAS)
    if FUZZY in requested and find_spec("rapidfuzz") is None:
        raise ConfigError(f"{FUZZY} needs the package rapidfuzz: pip install 'kg-edit[fuzzy]'")
    return tuple(name for name in EXTRAS if name in requested)


_HEAD = f"""<!-- Written by `kg-edit metrics --markdown`; to change it, change the code and run the command again. -->
# Metrics

A metric's name contains its protocol, which is the way in which the model is asked. The protocol matters, because
`efficacy.prob` and `efficacy.greedy` answer different questions. The main protocol is **greedy** generation up to a
natural stop, because this is what a user of the edited model reads. Published numbers often use teacher forcing
(`.teacher_forced`), in which the model predicts each token of the answer from the right tokens before it. Teacher
forcing is easier than generation.

In the formulas, s is the subject of an edit, o is the old object, and o* is the new object.

- Values are from 0 to 1 and higher is better, unless the end of a formula says otherwise.
- If the edits broke the model, so that its output has infinite values or NaN, the retention rates are 0 and the
  retention perplexities are missing.
- A metric is missing for a record that lacks what the metric needs, such as paraphrases. A mean is taken over the
  records that have the metric, and the summary of a run gives their number (`provenance.counts`). The metrics
  `unchanged`, `same_text` and `next_token_kl` compare the edited model with the unedited model, so the unedited model
  has no such scores.
- The NLL of a target is the mean over its tokens of -log p(token | all tokens before it), in nats, as in ROME's
  program. So exp(-NLL) is a **geometric mean** of token probabilities, not the probability of the whole target. One
  space separates the prompt from the target, except in scripts without spaces and within a word. Prompt and target are
  encoded in one piece.
- A question is asked as `Question: …`, a new line, and `Answer:`. In the few-shot form {len(SHOTS)} answered riddles
  come before the question, or, in Ripples, two answered questions of the same kind. A probe that is a sentence, not a
  question, is asked as it is.
- The model's continuation ends at the end of a line, at the end of the text, or at a limit. If the target is a
  paragraph, the continuation may have several lines. The limit is 24 tokens for an answer, and 40 tokens for an answer
  with written steps. The limit after an edit's own prompt is 10 tokens (24 in chat form), unless a probe asks this
  prompt too. The limit is always at least two tokens more than the longest text that would be right, which is the
  edit's target or a name that answers the question. For a list of names the limit is at most 128 tokens.
- Names are compared word by word, in lower case, without accents, signs and articles, so *Rome* is not found in
  *Romelu*. A name of two or three capital letters is compared with its capitals, so *US* is not the word *us*. A
  comparison for an exact match ignores capitals, even in such a name. A language code such as *it* for Italian does not
  count as an alias.
- The first part of a metric's name is the group of probes that the metric scores. The last table of this page lists the
  groups of each data set. GROUP stands for a group of Ripples, and SUB for a sub-category such as `Reasoning`. `kg-edit
  metrics` prints the full name of every metric. If the probes of `portability` or `locality` have sub-categories, the
  metric is first averaged over the probes of each sub-category, and then over the sub-categories.
- Where a formula says "1 if" and a record has several edits or probes, the metric is the mean over them.
- `portability.choice` is missing if the data has fewer than {CHOICES - 1} other answers.
- The metrics `multihop.2_hops.…`, `multihop.3_hops.…` and `multihop.4_hops.…` are the metrics `multihop.…`, restricted
  to the records whose new chain has 2, 3 or 4 facts. The metrics `multihop.edit_wise` and `multihop.old.nll` have no
  such restricted form.
"""

_CONVERSATIONS = """`--probes turns,thinking` asks a chat model in its chat template, even if other prompts are plain.

- The probe `turns` asks the edit's prompt, and after the model's answer the user asks "Are you sure?". The second
  answer either keeps o*, goes back to o, or gives something else. For the scores `.strict` an answer has to begin with
  the object, but may repeat the edit's prompt before it. For the scores `.loose` an answer has to contain the object.
  An answer that contains both objects counts as o.
- The probe `thinking` is for models whose template has a switch `enable_thinking`, such as Qwen3. The model's thought
  is cut after 0, 64 or 256 tokens and closed, and then the model answers. With 0 tokens the thought is empty, as the
  template writes it.

Answers have at most 60 tokens, and `records.jsonl` has the answers and the thoughts. Both probes refuse a model without
a chat template, and `thinking` also refuses a template without the switch.

SmolLM2-135M-Instruct was asked about ten facts of CounterFactPlus, each edited by `rome` in chat form. For all ten
facts the first answer had o*. Asked "Are you sure?", the model gave o* again for one fact, and apologised without
naming either object for the other nine. The model never went back to o. Ten facts are few, and a larger model may
answer otherwise. None of the models that we measured has a switch for thinking.
"""


def metrics_page() -> str:
    """Return the page docs/metrics.md: each metric with its formula and source; the probes of the data sets."""
    others = {**METRICS, **CHAT_METRICS, **TEMPLATE_METRICS, **EXTRAS}
    probed = {name: metric for name, metric in RECORD_METRICS.items() if name not in others}
    templates = {name: metric for name, metric in TEMPLATE_METRICS.items() if name not in CONVERSATION_METRICS}
    tests = []
    for name, metric in probed.items():
        kind = _TESTS.search(metric.formula)
        if kind:
            tests.append((f"`{name}`", kind["tests"]))
    parts = [
        _HEAD,
        _section("Of every record", {**METRICS, **CHAT_METRICS}.items()),
        _section("Of the probes that a data set brings", probed.items()),
        "[Benchmarks](benchmarks.md#ripples) explains the groups of a Ripples file. `ripples-known…` and "
        "`ripples-unknown…` have all five metrics of Ripples, and the other groups have only `greedy`. "
        "RippleEdits has these tests:\n\n"
        f"{markdown_table(('metric', 'what is tested'), tests)}\n",
        _section("On request: probes made from an edit (`--probes`)", templates.items()),
        _section("Conversations", CONVERSATION_METRICS.items()),
        _CONVERSATIONS,
        _section("On request: costly metrics (`--extra`)", EXTRAS.items()),
        _section("Of a model or a run", RUN_METRICS.items()),
        f"## Data sets\n\n{markdown_table(('name', 'its edits may have', 'its probes'), _list_datasets())}\n",
    ]
    return "\n".join(parts)


def _list_datasets() -> list[tuple[str, str, str]]:
    """Return the rows of the data sets; those with the same parts and probes share a row."""
    names_by_parts: dict[tuple[str, str], list[str]] = {}
    for dataset in known_datasets().values():
        parts = (_quote(dataset.edits_have), _quote(dataset.measures))
        names_by_parts.setdefault(parts, []).append(dataset.name)
    rows = []
    for (edits_have, measures), names in names_by_parts.items():
        rows.append((_quote(names), edits_have, measures))
    return rows


_TESTS = re.compile(r"(?<=tests) of (?P<tests>[\w ]+ \(.*?\))(?= that pass)")  # the kind, in a formula of RippleEdits
_QUESTIONS = re.compile(r" Questions: .+\.$")  # the kind, in a formula of Ripples
_BY_HOPS = re.compile(r"multihop\.\d_hops\.")
_RANGE = "0 to 1"  # unless a formula ends with another


def shown_name(name: str) -> str:
    """Return how the page names a metric: with SUB for a sub-category, GROUP for a group of Ripples."""
    group, _, protocol = name.rpartition(".")
    kind, dot, _ = group.partition(".")
    if kind in ("portability", "locality") and dot:
        return f"{kind}.SUB.{protocol}"
    if group.startswith("ripples-"):
        return f"ripples-GROUP.{protocol}"
    return name


def _section(title: str, metrics: Iterable[tuple[str, Metric | RunMetric]]) -> str:
    """Return a heading and a table; metrics with the same formula for other probes share a row."""
    names_by_row: dict[tuple[str, str], dict[str, None]] = {}  # (formula, source) -> names, each once
    for name, metric in metrics:
        if _BY_HOPS.match(name):
            continue
        row = (_shorten_formula(name, metric), metric.source)
        names_by_row.setdefault(row, {})[shown_name(name)] = None
    rows = []
    for (formula, source), names in names_by_row.items():
        cells = (_quote(names), formula, source)
        rows.append([cell.replace("|", "\\|") for cell in cells])
    return f"## {title}\n\n{markdown_table(('metric', 'formula', 'source'), rows)}\n"


def _shorten_formula(name: str, metric: Metric | RunMetric) -> str:
    """Return the formula without what differs between the groups of probes, and with an unusual range at its end."""
    formula = metric.formula.replace(f" {CATEGORIES}", "")
    for kind in (_TESTS, _QUESTIONS):
        formula = kind.sub("", formula)
    group = name.rpartition(".")[0]
    if group.startswith("ripples"):
        formula = formula.replace(f"{group}.", "….")
    elif group.startswith("retention."):
        formula = formula.replace(f"of {group}", "of the rate")
    elif group:
        formula = formula.replace(f"prompts of {group}", "prompts of the group")
    if metric.values == _RANGE and metric.better == "lower":
        return f"{formula} Lower is better."
    if metric.values == _RANGE:
        return formula
    if metric.better == "neither":
        return f"{formula} {metric.values}."
    return f"{formula} {metric.values}; {metric.better} is better."


def _quote(names: Iterable[str]) -> str:
    """Return the names as code, with commas."""
    return ", ".join(f"`{name}`" for name in names)
