"""Run an evaluation on a Ray cluster: one worker for each device; a lost worker's shard is given to another worker.

Needs the extra ``kg-edit[ray]``. On several machines, all must see the output folder.
"""

from __future__ import annotations

import logging
import os
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kg_common.progress import Bar
from kg_edit.errors import ConfigError, ModelError
from kg_edit.evaluation.finish import merge
from kg_edit.evaluation.schedule import Shard
from kg_edit.evaluation.summary import Summary
from kg_edit.storage.run_folder import check_folder

if TYPE_CHECKING:
    from kg_edit.evaluation.cli.evaluation import EvaluateOptions, Ready

log = logging.getLogger(__name__)

_PARTS = 64  # shards, at most; independent of the number of workers, which may change when a run is resumed
_TRIES = 3  # workers that a shard may lose
SHARDS = ".shards"


def evaluate_on_ray(
    evaluation: EvaluateOptions, out: Path, *, started: Callable[[int], object] = lambda _: None
) -> Summary:
    """Score with all devices of the cluster, and merge; the result is the same as from one process.

    The cluster is the one to which this process is connected, else that of ``RAY_ADDRESS``, else this machine. The
    shards are in the hidden folder ``.shards`` under ``out``; if the run is started again, each shard resumes.

    Args:
        evaluation: the options of the run.
        out: the folder of the run.
        started: called with the process id of each worker.
    """
    ray = _start_ray()
    check_folder(out)
    size = evaluation.config.plan.schedule.sequence
    content = evaluation.read(evaluation.lazy_graph())
    sequences = -(-len(content.records[evaluation.span(content)]) // size)  # rounded up
    if not sequences:
        raise ConfigError(f"{evaluation.data} has no records to score; give another file")
    parts = min(_PARTS, sequences)
    folders = dict[Shard, Path]()
    for part in range(parts):
        folders[Shard(part=part, parts=parts)] = out.absolute() / SHARDS / f"{part}-of-{parts}"
    with Bar(title="shards", unit="shard", total=parts) as bar:
        _score_shards(ray, evaluation, folders, started=started, done=bar.update)
    return merge(out, list(folders.values()))


def _score_shards(
    ray: Any,
    evaluation: EvaluateOptions,
    folders: dict[Shard, Path],
    *,
    started: Callable[[int], object],
    done: Callable[[], object],
) -> None:
    """Give the shards to workers, one a device, until all are scored.

    A worker that has scored its shard gets the next one. A shard whose worker is lost waits at the end, and a new
    worker takes the place of the lost one.

    Args:
        ray: the connected module.
        evaluation: the options of the run.
        folders: the folder of each shard.
        started: called with the process id of each worker.
        done: called after each shard.
    """
    gpus = int(ray.cluster_resources().get("GPU", 0))
    cpus = int(ray.cluster_resources().get("CPU", 1))
    devices = max(1, gpus or cpus)
    waiting = deque(folders)
    busy = dict[Any, tuple[Shard, Any]]()  # Ray's reference to a result -> the shard and its worker
    lost = Counter[Shard]()  # how many workers each shard has lost

    def hire() -> Any:
        """Start a worker."""
        worker_class = ray.remote(num_cpus=1, num_gpus=min(gpus, 1))(_Worker)
        worker = worker_class.remote(evaluation)
        started(ray.get(worker.process.remote()))
        return worker

    def give(worker: Any) -> None:
        """Let a worker score the next shard that waits."""
        shard = waiting.popleft()
        reference = worker.score.remote(shard, folders[shard])
        busy[reference] = (shard, worker)

    try:
        for _ in range(min(devices, len(waiting))):
            give(hire())
        while busy:
            (reference,), _ = ray.wait(list(busy), num_returns=1)  # the first that is ready
            shard, worker = busy.pop(reference)
            try:
                ray.get(reference)  # raises the error of the worker
                done()
            except ray.exceptions.RayActorError as error:  # the worker is gone: another one resumes its shard
                lost[shard] += 1
                _note_loss(shard, lost[shard], error)
                waiting.append(shard)
                worker = hire()
            except ray.exceptions.RayTaskError as error:
                raise error.cause or error from error
            if waiting:
                give(worker)
    finally:  # after an error: the others stop too
        for _, worker in busy.values():
            ray.kill(worker)


def _note_loss(shard: Shard, times: int, error: Exception) -> None:
    """Warn that the worker of a shard was lost; if that has happened too often, stop."""
    if times < _TRIES:
        log.warning("the worker of shard %s was lost; another worker continues the shard", shard)
        return
    reason = str(error).strip().splitlines() or [type(error).__name__]
    raise ModelError(
        f"the worker of shard {shard} was lost {_TRIES} times ({reason[0]}); its scores are stored. Find out why it "
        "stops (too little memory?), and start again"
    ) from error


class _Worker:
    """A process with its own device, which loads the model once."""

    def __init__(self, evaluation: EvaluateOptions) -> None:
        self._evaluation = evaluation
        self._ready: Ready | None = None

    def process(self) -> int:
        """Return the process id of this worker."""
        return os.getpid()

    def score(self, shard: Shard, out: Path) -> None:
        """Score the records of a shard that are not in ``out`` yet."""
        if self._ready is None:
            self._ready = self._evaluation.ready(out)
        self._ready.run(out, shard=shard)


def _start_ray() -> Any:
    """Import ray and connect it to a cluster; raises ConfigError if it is not installed."""
    try:
        import ray
    except ImportError as error:
        raise ConfigError("--ray needs Ray, which is not installed: pip install 'kg-edit[ray]'") from error
    if not ray.is_initialized():
        ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    return ray
