"""Answers of a given form: a grammar as data, and what it permits next, which llguidance computes from our token bytes.

A grammar describes the answer's text, not its tokens: every way of writing a permitted text in tokens is permitted, so
an answer that is valid already is never changed (if it holds no unknown token, which is never permitted). The space
that a vocabulary puts before the first word is no part of the text; where every piece gives one up, up to four may
stand there.
"""

import collections
import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import numpy as np

from t5kit.errors import DependencyError, RequestError
from t5kit.text import Tokenizer
from t5kit.text.detokenizer import LeadingSpace

if TYPE_CHECKING:
    import llguidance

GrammarKind = Literal["regex", "json_schema", "lark"]

_MOST_LEADING_SPACES: Final = {LeadingSpace.KEEP: 0, LeadingSpace.DROP_FIRST: 1, LeadingSpace.DROP_ALL: 4}
"""How many may stand before the text, which decoding drops."""
_REGEX_RULES: Final = {
    LeadingSpace.KEEP: "TEXT: BODY",
    LeadingSpace.DROP_FIRST: 'TEXT: " " BODY | TIGHT',  # after the one that is dropped, spaces are the text's own
    LeadingSpace.DROP_ALL: "TEXT: / {0,4}/ TIGHT",
}
"""BODY is what the regex describes, TIGHT as much of it as begins with no space."""
_TIGHT: Final = "TIGHT: BODY & /(?s:[^ ].*)?/"
_JSON_WHITESPACE: Final = r"[\x20\x0A\x0D\x09]{1,32}"
"""llguidance allows endless whitespace between JSON's tokens; a model must not be able to hide in it."""
_MAX_STATES: Final = 1024
"""Prefixes whose state is kept. One that was forgotten is replayed, which costs some 10 microseconds a token."""
_MAX_GRAMMAR_BYTES: Final = 4_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must look like."""

    kind: GrammarKind
    """regex: the whole text matches, in the syntax of Rust's regex crate; ^ and $ may stand around it. json_schema: it
    is JSON of that schema, keys in its order. lark: llguidance's dialect of Lark; the rule `text` is the text, which
    begins with no space."""
    text: str

    def __post_init__(self) -> None:
        if self.kind not in ("regex", "json_schema", "lark") or not isinstance(self.text, str):
            raise RequestError(
                f"Grammar({self.kind!r:.40}, …): kind must be regex, json_schema or lark, and text a str."
            )
        if any("\ud800" <= letter <= "\udfff" for letter in self.text):
            raise RequestError(f"The {self.kind} {self.text!r:.200} holds half a surrogate pair, which is no text.")


class Constraint(Protocol):
    """What may stand after what stands, for one grammar."""

    def allowed(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return a mask [V] of the ids that may follow `tokens` [n]; EOS where the text is complete; none if no id
        may."""
        ...


ConstraintFactory = Callable[[Grammar], Constraint]


