"""Why a statement may not be in an edit's subgraph: it tells the old fact, an answer, or what the subject says."""

from collections.abc import Callable

from wikidata_cache.ids import Statement
from wikidata_cache.subgraphs.edit_ends import Ends
from wikidata_cache.subgraphs.facts import Facts
from wikidata_cache.subgraphs.options import Plan


def objection(ends: Ends, plan: Plan, facts: Facts) -> Callable[[Statement], str | None]:
    """A function that gives the reason against a statement, or None.

    - "edit_edge_again": it is the edit's own edge, which is there already.
    - "old_edge": it would tell the model what it shall forget, in either direction; without a relation id
      every edge between subject and old object does.
    - "answer": it leads to or from an answer of `plan.leakage`.
    - "of_the_subject": it is a statement of the subject, met at its object, where the subject is no root.
    """
    leakage, exempt = plan.leakage, (ends.subject, ends.target_new)
    silent_subject = plan.incoming and "subject" not in plan.roots

    def reason(statement: Statement) -> str | None:
        if statement == ends.new_edge:
            return "edit_edge_again"
        if leakage.drop_old_edge and ends.is_old_edge(statement, facts.label):
            return "old_edge"
        nodes = (statement.subject, statement.object)
        if leakage.answers and any(n not in exempt and leakage.gives_away(n, facts.label(n)) for n in nodes):
            return "answer"
        subject = statement.subject
        return "of_the_subject" if silent_subject and ends.is_subject(subject, facts.label(subject)) else None

    return reason
