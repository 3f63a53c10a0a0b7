"""`t5kit generate`: texts in, answers out, in the same order."""

import contextlib
import dataclasses
import itertools
import math
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t5kit.cli import options
from t5kit.cli.answering import (
    AnsweredChunk,
    AnswerForm,
    RepeatCounts,
    answer_chunk,
    cut_words,
    pass_over,
    write_answered,
)
from t5kit.cli.inputs import chunks, json_argument, records_of, texts_of
from t5kit.cli.interrupts import interrupts_end_at_once
from t5kit.cli.outputs import Output, at_place, open_output, progress
from t5kit.cli.ray_runner import RayJob, answered_over_ray, ray_cluster
from t5kit.cli.resuming import file_stamp, open_resumable
from t5kit.errors import DataError, RequestError
from t5kit.sources import BadRecord, Record

if TYPE_CHECKING:
    from t5kit.api import Model
    from t5kit.api.model import AnswerStream
    from t5kit.api.model_files import ModelFiles
    from t5kit.decoding import DecodingOptions, FinishReason


def generate(
    model: options.ModelOption = options.DEFAULT_MODEL,
    texts: Annotated[
        list[str] | None, typer.Argument(help='Texts to answer; "-" reads standard input.', show_default=False)
    ] = None,
    input: options.InputOption = None,
    format: options.FormatOption = None,
    columns: options.ColumnsOption = None,
    encoding: options.EncodingOption = None,
    field: Annotated[
        str | None,
        typer.Option("--field", help="JSON field or TSV column (0, 1, …) that holds the text.", show_default="text"),
    ] = None,
    output: options.OutputOption = None,
    json: options.JsonOption = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep what was written if stopped, and go on there the next time.")
    ] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Print the answer to one text as it is generated.")] = False,
    max_new_tokens: Annotated[int | None, typer.Option(help="Most tokens to generate.", show_default="128")] = None,
    max_length: Annotated[
        int | None, typer.Option(help="--max-new-tokens plus 1, as Hugging Face counts it.", show_default=False)
    ] = None,
    min_new_tokens: Annotated[int | None, typer.Option(help="No end before so many tokens.", show_default="0")] = None,
    num_beams: Annotated[int | None, typer.Option(help="Beams; 1 is greedy.", show_default="1")] = None,
    num_beam_groups: Annotated[
        int | None, typer.Option(help="Groups of diverse beam search.", show_default="1")
    ] = None,
    diversity_penalty: Annotated[float | None, typer.Option(help="Penalty between groups.", show_default="0")] = None,
    num_return_sequences: Annotated[int | None, typer.Option(help="Answers a text.", show_default="1")] = None,
    length_penalty: Annotated[
        float | None, typer.Option(help="Exponent of the length penalty.", show_default="1.0")
    ] = None,
    length_penalty_formula: Annotated[
        str | None, typer.Option(help="power (n^a) or paper (((5+n)/6)^a).", show_default="power")
    ] = None,
    early_stopping: Annotated[str | None, typer.Option(help="false, true or never.", show_default="false")] = None,
    temperature: Annotated[
        float | None, typer.Option(help="Sample, logits divided by this.", show_default=False)
    ] = None,
    top_k: Annotated[int | None, typer.Option(help="Sample from the k best.", show_default=False)] = None,
    top_p: Annotated[
        float | None, typer.Option(help="Sample from the smallest set of this mass.", show_default=False)
    ] = None,
    min_p: Annotated[
        float | None, typer.Option(help="Sample ids at least so likely relative to the best.", show_default=False)
    ] = None,
    typical_p: Annotated[
        float | None, typer.Option(help="Sample from the typical set of this mass.", show_default=False)
    ] = None,
    do_sample: Annotated[
        bool | None,
        typer.Option(
            "--sample/--no-sample", "--do-sample/--no-do-sample", help="Sample, or not.", show_default="by the options"
        ),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Makes samples repeatable.", show_default=False)] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option(help="Above 1 discourages repetition.", show_default="1.0")
    ] = None,
    no_repeat_ngram_size: Annotated[
        int | None, typer.Option(help="No n-gram of this size twice.", show_default="0")
    ] = None,
    encoder_no_repeat_ngram_size: Annotated[
        int | None, typer.Option(help="No n-gram of this size copied from the text.", show_default="0")
    ] = None,
    suppress_token: Annotated[
        list[int] | None,
        typer.Option(
            "--suppress-token", "--suppress-tokens", help="An id never generated (repeat it).", show_default=False
        ),
    ] = None,
    logit_bias: Annotated[
        list[str] | None,
        typer.Option(metavar="ID=DELTA", help="Added to the logit of an id: 42=-1.5 (repeat it).", show_default=False),
    ] = None,
    forced_eos: Annotated[bool, typer.Option("--forced-eos", help="End in EOS even at --max-new-tokens.")] = False,
    forced_prefix: Annotated[str | None, typer.Option(help="The answer begins with this.", show_default=False)] = None,
    allowed: Annotated[
        list[str] | None,
        typer.Option(
            "--allowed", "--allowed-outputs", help="The answer is one of these (repeat it).", show_default=False
        ),
    ] = None,
    forbidden: Annotated[
        list[str] | None,
        typer.Option(
            "--forbidden", "--forbidden-outputs", help="The answer is not this (repeat it).", show_default=False
        ),
    ] = None,
    forbid_copy: options.ForbidCopyOption = False,
    regex: Annotated[
        str | None, typer.Option(help="The whole answer matches this expression.", show_default=False)
    ] = None,
    json_schema: Annotated[
        str | None,
        typer.Option(help="The answer is JSON of this schema: a file, or the schema itself.", show_default=False),
    ] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option("--stop", "--stop-strings", help="End where this appears (repeat it).", show_default=False),
    ] = None,
    speculate: Annotated[
        str | None,
        typer.Option(help="Draft tokens from the prompt: off, on, a number, or auto.", show_default="auto on native"),
    ] = None,
    truncate: options.TruncateOption = False,
    max_input_tokens: options.MaxInputTokensOption = 4096,
    max_cache_bytes: options.MaxCacheBytesOption = None,
    batch_size: Annotated[int, typer.Option(help="Texts taken from a file at once.", min=1)] = 256,
    engine: options.EngineOption = "auto",
    weights: options.WeightsOption = "auto",
    threads: Annotated[
        int | None, typer.Option(help="Processor threads; with --runner ray, of each actor.", show_default="all")
    ] = None,
    device: options.DeviceOption = "auto",
    revision: options.RevisionOption = None,
    offline: options.OfflineOption = False,
    runner: Annotated[
        str, typer.Option(help="local: this process. ray: actors on the nodes of a Ray cluster answer an --input file.")
    ] = "local",
    ray_address: Annotated[
        str | None,
        typer.Option(
            help='Of the cluster: HOST:PORT, auto, or "local" to start one on this machine.',
            show_default="RAY_ADDRESS, else this machine's, else local",
        ),
    ] = None,
    num_actors: Annotated[
        int | None, typer.Option(help="Models that answer at a time.", min=1, show_default="one a node")
    ] = None,
) -> None:
    """Answer texts: from arguments, a file, or a pipe.

    Standard output carries the answers alone, one a line, in the order of the texts. A line that cannot be answered
    leaves an empty line (or, with --json, an "error") in its place, is named on standard error, and makes the exit
    code 1; so does an answer to --regex or --json-schema that is cut at --max-new-tokens, of which the beginning is
    written. With --num-return-sequences N every text has N lines, best first (or, with --json, a list "outputs").
    """
    arguments: dict[str, Any] = {
        "max_new_tokens": max_new_tokens, "max_length": max_length, "min_new_tokens": min_new_tokens,
        "num_beams": num_beams,
        "num_beam_groups": num_beam_groups, "diversity_penalty": diversity_penalty,
        "num_return_sequences": num_return_sequences, "length_penalty": length_penalty,
        "length_penalty_formula": length_penalty_formula, "early_stopping": _early_stopping(early_stopping),
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p, "typical_p": typical_p,
        "do_sample": do_sample, "seed": seed,
        "repetition_penalty": repetition_penalty,
        "no_repeat_ngram_size": no_repeat_ngram_size, "forced_prefix": forced_prefix,
        "allowed_outputs": allowed or None, "stop_strings": stop or None,
        "forbidden_outputs": forbidden or None, "forbid_copy": forbid_copy or None,
        "encoder_no_repeat_ngram_size": encoder_no_repeat_ngram_size, "suppress_tokens": suppress_token or None,
        "regex": regex, "json_schema": None if json_schema is None else json_argument("--json-schema", json_schema),
        "forced_eos": forced_eos or None, "logit_bias": _logit_bias(logit_bias or []),
        "speculate": _speculate(speculate),
    }  # fmt: skip
    if stream and json:
        raise RequestError("--stream writes the text as it comes and --json the finished answer; give one of the two.")
    if resume and (output is None or input is None or str(input) == "-" or stream):
        raise RequestError("--resume needs --input and --output files, and no --stream.")
    _check_runner(runner, input, is_streamed=stream, has_cluster_options=bool(ray_address or num_actors))
    job = _Job(
        texts=texts or [], input=input, format=format, columns=options.column_names(columns), encoding=encoding,
        field=field, batch_size=batch_size, output=output, is_resumed=resume, as_json=json, arguments=arguments,
        truncate=truncate, max_input_tokens=max_input_tokens,
    )  # fmt: skip
    words: dict[str, Any] = {
        "engine": engine, "weights": weights, "device": device, "revision": revision,
        "max_input_tokens": max_input_tokens, "max_cache_bytes": max_cache_bytes,
    }  # fmt: skip
    if runner == "ray":
        words["offline"] = offline or None
        num_failed = _answer_over_ray(job, model, words, address=ray_address, num_actors=num_actors, threads=threads)
    else:
        records = job.records()  # refuses what cannot be read from before a model is loaded
        loaded = options.load_model(model, threads=threads, offline=offline, **words)
        num_failed = (_stream if stream else _answer_here)(job, records, loaded)
    if num_failed:
        raise typer.Exit(1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    """Which texts are answered, what each is asked, and where the answers go."""

    texts: list[str]
    input: Path | None
    format: str | None
    columns: tuple[str, ...]
    encoding: str | None
    field: str | None
    batch_size: int
    output: Path | None
    is_resumed: bool
    as_json: bool
    arguments: dict[str, Any]
    """Of `Model.generate`."""
    truncate: bool
    max_input_tokens: int

    def records(self) -> Iterator[Record | BadRecord]:
        """Return what the texts are read from."""
        return records_of(self.texts, self.input, self.format, columns=self.columns, encoding=self.encoding)

    def form(self, asked: "DecodingOptions") -> AnswerForm:
        """Return what every text is asked, and how its answer is written. asked: the same as decoding has it."""
        return AnswerForm(
            arguments=self.arguments, truncate=self.truncate, as_json=self.as_json,
            num_answers=asked.num_return_sequences,
            whole_within=None if asked.grammar is None else asked.max_new_tokens,
        )  # fmt: skip

    @contextlib.contextmanager
    def opened(self, files: "ModelFiles", engine: list[str], form: AnswerForm) -> Iterator[tuple[Output, int]]:
        """Give what to write to, and how many texts are answered there already."""
        if not self.is_resumed:
            with open_output(self.output) as out:
                yield out, 0
            return
        assert self.output is not None
        said = {"columns": list(self.columns), "encoding": self.encoding}
        promise = _asked_for(
            files, self.input, self.arguments, engine=engine, max_input_tokens=self.max_input_tokens, json=self.as_json,
            field=self.field, truncate=self.truncate, **{name: value for name, value in said.items() if value},
        )  # fmt: skip
        with open_resumable(self.output, promise, lines_per_record=form.lines_per_text) as (out, num_done):
            if num_done:
                print(f"t5kit: {num_done} texts were answered before; going on after them.", file=sys.stderr)
            yield out, num_done


def _answer_here(job: _Job, records: Iterable[Record | BadRecord], model: "Model") -> int:
    """Answer the texts in this process; return how many have no answer, or none of the form asked for."""
    description = model.runtime.description
    asked = _decoding_options(model.files, job.arguments, engine=description.engine)
    form = job.form(asked)
    with job.opened(model.files, [description.engine, description.weights], form) as (out, num_done):
        items = texts_of(records, job.field)
        # So that samples do not depend on --batch-size; not kept where nothing is drawn, a file may be long.
        repeats = (
            RepeatCounts(model.tokenizer, max_input_tokens=job.max_input_tokens, truncate=job.truncate)
            if asked.does_sample
            else None
        )
        pass_over(items, num_done, repeats, job.batch_size)
        counts = None if repeats is None else repeats.counts
        return _write((answer_chunk(model, some, form, repeats=counts) for some in chunks(items, job.batch_size)), out)


def _answer_over_ray(
    job: _Job, model: str, words: dict[str, Any], *, address: str | None, num_actors: int | None, threads: int | None
) -> int:
    """Answer the texts by actors of a Ray cluster; return as `_answer_here`. words: of `Model.from_pretrained`."""
    assert job.input is not None
    next(job.records(), None)  # a file that cannot be read is refused here, not by a cluster
    files = _model_files(model, revision=words["revision"], offline=bool(words["offline"]))
    answers_with = [f"{words['engine']} over ray", words["weights"]]
    asked = _decoding_options(files, job.arguments, engine=answers_with[0])
    form = job.form(asked)
    with ray_cluster(address) as ray, job.opened(files, answers_with, form) as (out, num_done):
        ray_job = RayJob(
            model=_absolute(model), model_words=words, form=form, input=job.input, folder=Path.cwd(),
            format=job.format, columns=job.columns, encoding=job.encoding, field=job.field, batch_size=job.batch_size,
            num_done=num_done, does_sample=asked.does_sample,
        )  # fmt: skip
        answered = answered_over_ray(ray, ray_job, num_actors=num_actors, threads=threads)
        with contextlib.closing(answered):  # before the cluster is left
            return _write(answered, out)


def _stream(job: _Job, records: Iterable[Record | BadRecord], model: "Model") -> int:
    """Write the answer to the only text as it is generated; return as `_answer_here`."""
    asked = _decoding_options(model.files, job.arguments, engine=model.runtime.description.engine)
    if asked.num_return_sequences > 1:
        raise RequestError(f"--stream gives one answer, but --num-return-sequences is {asked.num_return_sequences}.")
    with open_output(job.output) as out:
        items = list(itertools.islice(texts_of(records, job.field), 2))
        if len(items) != 1:
            raise RequestError(f"--stream answers exactly one text, got {'more' if items else 'none'}.")
        ((place, text),) = items
        if isinstance(text, BadRecord):
            raise DataError(text.error)
        try:
            pieces = model.stream(text, truncate=job.truncate, **job.arguments)
        except RequestError as error:
            raise RequestError(at_place(place, error)) from error
        finish_reason = _write_pieces(out, pieces)
    if asked.grammar is None or finish_reason != "length":
        return 0
    print(f"t5kit: {at_place(place, cut_words(asked.max_new_tokens))}", file=sys.stderr)
    return 1


def _write_pieces(out: Output, pieces: "AnswerStream") -> "FinishReason":
    """Write the pieces of an answer as they come; return why it ended."""
    while True:
        try:
            piece = next(pieces)
        except StopIteration as end:
            out.write("\n")
            return end.value
        out.write(piece)
        out.flush()


def _check_runner(runner: str, input: Path | None, *, is_streamed: bool, has_cluster_options: bool) -> None:
    if runner not in ("local", "ray"):
        raise RequestError(f"--runner {runner!r} must be one of: local, ray.")
    if runner == "ray" and (input is None or str(input) == "-" or is_streamed):
        raise RequestError("--runner ray answers the texts of a file: name it with --input, and no --stream.")
    if runner == "local" and has_cluster_options:
        raise RequestError("--ray-address and --num-actors are for --runner ray.")


def _model_files(name: str, *, revision: str | None, offline: bool) -> "ModelFiles":
    with interrupts_end_at_once():
        from t5kit.api.model_files import open_model_files

        return open_model_files(name, revision=revision, offline=offline or None)


def _absolute(model: str) -> str:
    """Return a model's name as another process understands it, wherever that runs."""
    path = Path(model).expanduser()
    return str(path.resolve()) if path.is_dir() else model


def _write(answered: Iterable[AnsweredChunk], out: Output) -> int:
    """Write chunks as they are answered; return how many texts have no answer, or none of the form asked for."""
    warned: set[str] = set()
    num_unanswered = num_cut = 0
    with progress("texts answered") as count:
        for chunk in answered:
            write_answered(out, chunk, warned)
            num_unanswered += len(chunk.problems)
            num_cut += len(chunk.cut)
            count.advance(chunk.num_texts)
    if num_unanswered:
        print(f"t5kit: {num_unanswered} of the texts could not be answered; see above.", file=sys.stderr)
    if num_cut:
        print(f"t5kit: the answers to {num_cut} of the texts were cut; see above.", file=sys.stderr)
    return num_unanswered + num_cut


def _asked_for(files: "ModelFiles", input: Path | None, arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return what must be the same for a stopped run to go on."""
    from t5kit.checkpoint.adapters import CONFIG_FILE, WEIGHTS_FILE

    assert input is not None
    adapter = files.adapter_path
    said = {name: value for name, value in arguments.items() if value is not None}
    return {
        "input": file_stamp(input),
        "model": [file_stamp(file.path) for file in files.folder.weight_files],
        "adapter": None if adapter is None else [file_stamp(adapter / name) for name in (CONFIG_FILE, WEIGHTS_FILE)],
        **more,
        **said,
    }


def _decoding_options(files: "ModelFiles", arguments: dict[str, Any], *, engine: str) -> "DecodingOptions":
    """Return what is asked of each text; a wrong option is refused here, even if no text comes."""
    from t5kit.api.prompting import asked_of
    from t5kit.decoding.checks import check_options

    asked = asked_of(arguments, files.folder, files.tokenizer, engine=engine).options  # type: ignore[arg-type]
    check_options(asked, files.folder.config)
    return asked


def _logit_bias(words: list[str]) -> dict[int, float] | None:
    """Return id -> what is added to its logit, from words such as "42=-1.5"."""
    bias: dict[int, float] = {}
    for word in words:
        token, _, delta = word.partition("=")
        try:
            bias[int(token)] = float(delta)
        except ValueError as error:
            raise RequestError(f"--logit-bias {word!r} must be ID=DELTA, such as 42=-1.5.") from error
        if math.isnan(bias[int(token)]):
            raise RequestError(f"--logit-bias {word!r} must add a number.")
    return bias or None


def _speculate(word: str | None) -> bool | int | str | None:
    if word is None:
        return None
    values: dict[str, bool | str] = {"off": False, "on": True, "auto": "auto"}
    if word.lower() in values:
        return values[word.lower()]
    if not word.isdecimal():
        raise RequestError(f"--speculate {word!r} must be one of: off, on, auto, or a number of tokens.")
    return int(word)


def _early_stopping(word: str | None) -> bool | str | None:
    if word is None:
        return None
    values: dict[str, bool | str] = {"false": False, "true": True, "never": "never"}
    if word.lower() not in values:
        raise RequestError(f"--early-stopping {word!r} must be one of: false, true, never.")
    return values[word.lower()]