class GrammarCompiler:
    """Makes the constraints of one vocabulary; the library is loaded when the first one is asked for.

    Usable as a ConstraintFactory. Raises, where called: DependencyError without llguidance, RequestError for a grammar
    that is broken or too large, or a regex of which this vocabulary cannot write the beginning.
    """

    def __init__(self, tokenizer: Tokenizer, *, vocab_size: int) -> None:
        """vocab_size: rows of the model; those beyond the tokenizer's ids are never permitted."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._library_tokenizer: llguidance.LLTokenizer | None = None
        self._start = _Start()

    def __call__(self, grammar: Grammar) -> Constraint:
        """Return the constraint of a grammar."""
        library = _library()
        if self._library_tokenizer is None:
            written = _TokenBytes(self._tokenizer, self._vocab_size)
            self._start = _Start.of(self._tokenizer, written.tokens)
            self._library_tokenizer = library.LLTokenizer(library.TokenizerWrapper(written), n_vocab=self._vocab_size)
        matcher = library.LLMatcher(self._library_tokenizer, self._compiled(grammar), log_level=0)
        if matcher.is_error():
            raise _broken(grammar, matcher.get_error())
        constraint = _MatcherConstraint(
            matcher, vocab_size=self._vocab_size, eos_id=self._tokenizer.eos_id, start=self._start
        )
        if grammar.kind == "regex" and not self._start.can_be_left(constraint):
            dropped = "spaces before the first word are dropped, or " if self._start.most_blanks else ""
            raise RequestError(
                f"The regex {grammar.text!r:.200} cannot be used: this vocabulary writes no text that begins so "
                f"({dropped}a character is missing)."
            )
        return constraint

    def check(self, grammar: Grammar) -> None:
        """Raise the RequestError or DependencyError that making the constraint would raise, before any work is done.

        Only that a vocabulary writes no text that begins as a regex asks shows when the constraint is made.
        So does a JSON schema whose punctuation this vocabulary cannot write: T5's own has no braces.
        """
        problem = _library().LLMatcher.validate_grammar(self._compiled(grammar))
        if problem and not problem.startswith("WARNING"):
            raise _broken(grammar, problem)
        if grammar.kind == "json_schema":
            self._check_punctuation(json.loads(grammar.text))

    def _check_punctuation(self, schema: object) -> None:
        tokenizer = self._tokenizer
        missing = [sign for sign in _punctuation(schema) if tokenizer.unk_id in tokenizer.encode(sign)]
        if missing:
            raise RequestError(
                f"This vocabulary cannot write {' '.join(missing)}, which the JSON of this schema needs. Use "
                "Model.extract, which writes the same values without braces, or a model with another vocabulary."
            )

    def _compiled(self, grammar: Grammar) -> str:
        """Return the grammar as the library reads it, with the spaces that are no part of the text."""
        library = _library()
        if len(grammar.text) > _MAX_GRAMMAR_BYTES:
            raise RequestError(
                f"The {grammar.kind} has {len(grammar.text):,} characters; at most {_MAX_GRAMMAR_BYTES:,}."
            )
        # Forcing would permit only the library's own way to cut a forced text into tokens.
        options = '%llguidance {"no_forcing": true}\n'
        leading_space = self._tokenizer.leading_space
        rule = f"/ {{0,{_MOST_LEADING_SPACES[leading_space]}}}/ " if _MOST_LEADING_SPACES[leading_space] else ""
        match grammar.kind:
            case "regex":
                pattern = library.regex_to_lark(_with_rusts_end(grammar.text), use_ascii="").replace("\n", "\\n")
                # One terminal, not two: the lexer takes the longest match, and a text may begin with spaces of its own.
                tight = f"{_TIGHT}\n" if rule else ""
                text = f"{options}start: TEXT\n{_REGEX_RULES[leading_space]}\nBODY: /(?:{pattern})/\n{tight}"
            case "json_schema":
                text = f"{options}start: {rule}%json {_bounded_whitespace(grammar.text)}\n"
            case "lark":
                text = f"{options}start: {rule}text\n{grammar.text}"
        return str(library.LLMatcher.grammar_from_lark(text))


class _TokenBytes:
    """A vocabulary as llguidance wants it; tokens without bytes are never permitted.

    Those are control tokens, and the unknown one, which stands for what cannot be written.
    """

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        known = tokenizer.vocab_size
        self.eos_token_id = tokenizer.eos_id
        self.tokens = [tokenizer.token_bytes(token) if token < known else b"" for token in range(vocab_size)]
        self.tokens[tokenizer.unk_id] = b""
        self.special_token_ids = [tokenizer.eos_id, tokenizer.pad_id]
        self._unk_id = tokenizer.unk_id

    def __call__(self, text: str | bytes) -> list[int]:
        """Return anything: without forcing, the library never asks how a text is cut."""
        return [self._unk_id]


@dataclasses.dataclass(frozen=True, slots=True)
class _Start:
    """How a vocabulary's texts begin, where decoding drops spaces there."""

    most_blanks: int = 0
    """Spaces that may stand before the text."""
    blank_id: int | None = None
    """The token of such a space alone."""
    odd: np.ndarray | None = None
    """[V] bool: tokens that keep a space which others would lose there, such as the byte token of a space. None may
    come before the text has begun: the grammar knows bytes, and would take that space for a dropped one."""

    @classmethod
    def of(cls, tokenizer: Tokenizer, tokens: Sequence[bytes]) -> "_Start":
        """tokens: their bytes in the middle of a text."""
        leading_space = tokenizer.leading_space
        if leading_space is LeadingSpace.KEEP:
            return cls()
        odd, blank_id = np.zeros(len(tokens), bool), None
        for token, written in enumerate(tokens):
            if not written.startswith(b" "):
                continue
            decoded = tokenizer.decode([token]).encode()
            odd[token] = decoded != written[1:] or (leading_space is LeadingSpace.DROP_ALL and decoded.startswith(b" "))
            if not decoded and blank_id is None:
                blank_id = token
        return cls(_MOST_LEADING_SPACES[leading_space], blank_id, odd)

    def permitted(self, tokens: np.ndarray, allowed: np.ndarray) -> np.ndarray:
        """Return `allowed` [V] after `tokens` [n] without what would begin the text oddly."""
        if self.odd is None:
            return allowed
        first = next((int(token) for token in tokens[: self.most_blanks + 1] if token != self.blank_id), None)
        if first is None:
            return allowed & ~self.odd
        return np.zeros_like(allowed) if self.odd[first] else allowed

    def can_be_left(self, constraint: Constraint) -> bool:
        """Return whether anything but spaces that are dropped may come, or the end."""
        if self.blank_id is None:
            return bool(constraint.allowed([]).any())
        for num_blanks in range(self.most_blanks + 1):
            allowed = constraint.allowed([self.blank_id] * num_blanks)
            if num_blanks < self.most_blanks:
                allowed[self.blank_id] = False
            if allowed.any():
                return True
        return False


