"""From options and what stands so far to the edits of the next token's logits.

Each rule is a small function of the history; `EditPlan` joins those that a request asks for. A plan has no state, so
beams can share it and be reordered at will. History begins with the decoder start token, as in Hugging Face: that token
is penalised, and is part of the first n-gram. A forced EOS counts with the model's own log-probability, as every token
does; Hugging Face counts it with 0, so its beams may rank answers that are cut differently.
"""

import dataclasses
import unicodedata
import weakref
from collections.abc import Sequence

import numpy as np

from t5kit.config import T5Config
from t5kit.decoding.grammar import Constraint, ConstraintFactory, Grammar
from t5kit.decoding.options import DecodingOptions
from t5kit.decoding.stops import DetokenizerFactory, answer_text
from t5kit.decoding.trie import Trie
from t5kit.runtime import LogitEdits

_NO_IDS = np.empty(0, np.int32)


def repeated_ngram_ids(history: np.ndarray, size: int) -> np.ndarray:
    """Return the ids that would complete an n-gram of `size` that `history` [h] already holds, [m] int32.

    >>> repeated_ngram_ids(np.array([0, 7, 8, 9, 7, 8]), 3)
    array([9], dtype=int32)
    """
    return completions(history, history, size)


def completions(text: np.ndarray, history: np.ndarray, size: int) -> np.ndarray:
    """Return the ids that follow in `text` [t] wherever the last size - 1 ids of `history` [h] stand, [m] int32."""
    if len(text) < size or len(history) < size - 1:
        return _NO_IDS
    windows = np.lib.stride_tricks.sliding_window_view(text, size)
    matches = (windows[:, :-1] == history[len(history) - size + 1 :]).all(axis=1)
    return np.unique(windows[matches, -1]).astype(np.int32)


def as_compared(text: str) -> str:
    """Return a text as forbidden ones are compared: NFKC, runs of white space a space, none at the ends.

    Vocabularies read texts like that, or nearly, so a model gives "fish" back where "\ufb01sh" stood in its prompt.
    """
    return " ".join(unicodedata.normalize("NFKC", text).split())


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EditPlan:
    """What one request's options change, position by position."""

    options: DecodingOptions
    eos_id: int
    start_id: int
    encoder_input_ids: np.ndarray
    """[S] int32."""
    penalises_log_probs: bool
    """True in beam search: Hugging Face penalises log-probabilities there, logits elsewhere."""
    trie: Trie | None
    constraint: Constraint | None
    forbidden_texts: frozenset[str]
    """As `as_compared` gives them."""
    detokenizer_factory: DetokenizerFactory | None
    """Given where texts are forbidden."""
    suppressed_ids: np.ndarray
    """[s] int32."""
    delta_ids: np.ndarray
    deltas: np.ndarray

    def edits(self, tokens: np.ndarray) -> LogitEdits | None:
        """Return the edits of the token that follows `tokens` [n] (forced prefix in, start token not), or None."""
        options, num_tokens = self.options, len(tokens)
        if num_tokens < len(options.forced_prefix_ids):
            return LogitEdits(forced_id=options.forced_prefix_ids[num_tokens])
        history = np.empty(num_tokens + 1, np.int32)
        history[0], history[1:] = self.start_id, tokens
        suppressed = [self.suppressed_ids]
        if num_tokens < options.min_new_tokens or self._is_forbidden(tokens):
            suppressed.append(np.array([self.eos_id], np.int32))
        if options.no_repeat_ngram_size:
            suppressed.append(repeated_ngram_ids(history, options.no_repeat_ngram_size))
        if options.encoder_no_repeat_ngram_size:
            suppressed.append(completions(self.encoder_input_ids, history, options.encoder_no_repeat_ngram_size))
        allowed_ids = None if self.trie is None else self.trie.next_ids(tokens)
        if self.constraint is not None:
            is_allowed = self.constraint.allowed(tokens)
            # Speed: whichever is shorter; inside free text nearly every id is allowed.
            if 2 * np.count_nonzero(is_allowed) > len(is_allowed):
                suppressed.append(np.flatnonzero(~is_allowed).astype(np.int32))
            else:
                allowed_ids = np.flatnonzero(is_allowed).astype(np.int32)
        suppressed_ids = np.concatenate(suppressed)
        is_forced_to_end = options.forced_eos and num_tokens == options.max_new_tokens - 1
        penalised_ids = np.unique(history) if options.repetition_penalty != 1.0 else _NO_IDS
        is_plain = not (suppressed_ids.size or is_forced_to_end or penalised_ids.size or self.delta_ids.size)
        if is_plain and allowed_ids is None:
            return None
        return LogitEdits(
            penalty_ids=penalised_ids,
            penalty=options.repetition_penalty,
            penalises_log_probs=self.penalises_log_probs,
            delta_ids=self.delta_ids,
            deltas=self.deltas,
            suppressed_ids=suppressed_ids,
            allowed_ids=allowed_ids,
            forced_id=self.eos_id if is_forced_to_end else None,
        )

    def _is_forbidden(self, tokens: np.ndarray) -> bool:
        """Return whether the text of `tokens` [n] may not be the whole answer."""
        if not self.forbidden_texts:
            return False
        assert self.detokenizer_factory is not None  # check_options saw to it
        return as_compared(answer_text(tokens, self.detokenizer_factory(), ())) in self.forbidden_texts


