"""`t5kit generate --runner ray`: a file's chunks answered by actors of a Ray cluster, each with a model of its own.

One task on the machine of the command reads the file, actors answer its chunks as they come, and the command writes
them in the file's order (Ray Data, streaming). Each chunk is one row of bytes: Arrow could not hold every text that
JSON can.
"""

import contextlib
import dataclasses
import io
import logging
import os
import pickle
import platform
from collections.abc import Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from t5kit.cli.answering import (
    AnsweredChunk,
    AnswerForm,
    RepeatCounts,
    TextItem,
    answer_chunk,
    good_texts,
    pass_over,
)
from t5kit.cli.inputs import chunks, records_of, texts_of
from t5kit.errors import DependencyError, EngineError, RequestError, T5kitError
from t5kit.text import Tokenizer

if TYPE_CHECKING:
    from t5kit.api.model_files import ModelFiles

_CHUNK = "chunk"
"""The one column of the rows: pickled values."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class RayJob:
    """What the processes of a cluster must know; plain values."""

    model: str
    model_words: dict[str, Any]
    """Of `Model.from_pretrained`, but for the threads."""
    form: AnswerForm
    input: Path
    """As the user names it; so problems name it too."""
    folder: Path
    """Where the command runs."""
    format: str | None
    columns: tuple[str, ...] = ()
    encoding: str | None = None
    field: str | None
    batch_size: int
    """Texts a chunk."""
    num_done: int
    """Texts at the beginning of the file that are answered already."""
    does_sample: bool


@dataclasses.dataclass(frozen=True, slots=True)
class ActorPlan:
    """How many actors there are, and the processor threads of each."""

    num_actors: int
    threads: int


def plan_actors(
    nodes: Sequence[Mapping[str, float]], *, num_actors: int | None, threads: int | None, uses_gpu: bool
) -> ActorPlan:
    """Return as many actors as fit, of as many threads as the smallest node has: where all are alike, one a node.

    nodes: the "CPU" and "GPU" of each. num_actors, threads: what was asked; the other then follows from it. uses_gpu:
    an actor takes a GPU too, and its node's threads are shared by its GPUs.
    Raises: EngineError if no node can hold an actor, RequestError if what was asked does not fit.
    """
    sizes: list[tuple[int, int]] = []  # processors, and actors at most, of each node that can hold one
    for node in nodes:
        cpus, gpus = int(node.get("CPU", 0)), int(node.get("GPU", 0))
        if cpus >= 1 and (gpus >= 1 or not uses_gpu):
            sizes.append((cpus, gpus if uses_gpu else cpus))
    if not sizes:
        raise EngineError(f"The Ray cluster has no node with {'a CPU and a GPU' if uses_gpu else 'a CPU'}.")

    def room(threads: int) -> int:
        return sum(min(cpus // threads, most) for cpus, most in sizes)

    if threads is None and num_actors is None:
        threads = min(max(1, cpus // most) if uses_gpu else cpus for cpus, most in sizes)
    elif threads is None:
        largest = max(cpus for cpus, _ in sizes)
        threads = next((each for each in range(largest, 1, -1) if room(each) >= (num_actors or 1)), 1)
    if room(threads) < (num_actors or 1):
        raise RequestError(
            f"{num_actors or 1} actor(s) of {threads} threads{' and a GPU' if uses_gpu else ''} were asked for, and "
            f"the Ray cluster has room for {room(threads)}. Lower --num-actors or --threads, or add nodes first."
        )
    return ActorPlan(num_actors or room(threads), threads)


@contextlib.contextmanager
def ray_cluster(address: str | None) -> Iterator[Any]:
    """Give the `ray` module, connected to a cluster for the block.

    address: None is RAY_ADDRESS if set, else the cluster that this machine is a node of, else one that is started here
    and ends with the block, as does "local". A connection that there is already is used.
    Raises: DependencyError without Ray; RequestError for an address that cannot be used.
    """
    if address is not None and address.startswith("ray://"):
        raise RequestError(
            f"--ray-address {address!r} is Ray Client's, whose files are another machine's. Run the command on a node "
            "of the cluster (ray job submit, or a shell there) with --ray-address auto."
        )
    try:
        import pyarrow  # noqa: F401 - Ray Data cannot do without, and a bare ray comes without
        import ray
    except ImportError as error:
        raise DependencyError.for_extra(error.name or "ray", "ray", "--runner ray") from error
    if ray.is_initialized():
        yield ray
        return
    try:
        _connect(ray, address or os.environ.get("RAY_ADDRESS"))
    except Exception as error:  # Ray raises a bare Exception where a cluster does not start in time
        raise RequestError(f"No Ray cluster could be used ({_first_line(error)}).") from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _connect(ray: Any, address: str | None) -> None:
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what goes wrong comes as an exception too
    words: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address != "local":
        try:
            ray.init(address=address or "auto", **words)
            return
        except ConnectionError:
            if address is not None:
                raise
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # our own cluster reports to nobody
    ray.init(address="local", include_dashboard=False, **words)


def answered_over_ray(
    ray: Any, job: RayJob, *, num_actors: int | None, threads: int | None
) -> Generator[AnsweredChunk, None, None]:
    """Yield the chunks of the job's file, answered, in their order.

    Raises: T5kitError of the first process that cannot work: the file's, the model's, or EngineError of the cluster.
    """
    import ray.data

    # One line a run that says how it is planned, and one that a bar could be had: for a log, not for a terminal.
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    uses_gpu = job.model_words["device"].startswith("cuda")
    nodes = [node for node in ray.nodes() if node["Alive"]]
    here = ray.get_runtime_context().get_node_id()
    (address,) = [node["NodeManagerAddress"] for node in nodes if node["NodeID"] == here]
    plan = plan_actors([node["Resources"] for node in nodes], num_actors=num_actors, threads=threads, uses_gpu=uses_gpu)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.execution_options.preserve_order = True
    # A block a row, so that a chunk goes to an actor as soon as it is read; a block of many megabytes would go to one.
    context.target_max_block_size = 1
    answered = (
        ray.data.from_items([{"input": str(job.input)}], override_num_blocks=1)
        # No processor: the actors may have taken all, and it mostly waits for them.
        .map_batches(_read, fn_args=(job,), batch_size=None, num_cpus=0, resources={f"node:{address}": 0.001})
        .map_batches(
            _Actor,
            fn_constructor_args=(dataclasses.replace(job, model_words={**job.model_words, "threads": plan.threads}),),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=plan.num_actors),
            num_cpus=plan.threads,
            num_gpus=1 if uses_gpu else 0,
        )
    )
    try:
        for row in answered.iter_rows():
            chunk = pickle.loads(row[_CHUNK])
            if isinstance(chunk, T5kitError):
                raise chunk
            yield chunk
    except ray.exceptions.RayError as error:
        raise EngineError(f"The Ray cluster could not go on ({_first_line(error)}).") from error


def _read(batch: Mapping[str, Any], job: RayJob) -> Iterator[dict[str, list[bytes]]]:
    """Yield the chunks of the job's file; runs on the machine of the command.

    An error of ours is a value here and in the actors: of what they raise, Ray passes on the text alone.
    """
    try:
        with contextlib.chdir(job.folder):
            records = records_of([], job.input, job.format, columns=job.columns, encoding=job.encoding)
            items = texts_of(records, job.field)
            repeats = _repeats(job, _model_files(job).tokenizer) if job.does_sample else None
            pass_over(items, job.num_done, repeats, job.batch_size)
            for chunk in chunks(items, job.batch_size):
                before = None if repeats is None else repeats.add(good_texts(chunk))
                yield {_CHUNK: [pickle.dumps((chunk, before))]}
    except T5kitError as error:
        yield {_CHUNK: [pickle.dumps(error)]}


class _Actor:
    """One model, and the chunks that it answers."""

    def __init__(self, job: RayJob) -> None:
        from t5kit.api import Model

        self._job = job
        self._model: Model | T5kitError
        said = io.StringIO()  # an actor's standard error is read by nobody
        try:
            with contextlib.redirect_stderr(said):
                self._model = Model.from_pretrained(job.model, **job.model_words)
        except T5kitError as error:
            self._model = error
        self._notes = tuple(f"{platform.node()}: {line}" for line in said.getvalue().splitlines())

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[bytes]]:
        return {_CHUNK: [pickle.dumps(self._answered(pickle.loads(batch[_CHUNK][0])))]}

    def _answered(self, read: tuple[list[TextItem], list[int] | None] | T5kitError) -> AnsweredChunk | T5kitError:
        if isinstance(read, T5kitError):
            return read
        if isinstance(self._model, T5kitError):
            return self._model
        chunk, before = read
        counts = None
        if before is not None:
            repeats = _repeats(self._job, self._model.tokenizer)
            repeats.start_at(good_texts(chunk), before)
            counts = repeats.counts
        try:
            answered = answer_chunk(self._model, chunk, self._job.form, repeats=counts)
        except T5kitError as error:
            return error
        return dataclasses.replace(answered, notes=self._notes)


def _repeats(job: RayJob, tokenizer: Tokenizer) -> RepeatCounts:
    limit = job.model_words["max_input_tokens"]
    return RepeatCounts(tokenizer, max_input_tokens=limit, truncate=job.form.truncate)


def _model_files(job: RayJob) -> "ModelFiles":
    from t5kit.api.model_files import open_model_files

    return open_model_files(job.model, revision=job.model_words["revision"], offline=job.model_words["offline"])


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
