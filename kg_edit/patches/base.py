"""The base class of patches. A patch is the change that edits make to a model, applied within a ``with`` block.

`Patch` has the operations of all classes (`applied`, `merge_into`, ``+``, `save`, `load`); files are written without
pickle. This folder has patches of weights, of adapters and of the prompt; GRACE, MELO, SERAC and MeLLo have patch
classes of their own in their folders. `PatchStack` holds patches of different classes at once.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Literal

from torch import Tensor

from kg_edit.errors import PatchError, PatchMismatchError, describe
from kg_edit.models.hooks import mark_patched
from kg_edit.models.language_model import LanguageModel, as_model
from kg_edit.patches import join_provenances
from kg_edit.registry import load_service

ChangedPart = Literal["weights", "adapter", "prompt", "stack"]  # stack: what its parts change (`PatchStack`)
_LONG = 160  # the most characters of a summary in a repr
_NAMED = 5  # the most edits that an error names


class Patch(ABC):
    """Base class of all patches. A patch changes weights, a layer's output (an adapter), or the prompt.

    ``provenance`` is JSON: the model's name and fingerprint, the methods with their settings, and a record of each
    edit. Patches of one model can be added; patches of different classes add up to a `PatchStack`.
    """

    changed_part: ClassVar[ChangedPart]  # what the patch changes; several classes change the prompt
    file_kind: ClassVar[str]  # the name of the class in the patch's file, by which `patch_class` finds it
    server_needs: ClassVar[str] = ""  # what a server needs besides the model, if the change is not in its weights
    provenance: Mapping[str, Any]

    @property
    def mergeable(self) -> bool:
        """Whether `merge_into` can make the change part of the model's weights."""
        return self.changed_part == "weights"

    @property
    def changed_in_words(self) -> str:
        """What the patch changes, for a message: "prompt"; of a stack, "weights and prompt"."""
        return " and ".join(dict.fromkeys(part.changed_part for part in self.parts))

    @property
    def edits(self) -> tuple[Mapping[str, Any], ...]:
        """A record of each edit, in the order in which they were made."""
        return tuple(self.provenance.get("edits", ()))

    @property
    def fingerprint(self) -> str | None:
        """The content fingerprint of the model that the patch is for; None: it fits any model."""
        fingerprint: str | None = self.provenance.get("model", {}).get("fingerprint")
        return fingerprint

    @property
    def parts(self) -> tuple[Patch, ...]:
        """The patch itself, or the parts of a stack."""
        return (self,)

    def __repr__(self) -> str:
        edits = "1 edit" if len(self.edits) == 1 else f"{len(self.edits)} edits"
        model = self.provenance.get("model", {}).get("name")
        if model:
            edits += f" of {model}"
        methods = dict.fromkeys(method["name"] for method in self.provenance.get("methods", ()))
        if methods:
            edits += f" by {', '.join(methods)}"
        facts = self._facts
        texts = [f"{text!r} → {new!r}" for _, text, _, new, _ in facts[:2]]
        if len(facts) > len(texts):
            texts.append("…")
        if texts:
            edits += f": {', '.join(texts)}"
        changes = self.summary or "no change"
        if len(changes) > _LONG:
            changes = f"{changes[:_LONG]}…"
        return f"{type(self).__name__}({edits}; {changes}; {self.nbytes / 1000:,.1f} kB)"

    def _repr_html_(self) -> str:
        from kg_edit.storage.notebook import html_table  # an edit draws no table

        return html_table(repr(self), ("edit", "prompt", "before", "after", "method"), self._facts)

    @property
    def _facts(self) -> list[tuple[str, str, str, str, str]]:
        """The rows of the table in a notebook, (id, text, old target, new target, method): the edits with a record."""
        facts = []
        for record in self.edits:
            fields = {"target_true": "", "target_new": "", **record.get("edit", {})}
            if "prompt" not in fields or "subject" not in fields:
                continue
            text = str(fields["prompt"]).replace("{}", str(fields["subject"]))
            old = str(fields["target_true"] or "")
            new = str(fields["target_new"])
            facts.append((str(fields.get("id", "")), text, old, new, str(record.get("method", ""))))
        return facts

    def with_records(self, records: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any]) -> Patch:
        """Return the patch with these records of its edits.

        Args:
            records: of all edits, in order.
            provenance: values of the fields that the patch's provenance lacks.

        Raises:
            PatchError: a patch class of a plug-in is not a dataclass.
        """
        full_provenance = {**provenance, **self.provenance, "edits": [*records]}
        try:
            return replace(self, provenance=full_provenance)  # type: ignore[type-var]
        except TypeError as error:
            raise PatchError(
                f"{type(self).__name__} lacks records of its edits, or the size of their batch, and is not a "
                f"dataclass: {error}"
            ) from error

    def __add__(self, other: Patch) -> Patch:
        """Return the sum: both changes at once. The edits of ``other`` come after this patch's edits."""
        if self.fingerprint and other.fingerprint and self.fingerprint != other.fingerprint:
            raise PatchMismatchError(
                f"can't add patches of different models ({self.fingerprint} and {other.fingerprint})"
            )
        if type(self) is type(other):
            return self._plus(other)
        return PatchStack.of(self, other)

    def applied(self, model: LanguageModel | str | Path) -> AbstractContextManager[LanguageModel]:
        """Apply this patch to ``model`` within a ``with`` block; afterwards the model is as before, bit for bit.

        Use the model that the ``with`` statement yields: a patch of the prompt changes that model's prompts, not the
        weights of ``model``. The name of a model is accepted too: it is loaded for the block. A call without a
        ``with`` statement changes nothing, and a RuntimeWarning says so.

        Raises:
            PatchError: another patch is applied to this model; add patches, or merge the first one.
            PatchMismatchError: the patch is for another model.
        """
        return _Applied(self._applied(model))

    @contextmanager
    def _applied(self, model: LanguageModel | str | Path) -> Iterator[LanguageModel]:
        model = as_model(model)
        with mark_patched(model):
            self.check_model(model)
            with self.applied_on_top(model) as edited:
                yield edited

    def merge_into(self, model: LanguageModel) -> None:
        """Change the model's weights for good.

        The model is another one afterwards, with another fingerprint: patches that were made before don't fit it, this
        one included; new ones are made on it. To merge several patches, merge their sum.

        Raises:
            PatchError: a patch is applied to this model at the moment, or this kind of patch changes no weights.
            PatchMismatchError: the patch is for another model, also for this one before an earlier merge.
        """
        raise PatchError(
            f"a patch of the {self.changed_in_words} can't be merged into weights; use patch.applied(model)"
        )

    def check_model(self, model: LanguageModel) -> None:
        """Refuse a model for which the patch was not made.

        Raises:
            PatchMismatchError: the patch is for another model.
        """
        if self.fingerprint in (None, model.fingerprint):
            return
        if self.fingerprint in model.fingerprints:
            raise PatchMismatchError(
                f"this patch is for {model.name!r} before a patch was merged into it, and may be in its weights; load "
                "the model again to use the patch, make a new one on the merged model, or merge several at once: "
                "(first + second).merge_into(model)"
            )
        raise PatchMismatchError(self._describe_mismatch(model))

    def _describe_mismatch(self, model: LanguageModel) -> str:
        """Return the message about a model that is another one than the patch is for."""
        from kg_edit.patches.provenance import ORIGIN, about_merged  # only a patch of another model needs it

        source = self.provenance["model"]
        if (Path(model.name) / ORIGIN).is_file():
            return f"this patch is for {source.get('name')!r}, and {about_merged(model.name)}"
        message = (
            f"this patch is for {source.get('name')!r} (fingerprint {self.fingerprint}), but the loaded model is "
            f"{model.name!r} ({model.fingerprint}); load the right model, or edit this one again"
        )
        saved = source.get("dtype")
        loaded = str(model.model.dtype)
        if saved and saved != loaded and "torch.float16" in (saved, loaded):  # a cast to float16 rounds
            dtype = saved.removeprefix("torch.")
            message += (
                f". The patch was made in {dtype}, and a model in float16 may have another fingerprint: try the model "
                f"in {dtype} (CLI: --dtype {dtype})"
            )
        return message

    @property
    def nbytes(self) -> int:
        """The bytes of memory that the patch's tensors take."""
        return 0

    @property
    @abstractmethod
    def summary(self) -> str:
        """What the patch changes, in one line of text, such as the weights and their ranks."""

    @property
    @abstractmethod
    def is_empty(self) -> bool:
        """Whether the patch changes nothing: no edit is in it."""

    @abstractmethod
    def applied_on_top(self, model: LanguageModel) -> AbstractContextManager[LanguageModel]:
        """Like `applied`, but other patches may be applied to the model already; used by a stack of patches."""

    @abstractmethod
    def check_finite(self) -> None:
        """Check that every number of the patch is finite.

        Raises:
            PatchError: a number is not finite.
        """

    def save(self, path: str | Path) -> Path:
        """Write ``path`` (safetensors, all else in its metadata) atomically.

        Raises:
            PatchError: a value is not finite.
            OutputError: the file can't be written.
        """
        from kg_edit.patches.container import write_patch  # the format of files, which a patch in memory does not need

        content, tensors = self._stored()
        return write_patch(path, kind=self.file_kind, provenance=self.provenance, content=content, tensors=tensors)

    def _stored(self) -> tuple[Any, Mapping[str, Tensor]]:
        """Return what `from_file` of the class reads besides the provenance: JSON, and tensors by name.

        Every class has it but `PatchStack`, which has no file.
        """
        raise NotImplementedError

    def meets(self, later: Any) -> bool:
        """Return whether a ``later`` patch of the same class changes one of the places that this patch changes.

        Both then have to become one patch. True here: two patches of weights, for example, always do.
        """
        return True

    def depends_on(self, earlier: Patch) -> bool:
        """Return whether ``earlier``, a patch that was applied when this one was made, could influence it.

        True here, unless a class knows better.
        """
        return True

    def tensors_of_edit(self, index: int) -> Mapping[str, tuple[Tensor, Tensor]] | None:
        """Return the pairs of tensors in the patch that belong to the edit with this index alone, by name.

        A ledger compares them before and after a removal, to find out whether the removal changed this edit.

        Returns:
            SERAC, for example, returns the vectors by which it recognises the edit's prompt, and their weights:
            {"scope": (vectors, weights)}. {} means that the edit's record says all. None means that the class can't
            tell which tensors belong to a single edit. A `WeightPatch` also returns None, because the ledger finds the
            edit's columns of the factors itself.
        """
        return None

    @abstractmethod
    def _plus(self, other: Any) -> Patch:
        """Return the sum with a patch of the same class and model; `__add__` calls this."""

    @staticmethod
    def load(path: str | Path) -> Patch:
        """Read a patch of any class that `save` wrote, also from the folder of `kg-edit edit` or from a ledger.

        Raises:
            PatchError: the file is missing, or is not a patch; or the folder has neither a patch nor a ledger.
            OutputError: the folder has a run that is not finished.
        """
        if not isinstance(path, str | Path):
            raise PatchError(f"found {describe(path)}; expected the path of a patch, a run's folder or a ledger")
        try:
            is_folder = Path(path).is_dir()
        except OSError as error:  # its name is too long, or the folder around it is not readable
            raise PatchError(f"can't read the patch {path}: {error.strerror}; check the path") from error
        patch: Patch
        if is_folder:  # of a run, or a ledger
            patch = load_service("ledger").read_folder(Path(path))
            return patch
        from kg_edit.patches.container import patch_class, read_patch

        file = read_patch(path)
        patch = patch_class(file.kind).from_file(file)
        return patch


