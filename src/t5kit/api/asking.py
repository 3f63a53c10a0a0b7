"""What a loaded model can be asked beside free text: which label, which document, which facts."""

import abc
import collections
import functools
from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any, Literal, Self, Unpack, cast, get_args, overload

import numpy as np

from t5kit.api.arguments import Asked, GenerationArguments
from t5kit.api.calibration import (
    CONTENT_FREE_TEXTS,
    Calibration,
    contextual_biases,
    fit_scaling,
    right_indices,
)
from t5kit.api.classification import (
    Classification,
    ClassificationMethod,
    Labels,
    LabelScores,
    LabelSet,
    classifications,
    label_scores,
    label_set,
)
from t5kit.api.extraction import (
    FIELD_PROMPT,
    Extraction,
    ExtractionMethod,
    check_options,
    check_writable,
    default_prompt,
    grammar_of,
    joined,
    own_defaults,
    questions,
    read_line,
    with_grammar,
)
from t5kit.api.prompts import Prompt
from t5kit.api.ranking import (
    LIKELIHOOD_PROMPT,
    RELEVANCE_PROMPT,
    RELEVANCE_WORDS,
    Ranking,
    RankingMethod,
    checked_vectors,
    cosines,
    likelihood_scores,
    ranking,
    relevance_ids,
    relevance_scores,
)
from t5kit.api.trainable import Trainable
from t5kit.checkpoint.sentence_modules import SentenceModules, read_sentence_modules
from t5kit.decoding import DecodingOptions, GrammarCompiler, answer_text
from t5kit.errors import DataError, RequestError
from t5kit.scheduling import GenerationRequest, RequestFailed, RequestFinished
from t5kit.tasks.linear_schema import SchemaLike, read_schema


