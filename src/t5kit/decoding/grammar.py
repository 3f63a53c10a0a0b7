"""Answers of a given form: a grammar as data, and what it permits next, which llguidance computes from our token bytes.

A grammar describes the answer's text, not its tokens: every way of writing a permitted text in tokens is permitted, so
an answer that is valid already is never changed (if it holds no unknown token, which is never permitted). The space
that a vocabulary puts before the first word is no part of the text; where pieces give it up, up to four may stand
there.
"""

import collections
import dataclasses
import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

import numpy as np

from t5kit.errors import DependencyError, RequestError
from t5kit.text import Tokenizer
from t5kit.text.detokenizer import LeadingSpace

if TYPE_CHECKING:
    import llguidance

GrammarKind = Literal["regex", "json_schema", "lark"]

_LEADING_SPACES: Final = {LeadingSpace.KEEP: "", LeadingSpace.DROP_FIRST: " ?", LeadingSpace.DROP_ALL: " {0,4}"}
_JSON_WHITESPACE: Final = r"[\x20\x0A\x0D\x09]{1,32}"
"""llguidance allows endless whitespace between JSON's tokens; a model must not be able to hide in it."""
_MAX_STATES: Final = 1024
"""Prefixes whose state is kept. One that was forgotten is replayed, which costs some 10 microseconds a token."""
_MAX_GRAMMAR_BYTES: Final = 4_000_000


@dataclasses.dataclass(frozen=True, slots=True)
class Grammar:
    """What an answer must look like."""

    kind: GrammarKind
    """regex: the whole text matches, in the syntax of Rust's regex crate. json_schema: it is JSON of that schema, keys
    in its order. lark: llguidance's dialect of Lark; the rule `text` is the text, which begins with no space."""
    text: str

    def __post_init__(self) -> None:
        if self.kind not in ("regex", "json_schema", "lark") or not isinstance(self.text, str):
            raise RequestError(
                f"Grammar({self.kind!r:.40}, …): kind must be regex, json_schema or lark, and text a str."
            )


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
    that is broken or too large.
    """

    def __init__(self, tokenizer: Tokenizer, *, vocab_size: int) -> None:
        """vocab_size: rows of the model; those beyond the tokenizer's ids are never permitted."""
        self._tokenizer = tokenizer
        self._vocab_size = vocab_size
        self._library_tokenizer: llguidance.LLTokenizer | None = None

    def __call__(self, grammar: Grammar) -> Constraint:
        """Return the constraint of a grammar."""
        library = _library()
        if self._library_tokenizer is None:
            self._library_tokenizer = library.LLTokenizer(
                library.TokenizerWrapper(_TokenBytes(self._tokenizer, self._vocab_size)), n_vocab=self._vocab_size
            )
        matcher = library.LLMatcher(self._library_tokenizer, self._compiled(grammar), log_level=0)
        if matcher.is_error():
            raise _broken(grammar, matcher.get_error())
        return _MatcherConstraint(matcher, vocab_size=self._vocab_size, eos_id=self._tokenizer.eos_id)

    def check(self, grammar: Grammar) -> None:
        """Raise the RequestError or DependencyError that making the constraint would raise, before any work is done.

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
        lead = _LEADING_SPACES[self._tokenizer.leading_space]
        rule = f"/{lead}/ " if lead else ""
        match grammar.kind:
            case "regex":
                pattern = library.regex_to_lark(grammar.text, use_ascii="").replace("\n", "\\n")
                # One terminal, not two: the lexer takes the longest match, and a text may begin with spaces of its own.
                text = f"{options}start: /{lead}(?:{pattern})/\n"
            case "json_schema":
                text = f"{options}start: {rule}%json {_bounded_whitespace(grammar.text)}\n"
            case "lark":
                text = f"{options}start: {rule}text\n{grammar.text}"
        return str(library.LLMatcher.grammar_from_lark(text))


class _TokenBytes:
    """A vocabulary as llguidance wants it; tokens without bytes are never permitted.

    Beside control tokens these are the unknown token, which stands for what cannot be written, and where decoding drops
    the space before the first word, the byte token of a space, which is not dropped there.
    """

    bos_token_id = None

    def __init__(self, tokenizer: Tokenizer, vocab_size: int) -> None:
        known = tokenizer.vocab_size
        self.eos_token_id = tokenizer.eos_id
        self.tokens = [tokenizer.token_bytes(token) if token < known else b"" for token in range(vocab_size)]
        self.tokens[tokenizer.unk_id] = b""
        if tokenizer.leading_space is not LeadingSpace.KEEP:
            for token, written in enumerate(self.tokens):
                if written == b" " and tokenizer.decode([token]) == " ":
                    self.tokens[token] = b""
        self.special_token_ids = [tokenizer.eos_id, tokenizer.pad_id]
        self._unk_id = tokenizer.unk_id

    def __call__(self, text: str | bytes) -> list[int]:
        """Return anything: without forcing, the library never asks how a text is cut."""
        return [self._unk_id]


class _MatcherConstraint:
    """A Constraint with the matcher's state kept for the prefixes seen last; matchers are copied, never rolled back."""

    def __init__(self, matcher: Any, *, vocab_size: int, eos_id: int) -> None:
        self._vocab_size = vocab_size
        self._eos_id = eos_id
        self._states: collections.OrderedDict[bytes, Any] = collections.OrderedDict()
        """Prefix -> matcher after it, or None if the grammar does not permit the prefix."""
        self._fresh = matcher
        self._words = np.zeros(-(-vocab_size // 32), np.int32)

    def allowed(self, tokens: Sequence[int] | np.ndarray) -> np.ndarray:
        matcher = self._after(np.asarray(tokens, np.int32))
        if matcher is None:
            return np.zeros(self._vocab_size, bool)
        if matcher.is_stopped():  # the text is complete and can become no longer one
            return np.arange(self._vocab_size) == self._eos_id
        self._words[:] = 0
        matcher.unsafe_compute_mask_ptr(self._words.ctypes.data, self._words.nbytes)
        if matcher.is_error():  # too complex a grammar: no token is sure to be right
            return np.zeros(self._vocab_size, bool)
        return np.unpackbits(self._words.view(np.uint8), bitorder="little")[: self._vocab_size].astype(bool)

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


def _broken(grammar: Grammar, problem: str) -> RequestError:
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
