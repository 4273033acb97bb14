"""Dumps and graph files into a store on disk: streamed, resumable, and swapped in when it is whole."""

from collections.abc import Sequence
from pathlib import Path

from wikidata_cache.errors import BadOptionError, GraphFileError, LabelIndexError, StoreError
from wikidata_cache.release import release
from wikidata_cache.stores.build import LoadOptions, LoadReport, build
from wikidata_cache.stores.engine import writing
from wikidata_cache.stores.inputs import Input, find_inputs
from wikidata_cache.stores.manifest import FORMAT, Manifest, is_store, read_manifest
from wikidata_cache.stores.work import Work, discard, open_work, restore, swap_in

__all__ = ["LoadOptions", "LoadReport", "load"]


def load(
    sources: Sequence[str | Path],
    store: str | Path,
    *,
    force: bool = False,
    options: LoadOptions | None = None,
) -> LoadReport:
    """Make a store of the sources: graph files, Wikidata dumps, folders of them, or CoDEx folders.

    The store is built in a folder beside it (`STORE.loading`), and takes the place of an older one (only with
    `force`) when it is whole. A loading that was interrupted goes on where it stopped when it is called again
    with the same files and options. Memory stays bounded whatever the size.

    Raises GraphFileError for a source that cannot be read, naming file and line; StoreError where a store is
    in the way, another process is loading it, or it cannot be written; BadOptionError without any source.
    """
    if not sources:
        raise BadOptionError("Nothing to load; name at least one file or folder.")
    options = options or LoadOptions()
    target = Path(store).expanduser().resolve()
    inputs = find_inputs(Path(source) for source in sources)
    with writing(target):
        restore(target)
        _check_target(target, force=force)
        with open_work(target, _plan(inputs, options)) as work:
            report = _finish(work, inputs, options)
            swap_in(work.folder, target)
    return report


def _finish(work: Work, inputs: Sequence[Input], options: LoadOptions) -> LoadReport:
    if is_store(work.folder):  # a kill came between the last step and the swap
        return LoadReport(_finished(work.folder), 0.0, 0.0, work.progress.skipped)
    try:
        return build(work, inputs, options)
    except GraphFileError as error:
        raise GraphFileError(error.path, f"{error.problem}. {_left(work)}", line=error.line) from error
    except LabelIndexError as error:
        raise OSError(str(error)) from error


def _finished(folder: Path) -> Manifest:
    try:
        return read_manifest(folder)
    except StoreError as error:
        discard(folder)
        raise StoreError(folder, f"had been damaged ({error}) and was deleted; run the same command again") from error


def _left(work: Work) -> str:
    """What is left of a loading that could not go on, in words; without a triple, nothing is."""
    if not work.progress.triples:
        discard(work.folder)
        return "Nothing was loaded"
    return (
        f"The {work.progress.triples} triples before it are kept in {work.folder}: the same command goes on from there "
        f"(with --skip-bad-lines past what cannot be read), and starts over once a source has changed"
    )


def _check_target(target: Path, *, force: bool) -> None:
    if not target.exists() or (target.is_dir() and not any(target.iterdir())):
        return
    if not is_store(target):
        raise StoreError(target, "is there already, and is no store; give another --store")
    if not force:
        raise StoreError(target, "is a store already; replace it with --force, or give another --store")


def _plan(inputs: Sequence[Input], options: LoadOptions) -> list[object]:
    files = [[str(i.path.absolute()), i.path.stat().st_size, i.path.stat().st_mtime_ns, i.kind] for i in inputs]
    return [FORMAT, release(), options.keep_all, list(options.languages), files]
