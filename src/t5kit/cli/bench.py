"""`t5kit bench`: engines compared on the user's own model, texts and machine."""

import contextlib
import dataclasses
import itertools
import json as json_module
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from t5kit.checkpoint import resolve
from t5kit.cli import options
from t5kit.cli.bench_texts import SAMPLE_TEXTS
from t5kit.cli.inputs import records_of, texts_of
from t5kit.cli.outputs import json_line, open_output
from t5kit.errors import EngineError, RequestError
from t5kit.runtime.native import default_threads
from t5kit.sources import BadRecord, Record
from t5kit.text import load_tokenizer

ENGINES = "native:int8,native:float32,torch:float32,ctranslate2:int8,ctranslate2:float32,transformers:float32"
KNOWN_ENGINES = ("native", "torch", "reference", "ctranslate2", "ctranslate2_workers", "transformers")
BASELINES = ("native:float32", "torch:float32", "reference:float32")
"""Whose answers, each text alone, are the right ones: the first of these that opens."""

Ids = list[int]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """One way of asking for the texts."""

    name: str
    together: int
    num_beams: int
    early_stopping: bool


def bench(
    model: Annotated[
        str, typer.Argument(envvar="T5KIT_MODEL", help="A model folder, or a Hugging Face Hub id.", show_default=False)
    ],
    texts: Annotated[
        Path | None,
        typer.Option(
            "--texts",
            "--input",
            "-i",
            help="Texts, one a line, or a JSONL, TSV or CSV file.",
            show_default="16 of our own",
        ),
    ] = None,
    field: Annotated[
        str | None, typer.Option(help="JSON field or TSV column of the text.", show_default="text")
    ] = None,
    columns: options.ColumnsOption = None,
    encoding: options.EncodingOption = None,
    engines: Annotated[
        str, typer.Option(help=f"Apart by commas, each with :weights or without. Known: {', '.join(KNOWN_ENGINES)}.")
    ] = ENGINES,
    num_texts: Annotated[int, typer.Option(help="Most texts taken of the file.", min=1)] = 64,
    batch_size: Annotated[int, typer.Option(help="Texts asked for together.", min=1)] = 64,
    num_beams: Annotated[int, typer.Option(help="Beams; 1 leaves beam search out.", min=1, max=256)] = 4,
    early_stopping: Annotated[
        bool,
        typer.Option(
            "--early-stopping",
            help="Beams stop once as many answers as beams are finished: CTranslate2's only rule, so that work and "
            "answers compare.",
        ),
    ] = False,
    max_new_tokens: Annotated[int, typer.Option(help="Most tokens of an answer.", min=1)] = 32,
    max_input_tokens: Annotated[int, typer.Option(help="Longer texts are cut, EOS kept.", min=2)] = 512,
    rounds: Annotated[int, typer.Option(help="Runs of each engine, by turns; medians count.", min=1)] = 3,
    threads: Annotated[
        int | None, typer.Option(help="Processor threads of each.", show_default="all", min=1, max=1024)
    ] = None,
    json: options.JsonOption = False,
    output: options.OutputOption = None,
    revision: options.RevisionOption = None,
    offline: options.OfflineOption = False,
) -> None:
    """Compare engines on one model: one text at a time and many together, greedy and with beams.

    Every engine runs in a process of its own, with the same threads, on the same ids, by turns. Answers are compared
    with those of float32, each text alone; a fast engine that answers otherwise is seen at once. Peers that are not
    installed, or cannot read the model, are left out with a sentence on standard error.
    """
    names = _engine_names(engines)
    folder = resolve(model, revision=revision, offline=offline or None)
    if texts is None:
        taken = list(SAMPLE_TEXTS)[:num_texts]
    else:
        records = records_of([], texts, None, columns=options.column_names(columns), encoding=encoding)
        taken = _first_texts(records, field, num_texts, source=texts)
    prompts = _prompts(folder, taken, max_input_tokens)
    works = _works(batch_size, num_beams, early_stopping)
    threads = threads or default_threads()
    with contextlib.ExitStack() as stack:
        out = stack.enter_context(open_output(output))
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="t5kit-bench-"))
        opening = {
            "folder": str(folder), "threads": threads, "max_new_tokens": max_new_tokens, "scratch": scratch
        }  # fmt: skip
        workers: dict[str, _Worker] = {}
        for name in names:
            worker = stack.enter_context(_worker(name, threads))
            if worker.open(opening):
                workers[name] = worker
        if not workers:
            raise EngineError("No engine could be measured; the reasons stand above.")
        right = _right_answers(workers, opening, stack, prompts, works)
        results = _measure(workers, prompts, works, right, rounds)
        if not results:
            raise EngineError("No engine could be measured; the reasons stand above.")
        average = sum(map(len, prompts)) / len(prompts)
        header = (
            f"{_number(len(prompts), 'text')} of {average:.0f} tokens on average, at most {max_new_tokens} new ones, "
            f"{_number(threads, 'thread')}, {_number(rounds, 'round')}; equal: to {right.engine}, text by text"
            f"{', with beams that stop early' if early_stopping and num_beams > 1 else ''}"
        )
        if json:
            for result in results:
                asked = {"threads": threads, "max_new_tokens": max_new_tokens, "early_stopping": early_stopping}
                out.write(json_line({**result, **asked}))
        else:
            out.write(_table(results, works, header))