class Asking(Trainable, abc.ABC):
    """Questions with answers of a known form, put to one model."""

    max_input_tokens: int
    max_cache_bytes: int | None

    @functools.cached_property
    def sentence_modules(self) -> SentenceModules | None:
        """What a sentence-T5 folder does to encoder states; None for other folders. Read when first asked for."""
        return read_sentence_modules(self.folder.path, self.folder.config.d_model)

    @functools.cached_property
    def constraints(self) -> GrammarCompiler:
        """What makes this vocabulary's constraints from grammars."""
        return GrammarCompiler(self.tokenizer, vocab_size=self.folder.config.vocab_size)

    @overload
    def classify(
        self,
        texts: str,
        labels: Labels,
        *,
        prompt: str = "{text}",
        method: ClassificationMethod = "score",
        is_length_normalized: bool = False,
        calibration: Calibration | Literal["contextual"] | str | Path | None = None,
        truncate: bool = False,
    ) -> Classification: ...
    @overload
    def classify(
        self,
        texts: Sequence[str],
        labels: Labels,
        *,
        prompt: str = "{text}",
        method: ClassificationMethod = "score",
        is_length_normalized: bool = False,
        calibration: Calibration | Literal["contextual"] | str | Path | None = None,
        truncate: bool = False,
    ) -> list[Classification]: ...
    def classify(
        self,
        texts: str | Sequence[str],
        labels: Labels,
        *,
        prompt: str = "{text}",
        method: ClassificationMethod = "score",
        is_length_normalized: bool = False,
        calibration: Calibration | Literal["contextual"] | str | Path | None = None,
        truncate: bool = False,
    ) -> Any:
        """Return which of `labels` each text has: str -> Classification, list -> list, same order.

        labels: at least two texts, or label -> the words the model answers it with, {"positive": "great"}. prompt:
        what the model reads, with {text} where the text stands. method: "score" compares the log-probabilities of all
        labels, for which a text is encoded once; "greedy" lets the model write and follows it to a label, which is
        faster with many labels, may miss the likeliest and gives no probabilities. is_length_normalized: compare
        log-probabilities a token. calibration: one of `calibrate`, a file it was saved to, or "contextual" to make one
        from content-free texts now. truncate: cut the end of a text where its prompt has more than max_input_tokens.
        Raises: RequestError for wrong labels, options or texts, DataError for a calibration file that cannot be used.

        Example: model.classify("a fine film", ["positive", "negative"], prompt="sst2 sentence: {text}").label
        """
        if method not in get_args(ClassificationMethod):
            raise RequestError(f"method = {method!r} must be one of: {', '.join(get_args(ClassificationMethod))}.")
        if method == "greedy" and (calibration is not None or is_length_normalized):
            raise RequestError(
                'method="greedy" compares no scores, so calibration and is_length_normalized mean nothing to it. Drop '
                'them, or take method="score".'
            )
        many = as_texts("texts", texts)
        template, label_words = Prompt(prompt, ("text",)), label_set(labels, self.tokenizer)
        used: Calibration | None = None
        if calibration == "contextual":
            used = self.calibrate(labels, prompt=prompt, is_length_normalized=is_length_normalized, truncate=truncate)
        elif calibration is not None:
            used = calibration if isinstance(calibration, Calibration) else Calibration.load(calibration)
            used.check_fits(label_words.words, prompt, is_length_normalized=is_length_normalized)
            used = used.ordered(label_words.words)
        if method == "greedy":
            results = self._follow(template, many, label_words, truncate=truncate)
        else:
            scores = self._label_scores(template, many, label_words, truncate=truncate)
            results = classifications(
                scores, label_words.names, is_length_normalized=is_length_normalized, calibration=used
            )
        return results[0] if isinstance(texts, str) else results

    def calibrate(
        self,
        labels: Labels,
        *,
        texts: Sequence[str] = (),
        targets: Sequence[str] = (),
        content_free_texts: Sequence[str] = CONTENT_FREE_TEXTS,
        prompt: str = "{text}",
        is_length_normalized: bool = False,
        truncate: bool = False,
    ) -> Calibration:
        """Return what makes `classify`'s probabilities believable under the same labels, prompt and normalisation.

        texts, targets: labelled examples, which no test set should share; a temperature and a bias for each label are
        fitted to them. Without them, biases take away what the model prefers for `content_free_texts`. Save it beside
        the model with `Calibration.save`.
        Raises: RequestError, DataError if a target is no label or the scores run against the targets.
        """
        many, right = as_texts("texts", texts), as_texts("targets", targets)
        if len(many) != len(right):
            raise RequestError(f"calibrate got {len(many)} texts and {len(right)} targets; give one target for each.")
        template, label_words = Prompt(prompt, ("text",)), label_set(labels, self.tokenizer)
        right_N = right_indices(right, label_words.names)
        sources = many or as_texts("content_free_texts", content_free_texts)
        if not sources:
            raise RequestError("calibrate needs labelled examples or content_free_texts; both are empty.")
        scores = self._label_scores(template, sources, label_words, truncate=truncate)
        scores_NK = scores.comparable(is_length_normalized=is_length_normalized)
        temperature, biases_K = fit_scaling(scores_NK, right_N) if many else (1.0, contextual_biases(scores_NK))
        return Calibration(
            words=label_words.words,
            prompt=prompt,
            is_length_normalized=is_length_normalized,
            temperature=temperature,
            biases=dict(zip(label_words.names, biases_K.tolist(), strict=True)),
            source=f"{len(sources)} {'labelled examples' if many else 'content-free texts'}",
        )

    @overload
    def rank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        method: RankingMethod = "relevance",
        prompt: str | None = None,
        relevance_words: tuple[str, str] = RELEVANCE_WORDS,
        document_vectors: np.ndarray | None = None,
        truncate: bool = False,
    ) -> Ranking: ...
    @overload
    def rank(
        self,
        query: Sequence[str],
        documents: Sequence[str],
        *,
        method: RankingMethod = "relevance",
        prompt: str | None = None,
        relevance_words: tuple[str, str] = RELEVANCE_WORDS,
        document_vectors: np.ndarray | None = None,
        truncate: bool = False,
    ) -> list[Ranking]: ...
    def rank(
        self,
        query: str | Sequence[str],
        documents: Sequence[str],
        *,
        method: RankingMethod = "relevance",
        prompt: str | None = None,
        relevance_words: tuple[str, str] = RELEVANCE_WORDS,
        document_vectors: np.ndarray | None = None,
        truncate: bool = False,
    ) -> Any:
        """Return how well each document answers a query; a list of queries gives a list.

        method: "relevance" reads query and document together, as monoT5 was trained to, and compares the answers
        `relevance_words`; nothing can be shared between pairs, since each side's encoding depends on the other.
        "likelihood" asks how likely the query is after the document: a document is encoded once for all queries, and
        any T5 can do it. "embedding" compares vectors by their cosine: those of the documents can be kept
        (`document_vectors` = model.embed(documents)), so that a query costs one encode. It needs a model made for it.
        prompt: what the model reads, with {query} and {document} (relevance) or {document} (likelihood). truncate: cut
        the end of a document where its prompt has more than max_input_tokens.
        Raises: RequestError, EngineError.

        Example: model.rank("who wrote it?", ["It is long.", "It is by Ada."]).order -> (1, 0)
        """
        if method not in get_args(RankingMethod):
            raise RequestError(f"method = {method!r} must be one of: {', '.join(get_args(RankingMethod))}.")
        if method == "embedding" and prompt is not None:
            raise RequestError('method="embedding" reads texts as they stand; put what belongs around them into them.')
        if method != "embedding" and document_vectors is not None:
            raise RequestError(f'document_vectors are for method="embedding", not {method!r}.')
        if isinstance(documents, str):
            raise RequestError("documents is one text, expected a list of texts.")
        queries, texts = as_texts("query", query), as_texts("documents", documents)
        match method:
            case "relevance":
                template = Prompt(RELEVANCE_PROMPT if prompt is None else prompt, ("query", "document"))
                ids = relevance_ids(relevance_words, self.tokenizer)
                pairs = [{"query": each, "document": text} for each in queries for text in texts]
                made = self._rendered(template, pairs, cut_field="document", truncate=truncate)
                prompts = self._encode(made, truncate=False)
                scores = relevance_scores(self.runtime, prompts, ids, max_bytes=self.max_cache_bytes)
                scores_QN = scores.reshape(len(queries), len(texts))
            case "likelihood":
                template = Prompt(LIKELIHOOD_PROMPT if prompt is None else prompt, ("document",))
                values = [{"document": text} for text in texts]
                made = self._rendered(template, values, cut_field="document", truncate=truncate)
                targets = self._encode(
                    [each for _ in made for each in queries],
                    truncate=truncate,
                    prompts=[each for each in made for _ in queries],
                )
                encoded = self._encode(made, truncate=False)
                scores_QN = likelihood_scores(
                    self.runtime, encoded, targets, len(queries), max_cache_bytes=self.max_cache_bytes
                )
            case "embedding":
                queries_QD = self.embed(queries, truncate=truncate)
                if document_vectors is None:
                    documents_ND = self.embed(texts, truncate=truncate)
                else:
                    documents_ND = checked_vectors(document_vectors, len(texts), queries_QD.shape[1])
                scores_QN = cosines(queries_QD, documents_ND)
        rankings = [ranking(scores_N) for scores_N in scores_QN]
        return rankings[0] if isinstance(query, str) else rankings

    @overload
    def extract(
        self,
        texts: str,
        schema: SchemaLike,
        *,
        method: ExtractionMethod = "line",
        prompt: str | None = None,
        is_copied: bool = True,
        truncate: bool = False,
        **options: Unpack[GenerationArguments],
    ) -> Extraction: ...
    @overload
    def extract(
        self,
        texts: Sequence[str],
        schema: SchemaLike,
        *,
        method: ExtractionMethod = "line",
        prompt: str | None = None,
        is_copied: bool = True,
        truncate: bool = False,
        **options: Unpack[GenerationArguments],
    ) -> list[Extraction]: ...
    def extract(
        self,
        texts: str | Sequence[str],
        schema: SchemaLike,
        *,
        method: ExtractionMethod = "line",
        prompt: str | None = None,
        is_copied: bool = True,
        truncate: bool = False,
        **options: Unpack[GenerationArguments],
    ) -> Any:
        """Return the facts that each text holds, always of the schema's form: str -> Extraction, list -> list.

        schema: {"entities": ["person", …]}; {"relations": ["born in", …]}; a JSON schema of objects, arrays, strings,
        numbers, booleans and enums; or plain Python, {"name": str, "kind": ["cat", "dog"], "tags": [str]}. The model
        writes one line without braces (`t5kit.tasks.linear_form`), which is constrained and read back, so any
        vocabulary can. method: "line" asks for all at once, which suits models trained on such lines; "fields" asks for
        a record field by field, which suits models that answer questions, and fills every field. prompt: what the model
        reads, with {text} (and {field} in "fields"); None: a plain request, for models that follow requests.
        is_copied: strings are runs of the text's own words, as far as truncate leaves them. Other keywords are those of
        `generate`: num_beams, temperature, seed, max_new_tokens (256), ….
        Raises: RequestError for a wrong schema, option or text, DependencyError without llguidance.

        Example: model.extract(text, {"entities": ["person", "place"]}).value["entities"][0]["text"]
        """
        model, options = self._chosen(options)
        if model is not self:
            return model.extract(
                texts, schema, method=method, prompt=prompt, is_copied=is_copied, truncate=truncate, **options
            )
        check_options(options)
        checked = read_schema(schema)
        check_writable(checked, self.tokenizer)
        per_text = questions(as_texts("texts", texts), checked, method)
        if method == "line":
            template = Prompt(default_prompt(checked) if prompt is None else prompt, ("text",))
        else:
            template = Prompt(FIELD_PROMPT if prompt is None else prompt, ("text", "field"))
        # An empty regex makes the folder's own words about the answer's form give way; the grammar replaces it.
        asked = self._asked(cast("GenerationArguments", {"regex": "", **own_defaults(options)})).options
        every = [question for asked_of_one in per_text for question in asked_of_one]
        values = [{"text": question.text, "field": question.field} for question in every]
        seen = self._fitting(template, values, cut_field="text", truncate=truncate)
        prompts = self._encode([template.render(each) for each in seen], truncate=False)
        repeats: collections.Counter[bytes] = collections.Counter()
        requests: list[GenerationRequest] = []
        numbers = [number for number, asked_of_one in enumerate(per_text) for _ in asked_of_one]
        kept: list[int] = []
        for number, (question, fields, ids) in enumerate(zip(every, seen, prompts, strict=True)):
            source = fields["text"] if is_copied else None
            try:
                grammar = grammar_of(question.schema, copied_from=source, tokenizer=self.tokenizer)
            except DataError as error:
                if not question.is_required:
                    continue
                raise DataError(f"Text {numbers[number]}: {error}" if len(per_text) > 1 else str(error)) from error
            kept.append(number)
            requests += self._requests({number: ids}, with_grammar(asked, grammar, self.tokenizer), repeats=repeats)
        answers: dict[int, Extraction] = {}
        for number, answer in zip(kept, self._answered(requests), strict=True):
            schema_of_one = every[number].schema
            best = answer.hypotheses[0]
            line = answer_text(best.token_ids, self.tokenizer.detokenizer(), ())
            answers[number] = read_line(line, schema_of_one, score=best.score, finish_reason=best.finish_reason)
        places = iter(range(len(every)))
        results = [
            joined(
                [
                    (question, answers[place])
                    for question, place in zip(asked_of_one, places, strict=False)  # they go on with the next
                    if place in answers
                ],
                checked,
            )
            for asked_of_one in per_text
        ]
        return results[0] if isinstance(texts, str) else results

    def _rendered(
        self, prompt: Prompt, values: Sequence[Mapping[str, str]], *, cut_field: str, truncate: bool
    ) -> list[str]:
        """Return prompts with their fields' values; truncate: `cut_field` is cut where they would be too long."""
        fitting = self._fitting(prompt, values, cut_field=cut_field, truncate=truncate)
        return [prompt.render(each) for each in fitting]

    def _fitting(
        self, prompt: Prompt, values: Sequence[Mapping[str, str]], *, cut_field: str, truncate: bool
    ) -> Sequence[Mapping[str, str]]:
        """Return the fields' values as the model will read them; see `_rendered`."""
        for each in values:
            for field, text in each.items():
                if not isinstance(text, str):
                    raise RequestError(f"A {field} is {type(text).__name__}, expected text.")
        if not truncate:
            return values
        limit, tokenizer = self.max_input_tokens, self.tokenizer
        return [prompt.cut(each, cut_field=cut_field, tokenizer=tokenizer, max_tokens=limit) for each in values]

    def _label_scores(self, prompt: Prompt, texts: Sequence[str], labels: LabelSet, *, truncate: bool) -> LabelScores:
        """Return how likely each label's words are after the prompt around each text."""
        made = self._rendered(prompt, [{"text": text} for text in texts], cut_field="text", truncate=truncate)
        ids = self._encode(made, truncate=False)
        targets, num_labels = labels.targets(made, self.tokenizer), len(labels.words)
        return label_scores(self.runtime, ids, targets, num_labels=num_labels, max_cache_bytes=self.max_cache_bytes)

    def _follow(
        self, prompt: Prompt, texts: Sequence[str], labels: LabelSet, *, truncate: bool
    ) -> list[Classification]:
        """Return the label that greedy decoding arrives at when only labels may be written."""
        made = self._rendered(prompt, [{"text": text} for text in texts], cut_field="text", truncate=truncate)
        requests: list[GenerationRequest] = []
        names: list[dict[tuple[int, ...], str]] = []
        options: dict[tuple[tuple[int, ...], ...], DecodingOptions] = {}  # one for all prompts: they share its tree
        targets = labels.targets(made, self.tokenizer)
        for number, (ids, written) in enumerate(zip(self._encode(made, truncate=False), targets, strict=True)):
            outputs = tuple(tuple(target.tolist()) for target in written)
            names.append(dict(zip(outputs, labels.names, strict=True)))
            longest = max(map(len, outputs))
            shared = options.setdefault(outputs, DecodingOptions(max_new_tokens=longest, allowed_outputs=outputs))
            requests += self._requests({number: ids}, shared)
        return [
            Classification(
                label=name_of[tuple(result.hypotheses[0].token_ids.tolist())], probabilities={}, log_probabilities={}
            )
            for name_of, result in zip(names, self._answered(requests), strict=True)
        ]

    # What the model itself gives

    @abc.abstractmethod
    def embed(self, texts: Any, *, truncate: bool = False) -> np.ndarray:
        """Return encoder vectors: [D] float32 for one text, [N, D] for a list."""

    @abc.abstractmethod
    def _encode(
        self, texts: Sequence[str], *, truncate: bool, prompts: Sequence[str] | None = None
    ) -> list[np.ndarray]:
        """Return ids [S_i] int32 with EOS for each text, with prompts as their targets; the first that cannot be taken
        is an error."""

    @abc.abstractmethod
    def _chosen(self, options: GenerationArguments) -> tuple[Self, GenerationArguments]:
        """Return the model with the adapter that a call's options name, and the other options."""

    @abc.abstractmethod
    def _asked(self, options: GenerationArguments) -> Asked:
        """Return the options translated."""

    @abc.abstractmethod
    def _requests(
        self,
        encoded: Mapping[int, np.ndarray],
        options: DecodingOptions,
        *,
        repeats: collections.Counter[bytes] | None = None,
    ) -> list[GenerationRequest]:
        """Return a request for each id -> prompt ids [S] under the same options; repeats counts over several calls."""

    @abc.abstractmethod
    def _answer(self, requests: list[GenerationRequest]) -> list[RequestFinished | RequestFailed]:
        """Return one result for each request, in their order."""

    @abc.abstractmethod
    def _answered(self, requests: list[GenerationRequest]) -> list[RequestFinished]:
        """Return one answer for each request, in their order; the first that failed is raised."""


def as_texts(name: str, texts: object) -> list[str]:
    """Return one text or a list of them as a list; its members are checked where they are encoded."""
    if isinstance(texts, str):
        return [texts]
    if isinstance(texts, (bytes, Mapping, Set)) or not isinstance(texts, Iterable):
        raise RequestError(f"{name} is {type(texts).__name__}, expected a text or a list of texts.")
    return list(texts)
