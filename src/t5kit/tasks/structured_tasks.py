"""Forms for structures written as text: entities, relations, roles, tables, dialogues, corrections, keywords.

T5's vocabulary has no braces, brackets or line ends of JSON, so structures travel as "item: kind; item: kind", which a
model learns easily and `items_of` reads back.
"""

import json
from collections.abc import Mapping, Sequence

from t5kit.errors import DataError, RequestError
from t5kit.metrics import METRICS
from t5kit.metrics.tagging import NO_ITEMS as NOTHING
from t5kit.tasks.task import TaskForm
from t5kit.tasks.templates import Fields, Template

ITEM_SEPARATOR = "; "
PART_SEPARATOR = " | "


def items_text(items: Sequence[Sequence[str]]) -> str:
    """Return items of parts as one text: [("Ada", "person"), ("Paris", "place")] -> "Ada | person; Paris | place".

    The separators' own characters inside a part become a comma and a slash, and runs of space one space.
    """
    parts = [[" ".join(part.replace(";", ",").replace("|", "/").split()) for part in item] for item in items]
    return ITEM_SEPARATOR.join(PART_SEPARATOR.join(item) for item in parts) or NOTHING


def items_of(text: str) -> list[tuple[str, ...]]:
    """Return the items of a text that `items_text`, or a model, wrote; never raises."""
    pieces = [piece.strip() for piece in text.split(ITEM_SEPARATOR.strip())]
    return [tuple(part.strip() for part in piece.split("|")) for piece in pieces if piece and piece != NOTHING]


def entities_of_tags(tokens: Sequence[str], tags: Sequence[str]) -> list[tuple[str, str]]:
    """Return (text, kind) of each entity in IOB2 tags; an I- that continues nothing starts an entity.

    Raises: DataError if there are not as many tags as tokens.
    """
    if len(tokens) != len(tags):
        raise DataError(f"{len(tokens)} tokens have {len(tags)} tags; expected as many.")
    entities: list[tuple[list[str], str]] = []
    last = "O"
    for token, tag in zip(tokens, tags, strict=True):
        kind = tag[2:]
        if tag.startswith("I-") and last[2:] == kind and last != "O":
            entities[-1][0].append(token)
        elif tag != "O":
            entities.append(([token], kind))
        last = tag
    return [(" ".join(words), kind) for words, kind in entities]


def entity_fields(fields: Fields) -> Fields:
    """Return text and target of {"text", "entities": [{"text", "type"}]} or of {"tokens", "tags"} in IOB2."""
    if "tokens" in fields:
        tokens, tags = _texts(fields, "tokens"), _texts(fields, "tags")
        return {"text": " ".join(tokens), "target": items_text(entities_of_tags(tokens, tags))}
    return {"text": fields.get("text"), "target": _rows(fields, "entities", ("text", "type"))}


def relation_fields(fields: Fields) -> Fields:
    """Return text and target of {"text", "relations": [{"head", "relation", "tail"}]}."""
    return {"text": fields.get("text"), "target": _rows(fields, "relations", ("head", "relation", "tail"))}


def role_fields(fields: Fields) -> Fields:
    """Return text, predicate and target of {"text", "predicate", "arguments": [{"role", "text"}]}."""
    return {**fields, "target": _rows(fields, "arguments", ("role", "text"))}


def answer_fields(fields: Fields) -> Fields:
    """Return question, context and answers of {"question", "context", "answers": [text]} or {…, "answer": text}."""
    answers = [fields["answer"]] if "answer" in fields else _texts(fields, "answers")
    if not answers:
        raise DataError("field 'answers' is empty, expected at least one text.")
    return {**fields, "answers": answers, "answer": answers[0]}


def dialogue_fields(fields: Fields) -> Fields:
    """Return history and reply of {"turns": [text, …]} or {"turns": [{"speaker", "text"}, …]}; the last replies."""
    turns = fields.get("turns")
    if not isinstance(turns, list | tuple) or len(turns) < 2:
        raise DataError(f"field 'turns' is {turns!r:.60}, expected a list of at least two turns.")
    spoken = [_turn(turn, number) for number, turn in enumerate(turns)]
    history = " ".join(f"{speaker}: {text}" for speaker, text in spoken[:-1])
    return {"history": history, "speaker": spoken[-1][0], "reply": spoken[-1][1]}


