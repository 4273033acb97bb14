"""The work behind the served page: edits are made on request, one at a time, and the model is restored after each.

`EditDesk` has the model and the method. It makes an edit, asks its prompts before and after it, and adds it to the
ledger on request. It stores the last edits, so that they can still be added or drawn.
"""

from __future__ import annotations

import logging
import re
import secrets
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import networkx as nx

from kg_edit.edits.edit import Edit
from kg_edit.errors import ConfigError, KgEditError, UnknownNameError
from kg_edit.graphs.source import SubgraphSource, read_subgraph
from kg_edit.methods import EditingMethod
from kg_edit.methods.graph_reader import GraphReader, subgraph_of
from kg_edit.models.first_token import LINE_BREAK, line_break_before
from kg_edit.models.language_model import LanguageModel
from kg_edit.patches.base import Patch
from kg_edit.patches.weight_patch import WeightPatch
from kg_edit.scoring.asking import ask, check_requests
from kg_edit.scoring.evidence import Evidence
from kg_edit.scoring.generation import Reply, continue_prompts, reply_in_chat
from kg_edit.scoring.judging import generates, tidy_text
from kg_edit.scoring.requests import Requests, continue_and_score
from kg_edit.scoring.text_start import Start, with_start
from kg_edit.ship.app.messages import Chance, LedgerView, Outcome, TryAnswer, TryRequest, view_of
from kg_edit.ship.app.served_models import ServedModels
from kg_edit.writing_systems import join
from wikidata_cache.errors import WikidataCacheError
from wikidata_cache.subgraphs.options import SubgraphOptions
from wikidata_cache.view.page import page

if TYPE_CHECKING:
    from kg_edit.ship.ledger import Ledger
    from kg_edit.ship.ledger.log import PatchStep


log = logging.getLogger(__name__)

REMEMBERED = 20
_TOKENS = 16  # to write after a prompt
# The size of the subgraph that is drawn if the method itself reads no graph
_HOPS = 2
_PER_NODE = 12


@dataclass(frozen=True, eq=False, kw_only=True)
class Try:
    """An edit that was made: its patch and its subgraph.

    ``base`` are the ledger's steps, each with its file, that the model had then (None: the unedited model, whatever the
    ledger contains); ``added`` are the numbers of the ledger's steps that have this edit.
    """

    patch: Patch
    base: tuple[PatchStep, ...] | None
    graph: nx.MultiDiGraph | None
    added: tuple[int, ...] = ()


