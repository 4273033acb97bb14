"""What counts as an edit that can't be made: the others go on."""

from __future__ import annotations

from kg_edit.errors import KgEditError
from wikidata_cache.errors import AmbiguousLabelError, EntityNotInGraphError, UnknownLabelError

# A graph that can't be reached is none of these: it ends a run, which goes on later.
FAILURES = (KgEditError, EntityNotInGraphError, UnknownLabelError, AmbiguousLabelError)
