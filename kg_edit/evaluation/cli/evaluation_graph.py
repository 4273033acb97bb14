"""The graph that an evaluation lets a method read: without the answers that its questions withhold, or a control of it.

- `graph_for`: the right graph, or a control of it, without the answers of withheld questions.
- `guard_graph`: that graph without the answers of all probes, for settings with ``exclude_answers``. Without this
  setting the method knows which answers these are, and reports those that it reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kg_edit.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kg_edit.edits.record import BenchmarkRecord
    from kg_edit.graphs.source import SubgraphSource
    from kg_edit.methods import MethodConfig

_CONSEQUENCES = ("hops", "multihop", "portability", "ripple")  # families of probes about portability


def graph_for(
    graph: SubgraphSource | None, records: Sequence[BenchmarkRecord], control: str | None = None
) -> SubgraphSource | None:
    """Return the graph that a method may read: without the answers of withheld questions, or a control of it."""
    from kg_edit.edits.record import edits_of
    from kg_edit.evaluation.datasets.ripples import withheld_answers
    from kg_edit.graphs.controls import NoGraph, ShuffledObjects, Withheld, WrongGraph

    if graph is None:
        if control:
            raise ConfigError(f"--control {control} needs a graph; give --graph")
        return None
    hidden = withheld_answers(records)
    pool = edits_of(records)
    right: SubgraphSource = Withheld(graph, names=hidden) if hidden else graph
    match control:
        case "wrong":
            return WrongGraph(right, pool)
        case "shuffled":  # another record's o* may have an answer that this record withholds
            return Withheld(ShuffledObjects(right, pool=pool), names=hidden)
        case "none":
            return NoGraph(right)
    return right


def guard_graph(
    graph: SubgraphSource | None, config: MethodConfig, records: Sequence[BenchmarkRecord]
) -> SubgraphSource | None:
    """Return the graph without the answers of the records' probes, if the method's config has ``exclude_answers``.

    If it does not, the graph is the same, and has the answers' names (`WithAnswersNamed`), also those of an edit's own
    questions (CounterFactPlus), so that the method reports once that it reads one.
    """
    from kg_edit.graphs.controls import WithAnswersNamed, WithoutAnswers
    from kg_edit.methods.graph_reader import asked_answers

    excludes = getattr(config, "exclude_answers", None)  # None: the method reads no graph that could have answers
    if graph is None or excludes is None:
        return graph
    names: dict[str, frozenset[str]] = {}
    for record in records:
        probe_answers = set[str]()
        for probe in record.probes:
            if probe.family in _CONSEQUENCES:
                for query in probe.queries:
                    probe_answers.update(query.right_names)
        for edit in record.edits:
            answers = set(probe_answers)
            if not excludes:  # a method that excludes answers knows those of an edit's own questions itself
                answers.update(asked_answers(edit))
            if answers:
                names[edit.id] = frozenset(answers)
    if not names:
        return graph
    if excludes:
        return WithoutAnswers(graph, names=names)
    return WithAnswersNamed(graph, names=names)