class EditDesk:
    """Makes edits on request. Other requests wait meanwhile, because the model is changed during an edit.

    ``graph`` is drawn if the method itself reads no graph; ``ledger`` is where edits can be added; ``start`` is that of
    `with_start` for the texts of `complete`.
    """

    def __init__(
        self,
        method: EditingMethod,
        *,
        graph: SubgraphSource | None = None,
        ledger: Ledger | None = None,
        start: Start = "auto",
    ) -> None:
        self.method = method
        self.model = method.model
        self.ledger = ledger
        self.start = start
        self.graph = graph or method.graph
        self.models = ServedModels(self.model, ledger)
        self._lock = threading.Lock()
        self._tries = dict[str, Try]()  # the last `REMEMBERED`, by key
        self._count = 0
        self._remarked = False

    @property
    def is_busy(self) -> bool:
        """Whether a request is being computed."""
        return self._lock.locked()

    def try_edit(self, request: TryRequest) -> TryAnswer:
        """Make an edit, and ask its prompts before and after it."""
        with self._lock:
            began = time.perf_counter()
            edit = request.edit(self._new_name(request.subject))
            requests = make_requests(self.model, request, edit)

            self._check_before(edit, requests)
            base, active = self._read_base(request)
            before = self._ask_with(active, requests)
            patch = self._make_patch(edit, active)
            after = self._ask_with(active + patch, requests)
            graph, why_no_subgraph = self._find_subgraph(edit)
            why_alone = self._why_alone(edit)
            key = self._remember(edit, Try(patch=patch, base=base, graph=graph))

        (text,) = after[0].texts.values()  # what the edited model writes after the edit's own prompt
        return TryAnswer(
            id=key,
            fact=join(edit.text, edit.target_new),
            outcomes=make_outcomes(requests, before, after),
            # In chat form the target may be anywhere in the answer's first sentence.
            success=generates(tidy_text(text), edit.target_new, chat=request.chat),
            seconds=round(time.perf_counter() - began, 2),
            patch=patch.summary,
            record={field: value for field, value in patch.edits[0].items() if field not in ("edit", "graph")},
            subgraph=graph is not None,
            no_subgraph=why_no_subgraph,
            alone=why_alone,
            on_ledger=request.on_ledger,
        )

    def add(self, key: str, *, force: bool = False) -> LedgerView:
        """Add a try's patch to the ledger, and return the ledger's content.

        With ``force``, also a patch that would probably break the model. A try that is active in the ledger is not
        added again, because a request may be sent twice.
        """
        with self._lock:
            tried = self._find_try(key)
            ledger = self._need_ledger()
            if not any(step.number in tried.added for step in ledger.steps):
                # after: the steps that the model had; none for an edit of the unedited model.
                # on: the same steps with their files. If the ledger has others by now, it refuses the patch.
                after = tuple(step.number for step in tried.base or ())
                step = ledger.add(tried.patch, after=after, on=tried.base, force=force, model=self.model)
                self._tries[key] = replace(tried, added=(*tried.added, step))
            return view_of(ledger)

    def remove(self, name: str) -> LedgerView:
        """Remove an edit from the ledger, and return the ledger's content."""
        with self._lock:
            ledger = self._need_ledger()
            ledger.remove([name], model=self.model, graph=self.graph)
            return view_of(ledger)

    def undo(self, event: int) -> LedgerView:
        """Undo the ledger's last event, and return the ledger's content."""
        with self._lock:
            ledger = self._need_ledger()
            ledger.undo(event)
            return view_of(ledger)

    def ledger_view(self) -> LedgerView:
        """Return the content of the ledger."""
        with self._lock:
            return view_of(self._need_ledger())

    def subgraph_page(self, key: str) -> str:
        """Return the interactive drawing of a try's subgraph, as a whole HTML page."""
        graph = self._find_try(key).graph
        if graph is None:
            raise ConfigError(f"there is no subgraph of {key!r}; start kg-edit serve with --graph")
        return page(graph)

    def complete(self, prompts: Sequence[str], *, tokens: int, name: str | None = None) -> tuple[Reply, ...]:
        """Return the greedy continuation of each prompt by a served model: a line of at most ``tokens`` tokens."""
        patch = self.models.find(name)  # before other requests are waited for: it may be unloaded meanwhile
        with self._lock:
            texts, remark = with_start(self.model, prompts, patch=patch, start=self.start)
            if remark and not self._remarked:  # once, not with each request
                log.warning(remark)
                self._remarked = True
            with patch.applied(self.model) as model:
                return continue_prompts(model, texts, limits=[tokens] * len(prompts))

    def chat(self, messages: Sequence[Mapping[str, str]], *, tokens: int, name: str | None = None) -> Reply:
        """Return the assistant's turn after a conversation by a served model, of at most ``tokens`` tokens."""
        patch = self.models.find(name)
        with self._lock, patch.applied(self.model) as model:
            return reply_in_chat(model, messages, tokens=tokens)

    def _new_name(self, subject: str) -> str:
        """Return a name for the next edit: the subject's words and a number, such as lebron-james-3."""
        self._count += 1
        words = re.sub(r"[^a-z0-9]+", "-", subject.casefold()).strip("-")[:40]
        return f"{words or 'edit'}-{self._count}"

    def _check_before(self, edit: Edit, requests: Sequence[Requests]) -> None:
        """Raise all errors that can be found before anything is computed."""
        self.method.check_inputs(self.method.config, self.method.graph, [edit])
        self.method.check([edit])
        check_requests(self.model, requests)

    def _make_patch(self, edit: Edit, active: Patch) -> Patch:
        """Make an edit on the model with the patch ``active``."""
        self.method.start_anew()  # the same request makes the same patch again
        if active.is_empty:
            patch = self.method.edit([edit])
        else:
            patch = self.method.edit([edit], before=active)
        patch.check_finite()
        return patch

    def _ask_with(self, patch: Patch, requests: Sequence[Requests]) -> Sequence[Evidence]:
        """Ask the model with a patch."""
        with patch.applied(self.model) as model:
            return ask(model, requests)

    def _remember(self, edit: Edit, new: Try) -> str:
        """Store a try, forget the oldest one beyond `REMEMBERED`, and return the try's key.

        The key is random, so that another site's page can't guess it.
        """
        key = f"{edit.id}-{secrets.token_hex(8)}"
        self._tries[key] = new
        for oldest in list(self._tries)[:-REMEMBERED]:
            del self._tries[oldest]
        return key

    def _why_alone(self, edit: Edit) -> str | None:
        """Return why the method read only the edit's own edge of the graph; None if it read more, or reads no graph."""
        if not isinstance(self.method, GraphReader):
            return None
        return self.method.why_alone(edit) or None

    def _find_subgraph(self, edit: Edit) -> tuple[nx.MultiDiGraph | None, str | None]:
        """Return the subgraph that the method read, or else that of the graph; or None and the reason for that."""
        subgraph = subgraph_of(self.method, edit)
        if subgraph is not None:
            return subgraph, None
        if self.graph is None:
            return None, "no graph was given (kg-edit serve --graph FILE)"
        try:
            return read_subgraph(self.graph, edit, SubgraphOptions(hops=_HOPS, per_node=_PER_NODE)), None
        except (KgEditError, WikidataCacheError) as error:  # the edit does not need this graph
            return None, str(error)

    def _find_try(self, key: str) -> Try:
        """Return the try with a key. The error for an unknown key suggests no other one, because keys are secret."""
        try:
            return self._tries[key]
        except KeyError as error:
            raise UnknownNameError(
                f"unknown edit {key!r}; the server stores only the last {REMEMBERED} tried edits; make it again"
            ) from error

    def _read_base(self, request: TryRequest) -> tuple[tuple[PatchStep, ...] | None, Patch]:
        """Return the steps on which the request's edit is made, and their sum; None and an empty patch without them.

        Both are of one state of the ledger, because another process may write to it.
        """
        if not request.on_ledger:
            return None, WeightPatch(factors={})
        now = self._need_ledger().now
        return now.steps, now.patch

    def _need_ledger(self) -> Ledger:
        """Return the ledger; without one, the request is refused."""
        if self.ledger is None:
            raise ConfigError("there is no ledger; start kg-edit serve with --ledger FOLDER")
        return self.ledger


