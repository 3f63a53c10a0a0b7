"""The tasks of the T5 paper as forms: prompts, label words and metrics to the letter; the records are the user's.

Field names are those of the usual releases (Hugging Face datasets, TFDS). Source: t5/data/preprocessors.py,
glue_utils.py and tasks.py; Raffel et al. 2020, appendix D.
"""

import dataclasses
import functools
import hashlib
import re
import unicodedata
from collections.abc import Mapping, Sequence

from t5kit.errors import DataError, RequestError
from t5kit.metrics import METRICS, Metric
from t5kit.metrics.classification import all_right_in_group, f1_with_invalid, macro_f1
from t5kit.metrics.pairs import References, check_pairs
from t5kit.sources import Record, RecordTable
from t5kit.tasks.task import TaskForm
from t5kit.tasks.templates import Fields, Template

NO_LABEL = "<unk>"
"""T5: the target of a test record without label (-1)."""

NOT = "any other than: "
"""Before the noun in the reference of a WSC record whose label is false: no prediction is equal to that."""

QUESTION = "answers of question "
"""Before the name of a MultiRC question, the second of its references."""

_TRUTH = {"0": "False", "1": "True", "-1": NO_LABEL}

_DETERMINERS = frozenset(
    "a an few her his each every many much my our some that the their these this those which whose your".split()
)
"""Words that WSC's scoring passes over (t5/data/postprocessors.py)."""


def _labelled(name: str, fields: str, labels: str, *metrics: Metric) -> TaskForm:
    """Return a form whose prompt is the name and "field: value" for every field, in this order."""
    words = labels.split()
    numbered = {str(number): word for number, word in enumerate(words)}
    verbalizer = {"label": {**{word: word for word in words}, **numbered, "-1": NO_LABEL}}
    prompt = " ".join([name, *(f"{field}: {{{field}}}" for field in fields.split())])
    return TaskForm((Template(prompt, "{label}", verbalizer),), metrics or (METRICS["accuracy"],))


def stsb_fields(fields: Fields) -> Fields:
    """Return the fields with the similarity rounded to 0.2 and written with one decimal: 3.75 -> "3.8"."""
    label = fields.get("label")
    if not isinstance(label, int | float):
        raise DataError(f"field 'label' is {label!r:.60}, expected a number from 0 to 5.")
    return {**fields, "label": f"{round(label * 5) / 5:.1f}"}


def multirc_fields(fields: Fields) -> Fields:
    """Return the fields without the line breaks and bold marks of their HTML.

    "references" are the label's word and a name of the question, by which `multirc` groups the answers.
    """
    texts = {name: _text(fields, name) for name in ("question", "answer", "paragraph")}
    cleaned = {name: re.sub("</?b>", "", text.replace("<br>", " ")) for name, text in texts.items()}
    question = hashlib.sha256(f"{texts['paragraph']}\n{texts['question']}".encode("utf-8", "replace")).hexdigest()
    label = str(fields.get("label"))
    return {**fields, **cleaned, "references": [_TRUTH.get(label, label), f"{QUESTION}{question[:16]}"]}


