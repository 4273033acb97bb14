"""Many edits linked together: what all of them need is asked for hop by hop, then each is linked from what is known."""

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from tqdm import tqdm

from wikidata_cache.labels.names import normalise
from wikidata_cache.linking.drafts import POOL, given_id
from wikidata_cache.linking.edit_links import LinkedEdit, drafts_of, link_edit, relation_of
from wikidata_cache.linking.knowledge import About, Knowledge
from wikidata_cache.linking.linker import Linker
from wikidata_cache.linking.parts import Part, parts_of
from wikidata_cache.sources.relation_ends import Role
from wikidata_cache.subgraphs.edit_ends import EditLike


def link_all(linker: Linker, edits: Sequence[EditLike], *, limit: int = 10) -> Iterator[LinkedEdit]:
    """`link_edit` of each edit, in order, with the questions of all edits together where each costs a request.

    Raises what `link_edit` raises, and what the graph raises where it cannot be asked, such as CacheMissError.
    """
    if linker.knowledge.far:
        _ask_names(linker.knowledge, list(dict.fromkeys(part for edit in edits for part in parts_of(edit))))
        linker.ask_ends(_at_ends(linker, edits))
    for edit in tqdm(edits, desc="linking", unit="edit", disable=None, leave=False):
        yield link_edit(linker, edit, limit=limit)


def _ask_names(knowledge: Knowledge, parts: Sequence[Part]) -> None:
    """Ask for all names, for all that they may mean or were merged into, and for the names of the types."""
    knowledge.ask_names(part.text for part in parts if not part.given)
    bar = tqdm(parts, desc="names", unit="name", disable=None, leave=False)
    about = dict(knowledge.about({entity for part in bar for entity in _meant(knowledge, part)}))
    merged = {said.merged_into for said in about.values() if said.merged_into}
    about |= knowledge.about(merged - about.keys())
    knowledge.labels({kind for said in about.values() for kind in said.types})
    knowledge.ask_names(part.expected for part in parts if part.expected and not _is_called(part, about))


def _meant(knowledge: Knowledge, part: Part) -> set[str]:
    """All that a part of an edit may mean."""
    matches = () if part.given or not part.text else knowledge.named(part.text, limit=POOL, entity=part.kind)
    given = given_id(part.text, part.kind)
    return {match.id for match in matches} | ({given} if given else set())


def _is_called(part: Part, about: Mapping[str, About]) -> bool:
    """Whether an id that is given has the label that it should have."""
    said = about.get(part.text, About())
    said = about[said.merged_into] if said.merged_into else said
    return normalise(said.label or "") == normalise(part.expected or "")


def _at_ends(linker: Linker, edits: Sequence[EditLike]) -> Mapping[tuple[str, Role], Collection[str]]:
    """The candidates for each end of each relation, from what is known by now."""
    found: dict[tuple[str, Role], set[str]] = defaultdict(set)
    for edit in edits:
        if relation := relation_of(linker, edit):
            for part in parts_of(edit).items:
                found[relation, part.role].update(draft.id for draft in drafts_of(linker, part))
    return found
