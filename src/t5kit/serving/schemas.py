"""The bodies of requests and responses; the OpenAPI document is made of these.

Strict: a number is not taken for a text nor a text for a number, and an unknown field is an error, so that a misspelt
option is never ignored.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from t5kit.decoding import FinishReason
from t5kit.runtime.pooling import Pooling
from t5kit.scheduling import Priority

# fail_fast: the first wrong element is enough. Without it a body of a megabyte of them takes a gigabyte of errors, and
# seconds during which nobody else is answered.
Strings = Annotated[list[str], Field(fail_fast=True)]
TokenIds = Annotated[list[int], Field(min_length=1, fail_fast=True)]
LogitBias = Annotated[dict[str, float], Field(fail_fast=True)]
Texts = str | Annotated[Strings, Field(min_length=1)]


class Body(BaseModel):
    """A request's body."""

    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True, protected_namespaces=())


class Reply(BaseModel):
    """A response's body."""

    model_config = ConfigDict(use_attribute_docstrings=True, protected_namespaces=())


class Asking(Body):
    """What every request may say about itself."""

    model: str | None = None
    """A model or adapter of /v1/models; the first model if left out."""
    priority: Priority | None = None
    """high, normal (if left out) or low: the share of the machine while others wait too."""
    timeout_s: float | None = Field(default=None, gt=0, le=86_400)
    """Seconds after which the request fails with 504; the server's own limit if left out."""
    truncate: bool = False
    """Cut texts above the server's max_input_tokens instead of refusing them."""


class GenerationWords(Body):
    """The options of `Model.generate`, with its names and meanings; what is left out is the model folder's own default,
    or else t5kit's."""

    max_new_tokens: int | None = None
    """Most tokens to generate, EOS included (128)."""
    max_length: int | None = None
    """The same as Hugging Face counts it: max_new_tokens + 1."""
    min_new_tokens: int | None = None
    """No end before so many tokens (0)."""
    num_beams: int | None = None
    """Beams (1: greedy)."""
    num_beam_groups: int | None = None
    """Groups of diverse beam search (1)."""
    diversity_penalty: float | None = None
    """Penalty between groups (0)."""
    num_return_sequences: int | None = None
    """Answers a text (1)."""
    length_penalty: float | None = None
    """Exponent (1.0)."""
    length_penalty_formula: Literal["power", "paper"] | None = None
    """power (Hugging Face) or paper (T5)."""
    early_stopping: bool | Literal["never"] | None = None
    """false, true or "never" (false)."""
    do_sample: bool | None = None
    """Draw instead of taking the best; true if temperature, top_k, top_p, min_p or typical_p is given."""
    temperature: float | None = None
    """Divides the logits (1.0)."""
    top_k: int | None = None
    """Draw from the k best (0: all)."""
    top_p: float | None = None
    """Draw from the smallest set of this mass (1.0)."""
    min_p: float | None = None
    """Draw from ids at least so likely relative to the best (0)."""
    typical_p: float | None = None
    """Draw from the typical set of this mass (1.0)."""
    seed: int | None = None
    """For repeatable samples."""
    repetition_penalty: float | None = None
    """1.0 is off."""
    no_repeat_ngram_size: int | None = None
    """0 is off."""
    encoder_no_repeat_ngram_size: int | None = None
    """0 is off."""
    suppress_tokens: Annotated[list[int], Field(fail_fast=True)] | None = None
    """Ids never generated."""
    logit_bias: LogitBias | None = None
    """Id -> what is added to its logit."""
    forced_prefix: str | None = None
    """The answer begins with this text."""
    forced_eos: bool | None = None
    """End in EOS even at max_new_tokens."""
    allowed_outputs: Strings | None = None
    """The answer is one of these texts."""
    forbidden_outputs: Strings | None = None
    """The answer is none of these texts (with beams the next best is found), if it ends by itself."""
    forbid_copy: bool | None = None
    """The answer is not the prompt itself, nor what follows its first ": "."""
    regex: str | None = None
    """The whole answer matches this expression (Rust's syntax)."""
    json_schema: dict[str, Any] | None = None
    """The answer is JSON of this schema."""
    stop_strings: str | Strings | None = None
    """End where one of these appears."""
    speculate: bool | int | Literal["auto"] | None = None
    """Draft tokens from the prompt and verify them; the answers stay the same."""