class EditPlanner:
    """Makes the plans of one search's requests; requests with the same outputs or grammar share its tree or states."""

    def __init__(
        self,
        config: T5Config,
        *,
        penalises_log_probs: bool,
        detokenizer_factory: DetokenizerFactory | None = None,
        constraint_factory: ConstraintFactory | None = None,
    ) -> None:
        self._config = config
        self._penalises_log_probs = penalises_log_probs
        self._detokenizer_factory = detokenizer_factory
        self._constraint_factory = constraint_factory
        # Both live as long as a plan that holds them: a busy server never comes to an end of its requests.
        self._constraints: weakref.WeakValueDictionary[Grammar, Constraint] = weakref.WeakValueDictionary()
        self._tries: weakref.WeakValueDictionary[int, Trie] = weakref.WeakValueDictionary()

    def plan(self, options: DecodingOptions, encoder_input_ids: np.ndarray) -> EditPlan | None:
        """Return the plan of a request, or None if its options never edit a logit."""
        if not _edits_anything(options):
            return None
        return EditPlan(
            options=options,
            eos_id=self._config.eos_id,
            start_id=self._config.decoder_start_id,
            encoder_input_ids=encoder_input_ids,
            penalises_log_probs=self._penalises_log_probs,
            trie=None if options.allowed_outputs is None else self._trie(options.allowed_outputs),
            constraint=None if options.grammar is None else self._constraint(options.grammar),
            forbidden_texts=frozenset(map(as_compared, options.forbidden_texts)),
            detokenizer_factory=self._detokenizer_factory,
            suppressed_ids=np.array(options.suppressed_ids, np.int32),
            delta_ids=np.array([token for token, _ in options.logit_bias], np.int32),
            deltas=np.array([delta for _, delta in options.logit_bias], np.float32),
        )

    def _constraint(self, grammar: Grammar) -> Constraint:
        assert self._constraint_factory is not None  # check_options saw to it
        constraint = self._constraints.get(grammar)
        if constraint is None:
            constraint = self._constraints[grammar] = self._constraint_factory(grammar)
        return constraint

    def _trie(self, outputs: Sequence[Sequence[int]]) -> Trie:
        # Speed: keyed by identity, since hashing 100,000 labels for each request would cost as much as the search. A
        # plan holds its options and so the outputs, as long as it holds the tree: no id is anybody else's meanwhile.
        trie = self._tries.get(id(outputs))
        if trie is None:
            trie = self._tries[id(outputs)] = Trie(outputs)
        return trie


def _edits_anything(options: DecodingOptions) -> bool:
    return bool(
        options.forced_prefix_ids
        or options.min_new_tokens
        or options.no_repeat_ngram_size
        or options.encoder_no_repeat_ngram_size
        or options.repetition_penalty != 1.0
        or options.suppressed_ids
        or options.logit_bias
        or options.allowed_outputs is not None
        or options.grammar is not None
        or options.forbidden_texts
        or options.forced_eos
    )
