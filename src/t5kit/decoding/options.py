"""What a caller may ask of decoding, as plain frozen data that can cross a process boundary."""

import dataclasses
import numbers
from typing import Any, Literal

from t5kit.checkpoint.source_files import shortened
from t5kit.decoding.grammar import Grammar
from t5kit.errors import RequestError

LengthPenaltyFormula = Literal["power", "paper"]
EarlyStopping = bool | Literal["never"]
Speculate = bool | int | Literal["auto"]

DEFAULT_DRAFT_TOKENS = 8
"""Most tokens of a draft. 16 gained nothing more where drafts are right and lost where they are not."""
MOST_DRAFT_TOKENS = 64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class DecodingOptions:
    """How one prompt is answered. Defaults are plain greedy decoding.

    Words are Hugging Face's where users know them. Counts are in tokens and never include the decoder start token.
    Raises: RequestError on construction, naming the option, what came and what is allowed.
    """

    max_new_tokens: int = 128
    """Most tokens to generate, EOS included; at least 1. A forced prefix counts."""
    min_new_tokens: int = 0
    """EOS is suppressed until this many tokens stand."""

    num_beams: int = 1
    """Beams of beam search; 1 is greedy (or sampling)."""
    num_beam_groups: int = 1
    """Groups of diverse beam search (Vijayakumar et al. 2016); divides num_beams."""
    diversity_penalty: float = 0.0
    """Taken from a token's score for each beam of an earlier group that chose it at this step; needs groups above 1."""
    num_return_sequences: int = 1
    """Answers a prompt: the best of num_beams, or so many samples."""
    length_penalty: float = 1.0
    """Exponent a of the length penalty; 0 compares plain sums of log-probabilities."""
    length_penalty_formula: LengthPenaltyFormula = "power"
    """power: sum / n^a, as Hugging Face and CTranslate2. paper: sum / ((5 + n) / 6)^a, as the T5 paper (mesh, t5x)."""
    early_stopping: EarlyStopping = False
    """When a prompt's beams are done. True: as soon as num_beams hypotheses are finished. False: when the best running
    beam, at its present length, cannot beat the worst of them. "never": when it cannot at any length (exact)."""

    does_sample: bool = False
    """Draw each token from the distribution instead of taking the best."""
    temperature: float = 1.0
    """Logits are divided by it; > 0."""
    top_k: int = 0
    """Draw from the k most likely; 0 is all."""
    top_p: float = 1.0
    """Draw from the smallest set whose probabilities reach p, in (0, 1]."""
    min_p: float = 0.0
    """Draw from ids at least min_p times as likely as the best, in [0, 1)."""
    typical_p: float = 1.0
    """Draw from the smallest set of mass p whose information is nearest the entropy (Meister et al. 2022), in (0,
    1]."""
    seed: int | None = None
    """The same seed, prompt and occurrence give the same samples whatever the batch: the n-th occurrence of a prompt in
    one call draws the n-th stream of (seed, prompt). None draws a fresh seed."""

    repetition_penalty: float = 1.0
    """> 0; ids already generated become less likely by this factor (Keskar et al. 2019)."""
    no_repeat_ngram_size: int = 0
    """No n-gram of this size is generated twice; 0 is off."""
    encoder_no_repeat_ngram_size: int = 0
    """No n-gram of this size is copied from the prompt; 0 is off."""
    suppressed_ids: tuple[int, ...] = ()
    """Ids never generated."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    """(id, delta) pairs added to the logits."""
    forced_prefix_ids: tuple[int, ...] = ()
    """The answer begins with these ids; they count in its length and its score."""
    forced_eos: bool = False
    """The last allowed token is EOS, whatever the model says (Hugging Face's forced_eos_token_id). Off by default: a
    cut answer stays cut."""
    allowed_outputs: tuple[tuple[int, ...], ...] | None = None
    """If given, the answer is one of these id sequences (each ends in EOS)."""
    grammar: Grammar | None = None
    """If given, the answer's text is of this form, whatever it is cut to tokens like; an answer that is cut at
    max_new_tokens is the beginning of such a text."""
    forbidden_texts: tuple[str, ...] = ()
    """Where the text so far is one of these, whatever it is cut to tokens like, EOS may not follow. White space and
    Unicode's compatible forms (NFKC) make no difference. An answer that ends otherwise (max_new_tokens, a stop string)
    may still be one."""
    stop_strings: tuple[str, ...] = ()
    """Generation ends where one of these appears in the text; it and what follows is cut from the text."""

    speculate: Speculate = 0
    """Draft tokens that are looked up in the prompt and verified in one step; answers stay the same, only time changes.
    0 or False: none; n: at most n a step (True: 8), at most 64; "auto": as many as paid so far. Beams run without."""

    def __post_init__(self) -> None:
        for name, fewest in _LEAST_INTEGERS.items():
            value = _plain(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < fewest:
                raise RequestError(f"{name} = {shortened(value)} must be an integer of at least {fewest}.")
        for name, (least, most, is_open_below, is_open_above) in _RANGES.items():
            value = _plain(self, name)
            inside = isinstance(value, (int, float)) and not isinstance(value, bool)
            inside = inside and (least < value if is_open_below else least <= value)
            if not inside or not (value < most if is_open_above else value <= most):
                opening, closing = "(" if is_open_below else "[", ")" if is_open_above else "]"
                raise RequestError(
                    f"{name} = {shortened(value)} must be a number in {opening}{least:g}, {most:g}{closing}."
                )
        if self.length_penalty_formula not in ("power", "paper"):
            raise RequestError(
                f"length_penalty_formula = {self.length_penalty_formula!r} must be one of: power, paper."
            )
        if self.grammar is not None and not isinstance(self.grammar, Grammar):
            raise RequestError(f"grammar is {type(self.grammar).__name__}, expected a Grammar.")
        for name in ("does_sample", "forced_eos"):
            if not isinstance(getattr(self, name), bool):
                raise RequestError(f"{name} = {getattr(self, name)!r} must be True or False.")
        if not isinstance(self.early_stopping, bool) and self.early_stopping != "never":
            raise RequestError(f'early_stopping = {self.early_stopping!r} must be one of: True, False, "never".')
        self._check_speculate()
        _plain(self, "seed")
        if self.seed is not None and (
            not isinstance(self.seed, int) or isinstance(self.seed, bool) or not 0 <= self.seed < 2**64
        ):
            raise RequestError(f"seed = {self.seed!r} must be an integer in [0, 2^64).")
        self._check_sequences()
        self._check_together()

    def _check_speculate(self) -> None:
        value = _plain(self, "speculate")
        if isinstance(value, bool):
            object.__setattr__(self, "speculate", DEFAULT_DRAFT_TOKENS if value else 0)
        elif value != "auto" and not (isinstance(value, int) and 0 <= value <= MOST_DRAFT_TOKENS):
            raise RequestError(
                f'speculate = {value!r} must be "auto", True, False or an integer in [0, {MOST_DRAFT_TOKENS}].'
            )

    def _check_sequences(self) -> None:
        """Check the kinds of what is in the tuples; whether ids fit a model is checked where the model is known."""
        given: dict[str, Any] = {name: getattr(self, name) for name in _SEQUENCES}
        for name, values in given.items():
            if name == "allowed_outputs" and values is None:
                continue
            if not isinstance(values, (tuple, list)):
                raise RequestError(f"{name} must be a tuple of {_SEQUENCES[name]}, not {type(values).__name__}.")
        for name in ("suppressed_ids", "forced_prefix_ids"):
            object.__setattr__(self, name, _plain_ids(given[name]))
        for pair in given["logit_bias"]:
            if not isinstance(pair, (tuple, list)) or len(pair) != 2:
                raise RequestError(f"logit_bias holds {pair!r}; expected pairs of an id and a number.")
        biases = tuple((_plain_number(token), _plain_number(delta)) for token, delta in given["logit_bias"])
        object.__setattr__(self, "logit_bias", biases)
        for output in given["allowed_outputs"] or ():
            if not isinstance(output, (tuple, list)):
                raise RequestError(f"allowed_outputs holds {output!r}; expected tuples of ids.")
        if given["allowed_outputs"] is not None:
            object.__setattr__(self, "allowed_outputs", tuple(map(_plain_ids, given["allowed_outputs"])))
        for name in ("forbidden_texts", "stop_strings"):
            for text in given[name]:
                if not isinstance(text, str):
                    raise RequestError(f"{name} holds {text!r}; expected texts.")

    def _check_together(self) -> None:
        if self.min_new_tokens > self.max_new_tokens:
            raise RequestError(
                f"min_new_tokens = {self.min_new_tokens} must not be above max_new_tokens = {self.max_new_tokens}."
            )
        if len(self.forced_prefix_ids) > self.max_new_tokens:
            raise RequestError(
                f"The forced prefix has {len(self.forced_prefix_ids)} tokens, more than max_new_tokens = "
                f"{self.max_new_tokens}."
            )
        if self.does_sample and self.num_beams > 1:
            raise RequestError(f"Sampling and num_beams = {self.num_beams} exclude each other: drop one of the two.")
        if not self.does_sample and self.num_return_sequences > self.num_beams:
            raise RequestError(
                f"num_return_sequences = {self.num_return_sequences} needs as many beams "
                f"(num_beams = {self.num_beams}) or sampling."
            )
        if self.num_beams % self.num_beam_groups:
            raise RequestError(f"num_beam_groups = {self.num_beam_groups} must divide num_beams = {self.num_beams}.")
        if self.diversity_penalty and self.num_beam_groups == 1:
            raise RequestError(
                f"diversity_penalty = {self.diversity_penalty} has no effect without num_beam_groups above 1."
            )
        if self.num_beam_groups > 1 and not self.diversity_penalty:
            raise RequestError(
                "num_beam_groups above 1 needs a diversity_penalty above 0, or all groups find the same."
            )
        if self.grammar is not None and (self.allowed_outputs is not None or self.forced_eos):
            other = "forced_eos" if self.forced_eos else "allowed_outputs"
            raise RequestError(f"A grammar and {other} both say how the answer ends: drop one of the two.")
        if self.forbidden_texts and self.forced_eos:
            raise RequestError("forced_eos ends an answer whatever forbidden_texts say: drop one of the two.")
        if self.forbidden_texts and self.grammar is not None:
            raise RequestError(
                "Both forbidden_texts and a grammar say what an answer may be, and together they can leave no way to "
                "end one. Leave out of the grammar what is not wanted, and drop forbidden_texts."
            )
        if any(not stop for stop in self.stop_strings):
            raise RequestError("A stop string is empty; it would end every answer at once.")
        if self.allowed_outputs is not None and (not self.allowed_outputs or not all(self.allowed_outputs)):
            raise RequestError(
                "allowed_outputs is empty or holds an empty output; give at least one non-empty sequence."
            )


_LEAST_INTEGERS = {
    "max_new_tokens": 1,
    "min_new_tokens": 0,
    "num_beams": 1,
    "num_beam_groups": 1,
    "num_return_sequences": 1,
    "top_k": 0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
}
_RANGES = {
    # name: least, most, open below, open above
    "diversity_penalty": (0.0, 1e6, False, False),
    "length_penalty": (-1e3, 1e3, False, False),
    "temperature": (0.0, 1e6, True, False),
    "top_p": (0.0, 1.0, True, False),
    "min_p": (0.0, 1.0, False, True),
    "typical_p": (0.0, 1.0, True, False),
    # Numerics: what a penalty multiplies and divides stays finite in float32.
    "repetition_penalty": (1e-6, 1e6, False, False),
}
_SEQUENCES = {
    "suppressed_ids": "ids",
    "logit_bias": "(id, delta) pairs",
    "forced_prefix_ids": "ids",
    "allowed_outputs": "tuples of ids",
    "forbidden_texts": "texts",
    "stop_strings": "texts",
}


def _plain(options: DecodingOptions, name: str) -> Any:
    """Return a field's value, which becomes a plain number where it is any."""
    value = _plain_number(getattr(options, name))
    object.__setattr__(options, name, value)
    return value


def _plain_number(value: Any) -> Any:
    """Return a number of another library (NumPy's) as Python's own, and anything else as it is."""
    if isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    return float(value) if isinstance(value, numbers.Real) else value


def _plain_ids(ids: tuple[Any, ...] | list[Any]) -> tuple[Any, ...]:
    return tuple(map(_plain_number, ids))