class _Applied(AbstractContextManager[LanguageModel]):
    """The block of `Patch.applied`. It warns if no ``with`` statement enters it, as Python does of a coroutine."""

    def __init__(self, block: AbstractContextManager[LanguageModel]) -> None:
        self._block = block
        self._entered = False

    def __enter__(self) -> LanguageModel:
        self._entered = True
        return self._block.__enter__()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool | None:
        return self._block.__exit__(kind, error, traceback)

    def __del__(self) -> None:
        if not self._entered:
            warnings.warn(
                "patch.applied(model) was never entered, so the model is unedited; use it in a with statement: "
                "with patch.applied(model) as edited: …",
                RuntimeWarning,
                stacklevel=2,
            )


def as_patch(patch: Patch | str | Path) -> Patch:
    """Return a patch; a path is loaded. The door of every call that takes a patch."""
    if isinstance(patch, LanguageModel):
        raise PatchError("found a LanguageModel in the place of the patch; give the model first, then the patch")
    if isinstance(patch, Patch):
        return patch
    return Patch.load(patch)


def without_edits(provenance: Mapping[str, Any], ids: Collection[str], *, known: Collection[str]) -> dict[str, Any]:
    """Return a provenance without the records of some edits.

    Args:
        provenance: as `Patch.provenance`.
        ids: of the edits to remove.
        known: the ids of all edits of the patch.
    """
    unknown = [repr(id_) for id_ in sorted(set(ids).difference(known))]
    if unknown:
        raise PatchError(f"the patch has no edit {', '.join(unknown)}; check its edits' ids")
    edits = [record for record in provenance.get("edits", ()) if record.get("edit", {}).get("id") not in ids]
    return {**provenance, "edits": edits}