def multirc(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return the F1 over all answers, and the percentage of questions whose answers are all judged right.

    Source: t5/evaluation/metrics.py `multirc_f1_over_all_answers` and `mean_group_metric(all_match)`.
    Raises: DataError if a reference is not one of `multirc_fields`.
    """
    check_pairs(references, predictions, "multirc")
    labels, groups = [], []
    for index, texts in enumerate(references):
        if len(texts) != 2 or not texts[1].startswith(QUESTION):
            raise DataError(f"multirc: references[{index}] is {texts!r:.60}; expected a label and its question's name.")
        labels.append(texts[:1])
        groups.append(texts[1])
    return {
        **f1_with_invalid(labels, predictions, positive="True", negative="False"),
        "exact_match": all_right_in_group(labels, predictions, groups=groups)["group_exact_match"],
    }


def record_fields(fields: Fields) -> Fields:
    """Return ReCoRD's fields: entities in one text, highlights as sentences of the passage, a first answer."""
    passage = re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", _text(fields, "passage"))
    answers = _list(fields, "answers") or [NO_LABEL]
    return {
        **fields,
        "passage": passage.replace("\n@highlight\n", ". "),
        "entities": ", ".join(_list(fields, "entities")),
        "answers": answers,
        "answer": answers[0],
    }


def wsc_fields(fields: Fields) -> Fields:
    """Return WSC's text with the pronoun between stars and the noun it may stand for as "referent".

    T5: two records name the pronoun's place wrongly. One word has its punctuation on, which goes behind a space
    ('him,"' -> '*him* ,"'); the other word is a neighbour's, so the nearest word that is the pronoun is taken.
    "references" is the noun, behind `NOT` where the label is false.
    """
    words, index = _text(fields, "text").split(" "), fields.get("span2_index")
    if not isinstance(index, int) or not 0 <= index < len(words):
        raise DataError(f"field 'span2_index' is {index!r:.60}, expected the number of a word of the text.")
    pronoun, referent = _text(fields, "span2_text"), _text(fields, "span1_text")
    marks = words[index].removeprefix(pronoun)
    if words[index] == pronoun:
        words[index] = f"*{pronoun}*"
    elif words[index].startswith(pronoun) and not any(map(_is_word, marks)):
        words[index : index + 1] = [f"*{pronoun}*", marks]
        words = " ".join(words).rstrip().split(" ")
    else:
        places = [place for place, word in enumerate(words) if word == pronoun]
        if not places:
            raise DataError(f"word {index} of the text is {words[index]!r:.60}, expected the pronoun {pronoun!r:.60}.")
        words[min(places, key=lambda place: abs(place - index))] = f"*{pronoun}*"
    reference = NOT + referent if str(fields.get("label", 1)) in ("0", "False") else referent
    return {**fields, "text": " ".join(words), "referent": referent, "references": [reference]}


def wsc(references: References, predictions: Sequence[str]) -> dict[str, float]:
    """Return how often, in percent, naming the noun or another one agrees with the label.

    A prediction names the noun if the words of one are among the other's, determiners and capitals aside; both or
    neither must hold an apostrophe ("Bob" is not "Bob's hat"). An empty prediction is wrong.
    Source: t5/data/postprocessors.py `wsc_simple`.
    """
    check_pairs(references, predictions, "wsc")
    right = 0
    for texts, prediction in zip(references, predictions, strict=True):
        words, referent = _content_words(prediction), _content_words(texts[0].removeprefix(NOT))
        has_apostrophes = "'" in " ".join(words), "'" in " ".join(referent)
        names_it = has_apostrophes[0] == has_apostrophes[1] and (words <= referent or referent <= words)
        right += bool(words) and names_it != texts[0].startswith(NOT)
    return {"accuracy": 100.0 * right / len(predictions)}


def _content_words(text: str) -> set[str]:
    return set(text.strip().lower().split()) - _DETERMINERS


def dpr_fields(fields: Fields) -> Fields:
    """Return definite pronoun resolution as WSC: the first occurrence of the pronoun between stars."""
    sentence, pronoun, candidates = _text(fields, "sentence"), _text(fields, "pronoun"), _list(fields, "candidates")
    label = fields.get("label")
    if not isinstance(label, int) or not 0 <= label < len(candidates):
        raise DataError(f"field 'label' is {label!r:.60}, expected the number of one of {len(candidates)} candidates.")
    marked = re.sub(rf" ({re.escape(pronoun)})( |\.|,)", r" *\1*\2", sentence, count=1)
    return {**fields, "text": marked, "referent": candidates[label]}


def squad_fields(fields: Fields) -> Fields:
    """Return SQuAD's fields with spaces around punctuation; the first answer is the target, all of them count."""
    answers = fields.get("answers")
    texts = answers.get("text") if isinstance(answers, Mapping) else answers
    if not isinstance(texts, list | tuple) or not texts:
        raise DataError("field 'answers' holds no text; expected a list, or a mapping with the list 'text'.")
    padded = [pad_punctuation(str(text)) for text in texts]
    return {
        # T5: joining collapses the spaces that padding leaves between the parts.
        "question": pad_punctuation(_text(fields, "question")).strip(),
        "context": pad_punctuation(_text(fields, "context")).lstrip(),
        "answers": padded,
        "answer": padded[0],
    }


def pad_punctuation(text: str) -> str:
    """Return the text with spaces around all but letters, numbers, accents and underscores; runs of space as one.

    Example: "U.S. (1776)" -> "U . S . ( 1776 ) "
    """
    return re.sub(r"\s+", " ", "".join(c if _is_word(c) else f" {c} " for c in text))


def _is_word(character: str) -> bool:
    return character == "_" or character.isspace() or unicodedata.category(character)[0] in "LMN"


def translation(source: str, target: str, *, source_field: str, target_field: str) -> TaskForm:
    """Return a translation form by language names: "translate English to German: …"."""
    return TaskForm(
        (Template(f"translate {source} to {target}: {{{source_field}}}", f"{{{target_field}}}"),), (METRICS["bleu"],)
    )


def wmt_fields(fields: Fields) -> Fields:
    """Return the texts of a WMT record, nested as {"translation": {"en": …, "de": …}} or not."""
    nested = fields.get("translation")
    return nested if isinstance(nested, Mapping) else fields


def _wmt(target: str, code: str) -> TaskForm:
    form = translation("English", target, source_field="en", target_field=code)
    return TaskForm(form.templates, form.metrics, prepare=wmt_fields)


def _text(fields: Fields, name: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str):
        raise DataError(f"field {name!r} is {type(value).__name__}, expected text.")
    return value


def _list(fields: Fields, name: str) -> Sequence[str]:
    value = fields.get(name)
    if not isinstance(value, list | tuple) or not all(isinstance(text, str) for text in value):
        raise DataError(f"field {name!r} is {value!r:.60}, expected a list of texts.")
    return list(value)


_MRPC_F1 = functools.partial(f1_with_invalid, positive="equivalent", negative="not_equivalent")
_QQP_F1 = functools.partial(f1_with_invalid, positive="duplicate", negative="not_duplicate")
_CB_F1 = functools.partial(macro_f1, labels=("entailment", "contradiction", "neutral"))
_ACCURACY = METRICS["accuracy"]
_MNLI = "entailment neutral contradiction"
_WSC = TaskForm((Template("wsc: {text}", "{referent}"),), (wsc,), prepare=wsc_fields, references_field="references")

PAPER_TASKS: Mapping[str, TaskForm] = {
    "glue/cola": _labelled("cola", "sentence", "unacceptable acceptable", METRICS["matthews"]),
    "glue/sst2": _labelled("sst2", "sentence", "negative positive"),
    "glue/mrpc": _labelled("mrpc", "sentence1 sentence2", "not_equivalent equivalent", _MRPC_F1, _ACCURACY),
    "glue/qqp": _labelled("qqp", "question1 question2", "not_duplicate duplicate", _QQP_F1, _ACCURACY),
    "glue/stsb": TaskForm(
        (Template("stsb sentence1: {sentence1} sentence2: {sentence2}", "{label}"),),
        (METRICS["correlations"],),
        prepare=stsb_fields,
    ),
    # T5: fields in the order of their names, so the hypothesis comes before the premise.
    "glue/mnli": _labelled("mnli", "hypothesis premise", _MNLI),
    "glue/qnli": _labelled("qnli", "question sentence", "entailment not_entailment"),
    "glue/rte": _labelled("rte", "sentence1 sentence2", "entailment not_entailment"),
    "glue/wnli": _labelled("wnli", "sentence1 sentence2", "not_entailment entailment"),
    "super_glue/boolq": _labelled("boolq", "passage question", "False True"),
    "super_glue/cb": _labelled("cb", "hypothesis premise", "entailment contradiction neutral", _CB_F1, _ACCURACY),
    "super_glue/copa": _labelled("copa", "choice1 choice2 premise question", "choice1 choice2"),
    "super_glue/multirc": TaskForm(
        _labelled("multirc", "question answer paragraph", "False True").templates,
        (multirc,),
        prepare=multirc_fields,
        references_field="references",
    ),
    "super_glue/record": TaskForm(
        (Template("record query: {query} entities: {entities} passage: {passage}", "{answer}"),),
        (METRICS["squad"],),
        prepare=record_fields,
        references_field="answers",
        draws_target=True,  # where `training_records` has not made one record of each answer
    ),
    "super_glue/rte": _labelled("rte", "hypothesis premise", "entailment not_entailment"),
    "super_glue/wic": _labelled("wic", "sentence1 sentence2 word", "False True"),
    # T5: WSC and WNLI are trained as naming the noun; `training_records` leaves those whose label is true.
    "super_glue/wsc": _WSC,
    "dpr": TaskForm(_WSC.templates, (_ACCURACY,), prepare=dpr_fields),
    "squad": TaskForm(
        (Template("question: {question} context: {context}", "{answer}"),),
        (METRICS["squad"],),
        prepare=squad_fields,
        references_field="answers",
    ),
    "cnn_dailymail": TaskForm((Template("summarize: {article}", "{highlights}"),), (METRICS["rouge"],)),
    "wmt/en-de": _wmt("German", "de"),
    "wmt/en-fr": _wmt("French", "fr"),
    "wmt/en-ro": _wmt("Romanian", "ro"),
}

NUM_TRAIN_EXAMPLES: Mapping[str, int] = {
    "glue/cola": 8_551,
    "glue/sst2": 67_349,
    "glue/mrpc": 3_668,
    "glue/qqp": 363_849,
    "glue/stsb": 5_749,
    "glue/mnli": 392_702,
    "glue/qnli": 104_743,
    "glue/rte": 2_490,
}
"""Weights of t5's GLUE mixture (glue_utils.py); WNLI is left out, for WSC and DPR take its place."""


def paper_task(name: str) -> TaskForm:
    """Return a form by its name; raises RequestError with the known ones."""
    if name not in PAPER_TASKS:
        raise RequestError(f"There is no ready task {name!r}. Known are: {', '.join(PAPER_TASKS)}.")
    return PAPER_TASKS[name]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class ChosenRecords:
    """Records of another table by number, each with fields of its own in place of some of theirs."""

    table: RecordTable
    chosen: Sequence[tuple[int, Mapping[str, object]]]

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Record:
        number, changes = self.chosen[index]
        record = self.table[number]
        return dataclasses.replace(record, fields={**record.fields, **changes}) if changes else record


def training_records(name: str, table: RecordTable) -> RecordTable:
    """Return the records that T5 trains a task on, which for two of them are not the table's.

    super_glue/record: a query counts once for each of its answers, with that one (once where it has none). super_glue/
    wsc: only records whose label is true, for the noun of the others is a wrong target. Evaluation takes the table as
    it is: a query once, every label. Broken records stay, to be counted.
    Source: t5/data/preprocessors.py `record` and `wsc_simple`.
    """
    paper_task(name)
    if name == "super_glue/record":
        return ChosenRecords(table, [choice for n in range(len(table)) for choice in _one_an_answer(n, table[n])])
    if name == "super_glue/wsc":
        is_kept = (str(table[n].fields.get("label", 1)) in ("1", "True") for n in range(len(table)))
        return ChosenRecords(table, [(n, {}) for n, kept in enumerate(is_kept) if kept])
    return table


def _one_an_answer(number: int, record: Record) -> list[tuple[int, Mapping[str, object]]]:
    answers = record.fields.get("answers")
    if not isinstance(answers, list | tuple) or not answers:
        return [(number, {})]
    return [(number, {"answers": [answer]}) for answer in answers]