def make_requests(model: LanguageModel, request: TryRequest, edit: Edit) -> list[Requests]:
    """Return the requests for the edit's own prompt with both answers, then for the user's probes.

    A prompt gets a line break in front if it begins with a subject that is an attention sink; so does the edit.
    """
    targets = tuple(filter(None, (edit.target_new, edit.target_true)))
    prompts = [(edit.text, targets)]
    for probe in request.probes:
        candidates = (probe.answer,) if probe.answer else targets
        prompts.append((probe.prompt.rstrip(), candidates))
    requests = []
    for prompt, candidates in prompts:
        text = prompt
        if not request.chat:
            text = line_break_before(model, prompt, subject=edit.subject) + prompt
        requests.append(continue_and_score(text, candidates, least=_TOKENS, chat=request.chat))
    return requests


def make_outcomes(
    requests: Sequence[Requests], before: Sequence[Evidence], after: Sequence[Evidence]
) -> tuple[Outcome, ...]:
    """Return the outcome of each prompt (of `make_requests`); the first one is that of the edit's own prompt."""
    outcomes = []
    for index in range(len(requests)):
        kind: Literal["edit", "probe"] = "probe" if index else "edit"
        outcomes.append(_make_outcome(kind, requests[index], before[index], after[index]))
    return tuple(outcomes)


def _make_outcome(kind: Literal["edit", "probe"], of_prompt: Requests, before: Evidence, after: Evidence) -> Outcome:
    (text,) = of_prompt.continued
    chances = []
    for pair in of_prompt.pairs:
        old = before.scores[pair].probability
        new = after.scores[pair].probability
        chances.append(Chance(candidate=pair.candidate, before=old, after=new))
    return Outcome(
        kind=kind,
        prompt=text.prompt.removeprefix(LINE_BREAK),
        after_line_break=text.prompt.startswith(LINE_BREAK),
        before=tidy_text(before.texts[text.prompt]),
        after=tidy_text(after.texts[text.prompt]),
        chances=tuple(chances),
    )
