"""`t5kit generate`: texts in, answers out, in the same order."""

import collections
import contextlib
import itertools
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from t5kit.cli import options
from t5kit.cli.inputs import chunks, json_argument, records_of, texts_of
from t5kit.cli.outputs import Output, at_place, json_line, one_line, open_output, progress
from t5kit.cli.resuming import file_stamp, open_resumable
from t5kit.errors import DataError, EngineError, RequestError
from t5kit.sources import BadRecord

if TYPE_CHECKING:
    from t5kit.api import Completion, Model
    from t5kit.decoding import DecodingOptions


def generate(
    model: options.ModelOption = options.DEFAULT_MODEL,
    texts: Annotated[
        list[str] | None, typer.Argument(help='Texts to answer; "-" reads standard input.', show_default=False)
    ] = None,
    input: options.InputOption = None,
    format: options.FormatOption = None,
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
    threads: options.ThreadsOption = None,
    device: options.DeviceOption = "auto",
    revision: options.RevisionOption = None,
    offline: options.OfflineOption = False,
) -> None:
    """Answer texts: from arguments, a file, or a pipe.

    Standard output carries the answers alone, one a line, in the order of the texts. A line that cannot be answered
    leaves an empty line (or, with --json, an "error") in its place, is named on standard error, and makes the exit
    code 1. With --num-return-sequences N every text has N lines, best first (or, with --json, a list "outputs").
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
        "encoder_no_repeat_ngram_size": encoder_no_repeat_ngram_size, "suppress_tokens": suppress_token or None,
        "regex": regex, "json_schema": None if json_schema is None else json_argument("--json-schema", json_schema),
        "forced_eos": forced_eos or None, "logit_bias": _logit_bias(logit_bias or []),
        "speculate": _speculate(speculate),
    }  # fmt: skip
    if stream and json:
        raise RequestError("--stream writes the text as it comes and --json the finished answer; give one of the two.")
    if resume and (output is None or input is None or str(input) == "-" or stream):
        raise RequestError("--resume needs --input and --output files, and no --stream.")
    records = records_of(texts or [], input, format)
    loaded = options.load_model(
        model, engine=engine, weights=weights, threads=threads, device=device, revision=revision, offline=offline,
        max_input_tokens=max_input_tokens, max_cache_bytes=max_cache_bytes,
    )  # fmt: skip
    asked = _decoding_options(loaded, arguments)
    num_answers = asked.num_return_sequences
    if stream and num_answers > 1:
        raise RequestError(f"--stream gives one answer, but --num-return-sequences is {num_answers}.")
    # So that samples do not depend on --batch-size; not kept where nothing is drawn, a file may be long.
    repeats: collections.Counter[bytes] | None = collections.Counter() if asked.does_sample else None
    items = texts_of(records, field)
    with contextlib.ExitStack() as opened:
        if resume:
            out, num_done = opened.enter_context(
                open_resumable(
                    output or Path(),
                    _asked_for(loaded, input, arguments, json=json, field=field, truncate=truncate),
                    lines_per_record=1 if json else num_answers,
                )
            )
            _pass_over(loaded, items, num_done, repeats, batch_size, truncate=truncate)
        else:
            out = opened.enter_context(open_output(output))
        if stream:
            first_two = list(itertools.islice(items, 2))
            _stream(loaded, first_two, out, arguments, truncate=truncate)
            return
        num_failed = 0
        with progress("texts answered") as count:
            for chunk in chunks(items, batch_size):
                num_failed += _answer_chunk(
                    loaded,
                    chunk,
                    out,
                    arguments,
                    truncate=truncate,
                    as_json=json,
                    num_answers=num_answers,
                    repeats=repeats,
                )
                count.advance(len(chunk))
    if num_failed:
        print(f"t5kit: {num_failed} of the texts could not be answered; see above.", file=sys.stderr)
        raise typer.Exit(1)


def _asked_for(model: "Model", input: Path | None, arguments: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Return what must be the same for a stopped run to go on."""
    from t5kit.checkpoint.adapters import CONFIG_FILE, WEIGHTS_FILE

    assert input is not None
    adapter = model.adapter_path
    description = model.runtime.description
    said = {name: value for name, value in arguments.items() if value is not None}
    return {
        "input": file_stamp(input),
        "model": [file_stamp(path) for path in model.folder.weight_files],
        "adapter": None if adapter is None else [file_stamp(adapter / name) for name in (CONFIG_FILE, WEIGHTS_FILE)],
        "engine": [description.engine, description.weights],
        "max_input_tokens": model.max_input_tokens,
        **more,
        **said,
    }