def _works(batch_size: int, num_beams: int, early_stopping: bool) -> list[Work]:
    """Return what is measured: texts alone, and together if a batch has several; greedily, and with beams if asked."""
    batches = {"one": 1, **({"batch": batch_size} if batch_size > 1 else {})}
    return [
        Work(
            name=name if beams == 1 else f"{name}, {beams} beams",
            together=together,
            num_beams=beams,
            early_stopping=early_stopping,
        )
        for beams in dict.fromkeys((1, num_beams))
        for name, together in batches.items()
    ]


def _engine_names(words: str) -> list[str]:
    names: list[str] = []
    for word in filter(None, (word.strip() for word in words.split(","))):
        engine = word.partition(":")[0]
        if engine not in KNOWN_ENGINES:
            raise RequestError(f"--engines names {word!r}; known are: {', '.join(KNOWN_ENGINES)}.")
        if word not in names:
            names.append(word)
    if not names:
        raise RequestError(f"--engines names none; known are: {', '.join(KNOWN_ENGINES)}.")
    return names


def _first_texts(
    records: Iterable[Record | BadRecord], field: str | None, num_texts: int, *, source: Path
) -> list[str]:
    """Return the texts to compare engines on.

    Raises: RequestError for a bad record among them, and if there is none.
    """
    taken: list[str] = []
    for _, text in itertools.islice(texts_of(records, field), num_texts):
        if isinstance(text, BadRecord):
            raise RequestError(text.error)
        taken.append(text)
    if not taken:
        raise RequestError(f"{source} holds no text.")
    return taken


def _prompts(folder: Path, texts: Sequence[str], max_input_tokens: int) -> list[Ids]:
    """Return the ids of the texts, EOS in, cut to max_input_tokens."""
    encoded = [ids.tolist() for ids in load_tokenizer(folder).encode_batch(list(texts))]
    num_cut = sum(len(ids) > max_input_tokens for ids in encoded)
    if num_cut:
        print(f"t5kit: {num_cut} texts are cut to {max_input_tokens} tokens.", file=sys.stderr)
    return [ids if len(ids) <= max_input_tokens else [*ids[: max_input_tokens - 1], ids[-1]] for ids in encoded]


# Workers


