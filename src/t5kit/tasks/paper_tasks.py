"""The tasks of the T5 paper as forms: prompts, label words and metrics to the letter; the records are the user's.

Field names are those of the usual releases (Hugging Face datasets, TFDS). Source: t5/data/preprocessors.py,
glue_utils.py and tasks.py; Raffel et al. 2020, appendix D.
"""

import functools
import re
import unicodedata
from collections.abc import Mapping, Sequence

from t5kit.errors import DataError, RequestError
from t5kit.metrics import METRICS, Metric
from t5kit.metrics.classification import f1_with_invalid, macro_f1
from t5kit.tasks.task import TaskForm
from t5kit.tasks.templates import Fields, Template

NO_LABEL = "<unk>"
"""T5: the target of a test record without label (-1)."""


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
    """Return the fields without the line breaks and bold marks of their HTML."""
    texts = {name: _text(fields, name) for name in ("question", "answer", "paragraph")}
    return {**fields, **{name: re.sub("</?b>", "", text.replace("<br>", " ")) for name, text in texts.items()}}


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
    """Return WSC's text with the pronoun between stars and the noun it stands for as "referent"."""
    words, index = _text(fields, "text").split(" "), fields.get("span2_index")
    if not isinstance(index, int) or not 0 <= index < len(words):
        raise DataError(f"field 'span2_index' is {index!r:.60}, expected the number of a word of the text.")
    pronoun = _text(fields, "span2_text")
    if pronoun not in words[index]:
        raise DataError(f"word {index} of the text is {words[index]!r:.60}, expected the pronoun {pronoun!r:.60}.")
    words[index] = words[index].replace(pronoun, f"*{pronoun}*", 1)
    return {**fields, "text": " ".join(words), "referent": _text(fields, "span1_text")}


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
_MULTIRC_F1 = functools.partial(f1_with_invalid, positive="True", negative="False")
_ACCURACY = METRICS["accuracy"]
_MNLI = "entailment neutral contradiction"
_WSC = TaskForm((Template("wsc: {text}", "{referent}"),), (_ACCURACY,), prepare=wsc_fields)

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
        (_MULTIRC_F1, _ACCURACY),
        prepare=multirc_fields,
    ),
    "super_glue/record": TaskForm(
        (Template("record query: {query} entities: {entities} passage: {passage}", "{answer}"),),
        (METRICS["squad"],),
        prepare=record_fields,
        references_field="answers",
        draws_target=True,  # T5: one example an answer; drawing one gives each the same share
    ),
    "super_glue/rte": _labelled("rte", "hypothesis premise", "entailment not_entailment"),
    "super_glue/wic": _labelled("wic", "sentence1 sentence2 word", "False True"),
    # T5: WSC and WNLI are trained as naming the noun; only records whose label is true name the right one.
    "super_glue/wsc": _WSC,
    "dpr": TaskForm(_WSC.templates, _WSC.metrics, prepare=dpr_fields),
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