def _pass_over(
    model: "Model",
    items: Iterator[tuple[str, str | BadRecord]],
    num_done: int,
    repeats: "collections.Counter[bytes] | None",
    batch_size: int,
    *,
    truncate: bool,
) -> None:
    """Read past the texts that are answered already, counting how often each came where that matters.

    Raises: RequestError if there are fewer.
    """
    from t5kit.api.prompting import encode_each

    if num_done:
        print(f"t5kit: {num_done} texts were answered before; going on after them.", file=sys.stderr)
    left = num_done
    for chunk in chunks(itertools.islice(items, num_done), batch_size):
        left -= len(chunk)
        if repeats is None:
            continue
        texts = [text for _, text in chunk if isinstance(text, str)]
        limit = model.max_input_tokens
        for ids in encode_each(texts, model.tokenizer, max_input_tokens=limit, truncate=truncate):
            if not isinstance(ids, RequestError):
                repeats[ids.tobytes()] += 1
    if left:
        raise RequestError(f"There are {num_done} answers already, but {left} texts fewer. Is it the same input?")


def _decoding_options(model: "Model", arguments: dict[str, Any]) -> "DecodingOptions":
    """Return what is asked of each text; a wrong option is refused here, even if no text comes."""
    from t5kit.api.arguments import decoding_options

    model.check_options(**arguments)
    return decoding_options(
        arguments,  # type: ignore[arg-type]
        model.folder.generation,
        model.tokenizer,
        vocab_size=model.config.vocab_size,
    )


def _answer_chunk(
    model: "Model",
    chunk: list[tuple[str, str | BadRecord]],
    out: Output,
    arguments: dict[str, Any],
    *,
    truncate: bool,
    as_json: bool,
    num_answers: int,
    repeats: "collections.Counter[bytes] | None",
) -> int:
    """Answer one chunk of a file and write it; return how many texts failed."""
    good = [text for _, text in chunk if isinstance(text, str)]
    answers = iter(model.try_generate(good, truncate=truncate, repeats=repeats, **arguments))
    warned: set[str] = set()
    num_failed = 0
    for place, text in chunk:
        if isinstance(text, BadRecord):
            problem = text.error
        else:
            answer = next(answers)
            if isinstance(answer, tuple):
                try:
                    out.write(
                        _json_answer(text, answer, num_answers) if as_json else _lines(answer, num_answers, warned)
                    )
                    continue
                except EngineError as error:
                    problem = at_place(place, error)
            else:
                problem = at_place(place, answer)
        num_failed += 1
        print(f"t5kit: {problem}", file=sys.stderr)
        out.write(json_line({"error": problem}) if as_json else "\n" * num_answers)
    out.flush()
    return num_failed


def _lines(completions: "tuple[Completion, ...]", num_answers: int, warned: set[str]) -> str:
    """Return `num_answers` lines, so that the lines of every text can be told by their position."""
    lines = [one_line(completion.text, warned) for completion in completions]
    return "".join(f"{line}\n" for line in lines + [""] * (num_answers - len(lines)))


def _json_answer(text: str, completions: "tuple[Completion, ...]", num_answers: int) -> str:
    answers = [
        {
            "text": c.text,
            "score": c.score,
            "finish_reason": c.finish_reason,
            "token_ids": list(c.token_ids),
            "token_scores": list(c.token_scores),
        }
        for c in completions
    ]
    return json_line({"input": text, "outputs": answers} if num_answers > 1 else {"input": text, **answers[0]})


def _stream(
    model: "Model",
    items: list[tuple[str, str | BadRecord]],
    out: Output,
    arguments: dict[str, Any],
    *,
    truncate: bool,
) -> None:
    """Write the answer to the only one of `items` as it is generated."""
    if len(items) != 1:
        raise RequestError(f"--stream answers exactly one text, got {'more' if items else 'none'}.")
    ((place, text),) = items
    if isinstance(text, BadRecord):
        raise DataError(text.error)
    try:
        pieces = model.stream(text, truncate=truncate, **arguments)
    except RequestError as error:
        raise RequestError(at_place(place, error)) from error
    for piece in pieces:
        out.write(piece)
        out.flush()
    out.write("\n")


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