class _MatcherConstraint:
    """A Constraint with the matcher's state kept for the prefixes seen last; matchers are copied, never rolled back."""

    def __init__(self, matcher: Any, *, vocab_size: int, eos_id: int, start: _Start) -> None:
        self._vocab_size = vocab_size
        self._eos_id = eos_id
        self._start = start
        self._states: collections.OrderedDict[bytes, Any] = collections.OrderedDict()
        """Prefix -> matcher after it, or None if the grammar does not permit the prefix."""
        self._fresh = matcher
        self._words = np.zeros(-(-vocab_size // 32), np.int32)

    def allowed(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        tokens = np.asarray(tokens, np.int32)
        matcher = self._after(tokens)
        if matcher is None:
            return np.zeros(self._vocab_size, bool)
        if matcher.is_stopped():  # nothing can follow: it is complete, or looking found that no token leads on
            is_complete: bool = matcher.is_accepting()
            return self._start.permitted(tokens, (np.arange(self._vocab_size) == self._eos_id) & is_complete)
        self._words[:] = 0
        matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        if matcher.is_error():  # too complex a grammar: no token is sure to be right
            return np.zeros(self._vocab_size, bool)
        allowed = np.unpackbits(self._words.view(np.uint8), bitorder="little")[: self._vocab_size].astype(bool)
        return self._start.permitted(tokens, allowed)

    def _after(self, tokens: np.ndarray) -> Any:
        key = tokens.tobytes()
        if key in self._states:
            self._states.move_to_end(key)
            return self._states[key]
        if not len(tokens):
            return self._fresh
        parent_key = tokens[:-1].tobytes()
        if parent_key in self._states:
            parent, new = self._states[parent_key], tokens[-1:]
        else:
            parent, new = self._fresh, tokens
        matcher = None if parent is None else parent.deep_copy()
        if matcher is not None and (self._eos_id in new or not matcher.consume_tokens(new.tolist())):
            matcher = None  # nothing follows what the grammar does not permit, nor EOS
        self._states[key] = matcher
        if len(self._states) > _MAX_STATES:
            self._states.popitem(last=False)
        return matcher


def _library() -> Any:
    try:
        import llguidance
    except ImportError as error:
        raise DependencyError.for_extra("llguidance", "constrain", "An answer of a given form") from error
    return llguidance


def _with_rusts_end(regex: str) -> str:
    """Return a regex with Rust's word for the end of the text, backslash z, for Python's Z, which Rust refuses."""
    return re.sub(r"\\(.)", lambda pair: r"\z" if pair[1] == "Z" else pair[0], regex, flags=re.DOTALL)


def _broken(grammar: Grammar, problem: str) -> RequestError:
    if unknown := re.search(r"lookarounds not supported yet; (\w+)", problem):
        reason = (
            r"\b and \B are not supported; write the characters that may stand there"
            if unknown[1].startswith("Word")
            else r"^, $, \A and \z may stand at its ends alone, and not under (?m); the whole answer has to match "
            "without them too, so leave them away"
        )
        return RequestError(f"The {grammar.kind} {grammar.text!r:.200} cannot be used: {reason}.")
    lines = [line.strip() for line in problem.splitlines() if line.strip()]
    reason = next((line for line in lines if line.startswith("error:")), lines[0] if lines else "unknown reason")
    reason = reason.removeprefix("error:").strip().rstrip(".")
    return RequestError(f"The {grammar.kind} {grammar.text!r:.200} cannot be used: {reason:.300}.")


def _bounded_whitespace(schema_text: str) -> str:
    """Return a JSON schema in one line, with bounded whitespace between tokens unless it says otherwise itself."""
    try:
        schema = json.loads(schema_text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"The json_schema is no JSON: {error}.") from error
    if not isinstance(schema, dict):
        raise RequestError(f"The json_schema is {type(schema).__name__}, expected a JSON object.")
    guidance = schema.get("x-guidance", {"whitespace_pattern": _JSON_WHITESPACE})
    return json.dumps({**schema, "x-guidance": guidance})


def _punctuation(schema: object) -> str:
    """Return the signs without which no JSON of a schema can be written, as far as its `type` and `enum` tell."""
    if not isinstance(schema, dict):
        return ""
    match schema.get("type"):
        case "object":
            required = schema.get("required")
            return '{}":' if required else "{}"
        case "array":
            return "[]" + (_punctuation(schema.get("items")) if schema.get("minItems") else "")
        case "string":
            return '"'
    return ""
