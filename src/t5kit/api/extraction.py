"""Facts out of a text: what `Model.extract` asks a model to write, and what is read out of its line."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal, get_args

from t5kit.api.arguments import GenerationArguments
from t5kit.decoding import DecodingOptions, FinishReason, Grammar
from t5kit.errors import RequestError
from t5kit.tasks.linear_form import FIELD_SEPARATOR, NAME_SEPARATOR, parse, parse_beginning
from t5kit.tasks.linear_grammar import fixed_texts, linear_grammar
from t5kit.tasks.linear_schema import EntitiesSchema, ObjectSchema, RelationsSchema, Schema, outline
from t5kit.text import Tokenizer
from t5kit.text.tokenizer import sentinel_text

ExtractionMethod = Literal["line", "fields"]

DEFAULT_MAX_NEW_TOKENS: Final = 256
FIELD_PROMPT: Final = "Read the text and answer the question. Text: {text} Question: What is the {field}?"
_OWN_WORDS: Final = (
    "regex",
    "json_schema",
    "allowed_outputs",
    "forbidden_outputs",
    "forbid_copy",
    "stop_strings",
    "forced_prefix",
    "forced_eos",
)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Extraction:
    """What was found in one text."""

    value: Any
    """As JSON has it: of the schema asked for. Where the answer was cut, the part that is whole and of the schema, or
    None if no part is."""
    is_complete: bool
    """False where the answer was cut at max_new_tokens."""
    line: str
    """What the model wrote; with method="fields" its answers, each behind its field's name."""
    score: float
    """Natural log-probability of the line, as `Completion.score`; with method="fields" the sum over its answers."""


@dataclasses.dataclass(frozen=True, slots=True)
class Question:
    """One answer that a model is asked for."""

    text: str
    field: str
    """The field asked for; empty where all is asked for at once."""
    schema: Schema
    """Of the answer."""
    is_required: bool = True


def default_prompt(schema: Schema) -> str:
    """Return what a model without a prompt of its own is asked, with {text}."""
    asked = outline(schema).replace("{", "{{").replace("}", "}}")
    match schema:
        case EntitiesSchema():
            return f"Find every {asked} in the text. Text: {{text}}"
        case RelationsSchema():
            return f"Find who or what stands in these relations in the text: {asked}. Text: {{text}}"
    return f"Read these out of the text: {asked}. Text: {{text}}"


def questions(texts: Sequence[str], schema: Schema, method: ExtractionMethod) -> list[list[Question]]:
    """Return what is asked about each text. Raises: RequestError for a method unknown or not for this schema."""
    if method not in get_args(ExtractionMethod):
        raise RequestError(f"method = {method!r} must be one of: {', '.join(get_args(ExtractionMethod))}.")
    if method == "line":
        return [[Question(text, "", schema)] for text in texts]
    if not isinstance(schema, ObjectSchema):
        raise RequestError(
            'method="fields" asks for the fields of one record; this schema is none. Take method="line".'
        )
    return [[Question(text, name, field, is_required) for name, field, is_required in schema.fields] for text in texts]


def joined(answers: Sequence[tuple[Question, Extraction]], schema: Schema) -> Extraction:
    """Return what the answers about one text say together; a required field that was cut leaves no value.

    An optional field may have no answer: a text without words has none to copy.
    """
    if answers and not answers[0][0].field:
        return answers[0][1]
    assert isinstance(schema, ObjectSchema)
    found = {question.field: answer for question, answer in answers}
    value = {name: answer.value for name, answer in found.items() if answer.value is not None}
    value = {name: value.get(name) for name, _, _ in schema.fields if name in value or name in schema.nullable}
    is_whole = all(name in value for name, _, is_required in schema.fields if is_required)
    return Extraction(
        value=value if is_whole else None,
        is_complete=all(answer.is_complete for answer in found.values()),
        line=FIELD_SEPARATOR.join(f"{name}{NAME_SEPARATOR}{answer.line}" for name, answer in found.items()),
        score=sum(answer.score for answer in found.values()),
    )


def check_options(options: GenerationArguments) -> None:
    """Raise RequestError for an option of generate that says what the schema says."""
    for word in _OWN_WORDS:
        if options.get(word) is not None:
            raise RequestError(f"extract takes no {word}: the schema says what the answer looks like.")
    if options.get("num_return_sequences") not in (None, 1):
        raise RequestError("extract gives one answer a text; num_return_sequences must be 1.")


def check_writable(schema: Schema, tokenizer: Tokenizer) -> None:
    """Raise RequestError naming what a line of this schema must hold and this vocabulary cannot write."""
    for text in fixed_texts(schema):
        if tokenizer.unk_id in tokenizer.encode(text):
            raise RequestError(
                f"A line of this schema holds {text!r}, which this vocabulary cannot write: it reads back as "
                f"{tokenizer.decode(tokenizer.encode(text))!r}. Rename it."
            )


def grammar_of(schema: Schema, *, copied_from: str | None, tokenizer: Tokenizer) -> Grammar:
    """Return the grammar of a schema's lines; copied_from: a text whose words, as the model sees them, strings are.

    What the vocabulary cannot write of the text reads like its unknown token, which no string holds.
    """
    seen = None if copied_from is None else tokenizer.decode(tokenizer.encode(copied_from, add_eos=False))
    return Grammar("lark", linear_grammar(schema, copied_from=seen))


def with_grammar(options: DecodingOptions, grammar: Grammar, tokenizer: Tokenizer) -> DecodingOptions:
    """Return the options for one text: sentinels, which no fact holds, are suppressed beside the user's own ids."""
    sentinels = [tokenizer.sentinel_id(index) for index in range(tokenizer.num_sentinels)]
    # ByT5's own sentinels are everyday bytes.
    spelt = [token for token in sentinels if sentinel_text(0)[:-2].encode() in tokenizer.token_bytes(token)]
    suppressed = tuple(dict.fromkeys((*options.suppressed_ids, *spelt)))
    return dataclasses.replace(options, grammar=grammar, suppressed_ids=suppressed, min_new_tokens=0)


def read_line(line: str, schema: Schema, *, score: float, finish_reason: FinishReason) -> Extraction:
    """Return what a constrained answer says."""
    if finish_reason == "eos":
        return Extraction(value=parse(line, schema), is_complete=True, line=line, score=score)
    return Extraction(value=parse_beginning(line, schema), is_complete=False, line=line, score=score)


def own_defaults(options: GenerationArguments) -> Mapping[str, Any]:
    """Return the options with extract's own default length, where none is given."""
    has_length = options.get("max_new_tokens") is not None or options.get("max_length") is not None
    return options if has_length else {**options, "max_new_tokens": DEFAULT_MAX_NEW_TOKENS}