class GenerateRequest(Asking, GenerationWords):
    """Answer one text or several."""

    text: Texts
    """What to answer, prefix and all ("summarize: …"): one text, or a list of them under the same options."""
    details: bool = False
    """Give token ids, pieces and log-probabilities too."""
    stream: bool = False
    """Answer with server-sent events as the text comes."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "translate English to German: Hello", "num_beams": 4, "max_new_tokens": 32},
                {"text": ["summarize: …", "summarize: …"], "temperature": 0.7, "seed": 1},
            ]
        }
    )


class Output(Reply):
    """One answer."""

    text: str
    score: float
    """Natural log-probability, summed over the tokens; under beam search divided by the length penalty."""
    finish_reason: FinishReason
    num_tokens: int
    """Generated tokens, EOS among them."""
    token_ids: list[int] | None = None
    """With details."""
    tokens: list[str] | None = None
    """The tokens as the vocabulary spells them, with details."""
    token_scores: list[float] | None = None
    """Natural log-probability of each token, with details."""


class TimingsReply(Reply):
    """Wall-clock seconds in the server."""

    queued_s: float
    first_token_s: float
    total_s: float


class Result(Reply):
    """The answers to one text, best first."""

    index: int
    """Which of the texts."""
    outputs: list[Output]
    num_input_tokens: int
    timings: TimingsReply


class GenerateReply(Reply):
    """The answers to all texts, in their order."""

    model: str
    results: list[Result]


class ScoreBody(Asking):
    """How likely is each target, given its source?"""

    sources: Texts
    """One text, or a list."""
    targets: Texts
    """One text, or a list of as many."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"sources": "translate English to German: Hello", "targets": "Hallo"}]}
    )


class TargetScore(Reply):
    """One target's score."""

    score: float
    """Natural log-probability, summed over its tokens, EOS included."""
    num_tokens: int


class ScoreReply(Reply):
    """Scores in the order of the pairs."""

    model: str
    scores: list[TargetScore]


class ClassifyBody(Asking):
    """Which label does the model find likeliest as the answer to a text?"""

    text: Texts
    """One text, or a list."""
    labels: Annotated[Strings, Field(min_length=2)]
    """Labels as the model would write them."""
    is_length_normalized: bool = False
    """Compare log-probabilities a token, so that long labels are not at a disadvantage."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "sst2 sentence: a gripping film", "labels": ["positive", "negative"]}]}
    )


class LabelScore(Reply):
    """One label for one text."""

    label: str
    score: float
    """Natural log-probability as the answer, summed over its tokens."""
    probability: float
    """Softmax of the labels' scores (a token, with is_length_normalized): among these labels only."""


class Classification(Reply):
    """One text's labels, likeliest first."""

    index: int
    label: str
    """The likeliest."""
    labels: list[LabelScore]


class ClassifyReply(Reply):
    """The labels of all texts, in their order."""

    model: str
    results: list[Classification]


class RankBody(Asking):
    """Order candidates by how likely each is as the answer to a text."""

    text: str
    """The prompt."""
    candidates: Annotated[Strings, Field(min_length=1)]
    """Texts that could be its answer."""
    is_length_normalized: bool = False
    """Compare log-probabilities a token."""
    top_n: int | None = Field(default=None, ge=1)
    """Give only so many."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "question: Who wrote Faust?", "candidates": ["Goethe", "Schiller"]}]}
    )


class Ranked(Reply):
    """One candidate."""

    index: int
    """Where it stood in the request."""
    text: str
    score: float
    """Natural log-probability, summed over its tokens, or a token with is_length_normalized."""
    num_tokens: int


class RankReply(Reply):
    """Candidates, likeliest first."""

    model: str
    results: list[Ranked]


class TraceBody(Asking):
    """Look into an answer: what else could have stood at each place, and where the model looked."""

    text: str
    """The prompt."""
    answer: str | None = None
    """The answer as text, or …"""
    answer_ids: TokenIds | None = None
    """… as token ids, exactly as they were generated."""
    num_alternatives: int = Field(default=5, ge=1, le=20)
    """Likeliest tokens told for each place."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"text": "translate English to German: Hello", "answer": "Hallo"}]}
    )


class TokenReply(Reply):
    """One token."""

    id: int
    text: str
    """As it stands in the text; empty for a control token."""
    piece: str
    """As the vocabulary spells it."""


class Alternative(TokenReply):
    """A token that could have stood there."""

    log_prob: float


class TracedToken(TokenReply):
    """A token of the answer, with what else could have stood there."""

    log_prob: float
    alternatives: list[Alternative]
    """Likeliest first; the token itself may be among them."""
    attention: list[float]
    """Weight on each token of the prompt when this token was chosen: the mean over decoder layers and heads."""


class TraceReply(Reply):
    """An answer seen from inside."""

    model: str
    input_tokens: list[TokenReply]
    tokens: list[TracedToken]