class _Worker:
    """An engine in a process of its own."""

    def __init__(self, name: str, process: "subprocess.Popen[str]") -> None:
        self.name = name
        self._process = process
        self.load_s = 0.0

    def open(self, command: dict[str, Any]) -> bool:
        """Load the model; say on standard error why not, if it cannot be."""
        reply = self.ask({**command, "open": self.name})
        if "error" in reply:
            print(f"t5kit: {self.name} is left out: {_sentence(reply['error'])}", file=sys.stderr)
            return False
        self.load_s = reply["load_s"]
        return True

    def run(self, prompts: Sequence[Ids], work: Work) -> dict[str, Any]:
        return self.ask(
            {
                "prompts": prompts,
                "together": work.together,
                "search": {"num_beams": work.num_beams, "early_stopping": work.early_stopping},
            }
        )

    def ask(self, command: dict[str, Any]) -> dict[str, Any]:
        """Return the reply to a command; a process that is gone replies with an error."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json_module.dumps(command) + "\n")
            stdin.flush()
            line = stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            return {"error": f"its process ended with code {self._process.wait()} (memory?)"}
        reply: dict[str, Any] = json_module.loads(line)
        return reply


@contextlib.contextmanager
def _worker(name: str, threads: int) -> Iterator[_Worker]:
    """Give an engine's process; it is gone afterwards, whatever happens."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "0"}
    with _log() as log, subprocess.Popen(
        [sys.executable, "-m", "t5kit.testing.engine_worker"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8", env=environment,
    ) as process:  # fmt: skip
        try:
            yield _Worker(name, process)
        finally:
            process.kill()
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # what a process that is gone did not read
                process.stdin.close()


@contextlib.contextmanager
def _log() -> Iterator[IO[bytes] | int]:
    """Give where the engines' own chatter goes: nowhere, or standard error with T5KIT_TRACEBACK."""
    yield sys.stderr.fileno() if os.environ.get("T5KIT_TRACEBACK") else subprocess.DEVNULL


# Measuring


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class _RightAnswers:
    engine: str
    by_beams: dict[int, list[Ids]]
    """Number of beams -> the answers to all prompts, each asked for alone."""


def _right_answers(
    workers: dict[str, _Worker],
    opening: dict[str, Any],
    stack: contextlib.ExitStack,
    prompts: Sequence[Ids],
    works: Sequence[Work],
) -> _RightAnswers:
    """Return float32's answers, from an engine that is measured anyway or from one more."""
    for name in BASELINES:
        worker = workers.get(name)
        if worker is None:
            worker = stack.enter_context(_worker(name, opening["threads"]))
            if not worker.open(opening):
                continue
        by_beams: dict[int, list[Ids]] = {}
        for work in works:
            if work.together > 1:
                continue
            reply = worker.run(prompts, work)
            if "error" in reply:
                raise EngineError(f"{name} cannot answer these texts: {_sentence(reply['error'])}")
            by_beams[work.num_beams] = reply["answers"]
        return _RightAnswers(engine=name, by_beams=by_beams)
    raise EngineError("No engine of ours could open the model in float32; the reasons stand above.")


def _measure(
    workers: dict[str, _Worker], prompts: Sequence[Ids], works: Sequence[Work], right: _RightAnswers, rounds: int
) -> list[dict[str, Any]]:
    """Run every work by turns on all engines; return one result for each engine and work."""
    results: list[dict[str, Any]] = []
    failed: set[str] = set()
    for work in works:
        runs: dict[str, list[dict[str, Any]]] = {name: [] for name in workers if name not in failed}
        for number in range(rounds + 1):
            for name in list(runs):
                if name in failed:
                    continue
                reply = workers[name].run(prompts[:4] if number == 0 else prompts, work)  # the first warms up
                if "error" in reply:
                    print(f"t5kit: {name} is left out: {_sentence(reply['error'])}", file=sys.stderr)
                    failed.add(name)
                elif number:
                    runs[name].append(reply)
        expected = right.by_beams[work.num_beams]
        for name, replies in runs.items():
            if name in failed:
                continue
            wall = statistics.median(reply["wall_s"] for reply in replies)
            answers = replies[-1]["answers"]
            results.append(
                {
                    "engine": name,
                    "work": work.name,
                    "ms_a_text": round(wall / len(prompts) * 1e3, 3),
                    "texts_per_s": round(len(prompts) / wall, 3),
                    "processor_ms_a_text": round(
                        statistics.median(reply["processor_s"] for reply in replies) / len(prompts) * 1e3, 3
                    ),
                    "equal": sum(a == b for a, b in zip(answers, expected, strict=True)),
                    "texts": len(prompts),
                    "new_tokens": sum(map(len, answers)),
                    "equal_to": right.engine,
                    "load_s": round(workers[name].load_s, 3),
                }
            )
    peaks = {name: workers[name].ask({"memory": True}).get("peak_bytes", 0) for name in workers if name not in failed}
    return [{**result, "peak_bytes": peaks[result["engine"]]} for result in results if result["engine"] in peaks]


def _number(count: int, thing: str) -> str:
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _table(results: Sequence[dict[str, Any]], works: Sequence[Work], header: str) -> str:
    """Return the results as lines: an engine each, with time, rate and equal answers of every work."""
    by_engine: dict[str, dict[str, dict[str, Any]]] = {}
    for result in results:
        by_engine.setdefault(result["engine"], {})[result["work"]] = result
    rows = [["engine", *(f"{work.name}: {'ms/text' if work.together == 1 else 'texts/s'}" for work in works)]]
    rows[0] += [
        f"equal, {beams} beams" if beams > 1 else "equal" for beams in dict.fromkeys(w.num_beams for w in works)
    ]
    rows[0] += ["load s", "peak MB"]
    for name, by_work in by_engine.items():
        found = [by_work[work.name] for work in works]
        row = [name]
        row += [
            f"{result['ms_a_text']:.1f}" if work.together == 1 else f"{result['texts_per_s']:.1f}"
            for work, result in zip(works, found, strict=True)
        ]
        # Of each number of beams the last: texts in batches, where there are any.
        last = {work.num_beams: result for work, result in zip(works, found, strict=True)}
        row += [f"{result['equal']}/{result['texts']}" for result in last.values()]
        row += [f"{found[0]['load_s']:.2f}", f"{found[0]['peak_bytes'] / 2**20:.0f}" if found[0]["peak_bytes"] else "?"]
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if column == 0 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([*lines, "", header]) + "\n"