def table_text(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table as one line: "columns: name | age row 1: Ada | 36 row 2: …".

    Raises: DataError on a ragged table.
    """
    lines = [f"columns: {PART_SEPARATOR.join(header)}"]
    for number, row in enumerate(rows, 1):
        if len(row) != len(header):
            raise DataError(f"row {number} of the table has {len(row)} cells, expected {len(header)}.")
        lines.append(f"row {number}: {PART_SEPARATOR.join(str(cell) for cell in row)}")
    return " ".join(lines)


def record_text(record: Mapping[str, object]) -> str:
    """Return a key-value record, nested or not, as one line.

    Example: {"name": "Ada", "born": {"year": 1815}} -> "name: Ada | born year: 1815"
    """
    return PART_SEPARATOR.join(f"{' '.join(path)}: {value}" for path, value in _leaves(record, ()))


def table_fields(fields: Fields) -> Fields:
    """Return the table as text, of {"header", "rows"}, {"record": {…}} or {"json": text}; other fields stay."""
    if "rows" in fields:
        rows = fields["rows"]
        if not isinstance(rows, list | tuple) or not all(isinstance(row, list | tuple) for row in rows):
            raise DataError("field 'rows' is no list of lists of cells.")
        return {**fields, "table": table_text(_texts(fields, "header"), rows)}
    record = fields.get("record")
    if "json" in fields:
        try:
            record = json.loads(str(fields["json"]))
        except (ValueError, RecursionError) as error:
            raise DataError(f"field 'json' is not valid JSON ({error}).") from None
    if not isinstance(record, Mapping):
        raise DataError("has no table: expected the fields 'header' and 'rows', or 'record', or 'json' with an object.")
    return {**fields, "table": record_text(record)}


def keyword_fields(fields: Fields) -> Fields:
    """Return keywords in one text of {"keywords": [text, …], "text"}."""
    return {**fields, "keywords": ", ".join(_texts(fields, "keywords"))}


def _leaves(value: object, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], str]]:
    """Return every innermost value with the keys that lead to it; lists of plain values stay together."""
    if len(path) > 32:
        raise DataError("the record is nested more than 32 levels deep.")
    if isinstance(value, Mapping):
        return [leaf for key, inner in value.items() for leaf in _leaves(inner, (*path, str(key)))]
    if isinstance(value, list | tuple):
        if any(isinstance(inner, Mapping | list | tuple) for inner in value):
            return [leaf for n, inner in enumerate(value, 1) for leaf in _leaves(inner, (*path, str(n)))]
        return [(path, ", ".join(str(inner) for inner in value))]
    return [(path, "" if value is None else str(value))]


def _turn(turn: object, number: int) -> tuple[str, str]:
    if isinstance(turn, str):
        return "AB"[number % 2], turn
    if isinstance(turn, Mapping) and isinstance(turn.get("text"), str) and isinstance(turn.get("speaker"), str):
        return turn["speaker"], turn["text"]
    raise DataError(f"turn {number + 1} is {turn!r:.60}, expected a text, or a mapping of speaker and text.")


def _rows(fields: Fields, name: str, parts: tuple[str, ...]) -> str:
    rows = fields.get(name)
    if not isinstance(rows, list | tuple):
        raise DataError(f"field {name!r} is {type(rows).__name__}, expected a list of mappings of {', '.join(parts)}.")
    for number, row in enumerate(rows, 1):
        if not isinstance(row, Mapping) or not all(isinstance(row.get(part), str) for part in parts):
            raise DataError(f"{name}[{number}] is {row!r:.60}, expected a mapping of {', '.join(parts)}.")
    return items_text([[row[part] for part in parts] for row in rows])


def _texts(fields: Fields, name: str) -> list[str]:
    value = fields.get(name)
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise DataError(f"field {name!r} is {value!r:.60}, expected a list of texts.")
    return list(value)


_SET_F1 = (METRICS["set_f1"],)

STRUCTURED_TASKS: Mapping[str, TaskForm] = {
    "named_entities": TaskForm(
        (Template("extract entities: {text}"), Template("find the names and their kinds: {text}")),
        _SET_F1,
        prepare=entity_fields,
    ),
    "relations": TaskForm((Template("extract relations: {text}"),), _SET_F1, prepare=relation_fields),
    "semantic_roles": TaskForm((Template("label roles: {predicate} in: {text}"),), _SET_F1, prepare=role_fields),
    "question_answering": TaskForm(
        (Template("question: {question} context: {context}", "{answer}"),),
        (METRICS["squad"],),
        prepare=answer_fields,
        references_field="answers",
    ),
    "dialogue": TaskForm(
        (Template("reply: {history} {speaker}:", "{reply}"),),
        (METRICS["bleu"], METRICS["chrf"]),
        prepare=dialogue_fields,
    ),
    "table_to_text": TaskForm(
        (Template("describe table: {table}", "{text}"),), (METRICS["bleu"], METRICS["rouge"]), prepare=table_fields
    ),
    "table_question": TaskForm(
        (Template("question: {question} table: {table}", "{answer}"),), (METRICS["exact_match"],), prepare=table_fields
    ),
    "correction": TaskForm(
        (Template("correct: {wrong}", "{right}"), Template("fix the spelling and grammar: {wrong}", "{right}")),
        (METRICS["exact_match"], METRICS["word_error_rate"]),
    ),
    "keywords_to_text": TaskForm(
        (Template("write a sentence with: {keywords}", "{text}"),),
        (METRICS["bleu"], METRICS["rouge"]),
        prepare=keyword_fields,
    ),
}


def structured_task(name: str) -> TaskForm:
    """Return a form by its name; raises RequestError with the known ones."""
    if name not in STRUCTURED_TASKS:
        raise RequestError(f"There is no ready task {name!r}. Known are: {', '.join(STRUCTURED_TASKS)}.")
    return STRUCTURED_TASKS[name]