PromptInput = Texts | TokenIds | Annotated[list[TokenIds], Field(min_length=1, fail_fast=True)]


class CompletionBody(Asking):
    """OpenAI's text completion. What T5 has no counterpart for is refused where it would change the answer.

    Without temperature, top_p or n above 1 the answer is the likeliest one (greedy), not a sample.
    """

    prompt: PromptInput
    """Text, texts, or token ids of this model."""
    max_tokens: int | None = None
    """The model's own default if left out."""
    temperature: float | None = Field(default=None, ge=0)
    """0 is greedy."""
    top_p: float | None = None
    """Draw from the smallest set of this mass."""
    n: int | None = Field(default=None, ge=1)
    """Answers a prompt: samples, or the best beams with num_beams."""
    best_of: int | None = Field(default=None, ge=1)
    """Beams to choose the answers from."""
    stream: bool | None = None
    """Answer with server-sent events as the text comes."""
    stream_options: dict[str, Any] | None = None
    """include_usage: a last chunk with the counts."""
    logprobs: int | None = Field(default=None, ge=0, le=20)
    """Log-probabilities of the tokens and so many alternatives."""
    stop: str | Strings | None = None
    """End where one of these appears."""
    seed: int | None = None
    """For repeatable samples."""
    logit_bias: LogitBias | None = None
    """Id -> what is added to its logit."""
    echo: bool | None = None
    """Refused if true: the prompt is no part of T5's answer."""
    suffix: str | None = None
    """Refused."""
    presence_penalty: float | None = None
    """Refused unless 0."""
    frequency_penalty: float | None = None
    """Refused unless 0."""
    user: str | None = None
    """Taken and not used."""
    num_beams: int | None = None
    """Ours, for extra_body."""
    length_penalty: float | None = None
    """Ours."""
    repetition_penalty: float | None = None
    """Ours."""
    no_repeat_ngram_size: int | None = None
    """Ours."""
    min_new_tokens: int | None = None
    """Ours."""

    model_config = ConfigDict(
        json_schema_extra={"examples": [{"model": "flan-t5-small", "prompt": "summarize: …", "max_tokens": 64}]}
    )


class Usage(Reply):
    """Tokens read and written."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class LogProbs(Reply):
    """OpenAI's log-probabilities of one completion; without EOS."""

    tokens: list[str]
    token_logprobs: list[float]
    top_logprobs: list[dict[str, float]] | None
    text_offset: list[int]


class CompletionChoice(Reply):
    """One completion."""

    index: int
    text: str
    logprobs: LogProbs | None = None
    finish_reason: Literal["stop", "length"] | None


class CompletionReply(Reply):
    """OpenAI's text_completion object."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage | None = None


class EmbeddingsBody(Asking):
    """OpenAI's embeddings, from the encoder."""

    input: PromptInput
    """Text, texts, or token ids of this model."""
    encoding_format: Literal["float", "base64"] | None = None
    """base64: float32 numbers, little-endian."""
    dimensions: int | None = None
    """Only the model's own width is possible."""
    user: str | None = None
    """Taken and not used."""
    pooling: Pooling | None = None
    """Ours: over the text's tokens, EOS included; none: a sentence-T5 folder's own modules, the mean of any other."""
    normalize: bool = True
    """Ours: vectors of length 1, as OpenAI's are."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"input": ["a cat", "a dog"]}]})


class Embedding(Reply):
    """One text's vector."""

    object: Literal["embedding"] = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(Reply):
    """Tokens read."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsReply(Reply):
    """OpenAI's list of embeddings."""

    object: Literal["list"] = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage


class ModelReply(Reply):
    """A model or adapter that requests may name."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "t5kit"
    parent: str | None = None
    """The model that an adapter belongs to."""
    engine: str
    """What computes, such as "native (avx512)"."""
    weights: str
    status: str
    """ready, or restarting."""
    max_input_tokens: int
    defaults: dict[str, Any]
    """The folder's own generation defaults."""
    prefixes: dict[str, str] = Field(default_factory=dict)
    """Task -> how its prompts begin, as far as the folder says."""


class ModelsReply(Reply):
    """OpenAI's list of models."""

    object: Literal["list"] = "list"
    data: list[ModelReply]


class ErrorDetail(Reply):
    """What was wrong, in OpenAI's shape."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class ErrorReply(Reply):
    """The body of every response that is no success."""

    error: ErrorDetail


class Health(Reply):
    """Whether the process is alive, or ready for requests."""

    status: str
    models: dict[str, str] = Field(default_factory=dict)
    """Name -> status of its engine."""