def _add_part(parts: Sequence[Patch], new_part: Patch) -> list[Patch]:
    """Return the ``parts`` of a stack with one more.

    It becomes one patch with each earlier part of the same class that changes the same place (`Patch.meets`), or that
    is the last of the stack, so that no part lies between them. The sum comes last: ``new_part`` was made on the model
    with all parts before it. With adapters A and B at different places and weights W, for example:

        [A, W] and A'  ->  [W, A + A']        [A, W] and B  ->  [A, W, B]        [W, A] and B  ->  [W, A + B]
    """
    others = list[Patch]()
    to_add = list[Patch]()
    for part in parts:
        is_last = part is parts[-1]
        if type(part) is type(new_part) and (is_last or part.meets(new_part)):
            to_add.append(part)
        else:
            others.append(part)
    to_add.append(new_part)
    total = to_add[0]
    for part in to_add[1:]:
        total = total + part
    return [*others, total]


@dataclass(frozen=True, eq=False, repr=False)
class PatchStack(Patch):
    """Several patches, applied in order: one of each class, or several whose changes are in different places."""

    patches: tuple[Patch, ...]
    changed_part: ClassVar[ChangedPart] = "stack"

    @classmethod
    def of(cls, *patches: Patch) -> Patch:
        """Return the sum of patches: stacks are flattened, patches of one class added, empty patches left out."""
        flattened = list[Patch]()
        for patch in patches:
            flattened += patch.parts
        to_add = [part for part in flattened if not part.is_empty]
        if not to_add:  # the first one stands for all
            to_add = flattened[:1]
        parts = list[Patch]()
        for part in to_add:
            parts = _add_part(parts, part)
        if len(parts) == 1:
            return parts[0]
        return cls(tuple(parts))

    @property
    def parts(self) -> tuple[Patch, ...]:
        """The patches of the stack."""
        return self.patches

    @cached_property
    def provenance(self) -> dict[str, Any]:  # type: ignore[override]
        """The provenances of all parts, joined: see `join_provenances`."""
        provenance = dict[str, Any]()
        for part in self.patches:
            provenance = join_provenances(provenance, part.provenance)
        return provenance

    @property
    def summary(self) -> str:
        """The summaries of all parts, on one line."""
        return "; ".join(part.summary for part in self.patches)

    @property
    def nbytes(self) -> int:
        """The bytes of all parts."""
        return sum(part.nbytes for part in self.patches)

    @property
    def is_empty(self) -> bool:
        """Whether every part is empty."""
        return all(part.is_empty for part in self.patches)

    def _plus(self, other: PatchStack) -> Patch:
        return PatchStack.of(self, other)

    def with_records(self, records: Sequence[Mapping[str, Any]], provenance: Mapping[str, Any]) -> Patch:
        """Return the stack with these records of its edits.

        The first records are those of the parts, in the order of `edits`: each part gets as many as it has. The records
        after them, which no part had, go to the last part. The first part gets the missing fields of ``provenance``.
        """
        parts = list[Patch]()
        start = 0
        for part in self.patches:
            end = start + len(part.edits)
            if part is self.patches[-1]:
                end = len(records)
            missing = provenance if part is self.patches[0] else {}
            parts.append(part.with_records(records[start:end], missing))
            start = end
        return PatchStack(tuple(parts))

    @contextmanager
    def applied_on_top(self, model: LanguageModel) -> Iterator[LanguageModel]:
        """Apply all parts in order within the ``with`` block."""
        with ExitStack() as stack:
            for part in self.patches:
                model = stack.enter_context(part.applied_on_top(model))
            yield model

    def check_finite(self) -> None:
        """Check that every number of every part is finite."""
        for part in self.patches:
            part.check_finite()

    def save(self, path: str | Path) -> Path:
        """Always raises: save each part of the stack to its own file."""
        raise PatchError(
            f"can't write {path}: a file can't have patches of different kinds; save each part alone, or give the "
            "ledger itself, which the commands take like a patch"
        )


def needs_of_server(patch: Patch) -> str:
    """Return what a server needs besides the model, as sentences; "" if a patch class does not say it."""
    needs = [part.server_needs for part in patch.parts if part.server_needs]
    return " ".join(dict.fromkeys(needs))


def edits_beside_weights(patch: Patch) -> str:
    """Name the edits of a patch that are not in its weights, at most `_NAMED`: "a (grace), b (ike) and 3 more".

    "" if there are none.
    """
    records = list[Mapping[str, Any]]()
    for part in patch.parts:
        if not part.mergeable:
            records += part.edits
    named = ", ".join(f"{record['edit'].get('id')} ({record.get('method')})" for record in records[:_NAMED])
    if len(records) > _NAMED:
        return f"{named} and {len(records) - _NAMED} more"
    return named
