"""From options and history to edits."""

import gc
import weakref

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from t5kit.config import T5Config
from t5kit.decoding import DecodingOptions, Grammar
from t5kit.decoding.processors import EditPlan, EditPlanner, as_compared, completions, repeated_ngram_ids
from t5kit.testing import TINY_CONFIGS

CONFIG: T5Config = TINY_CONFIGS["t5_v1_1"]
PROMPT = np.array([7, 8, 9, 7, 5, 1], np.int32)
IDS = st.lists(st.integers(0, 3), max_size=12)


def plan(options: DecodingOptions) -> EditPlan:
    made = EditPlanner(CONFIG, penalises_log_probs=False).plan(options, PROMPT)
    assert made is not None
    return made


def tokens(*ids: int) -> np.ndarray:
    return np.array(ids, np.int32)


@given(history=IDS, size=st.integers(1, 4))
def test_no_ngram_can_stand_twice(history: list[int], size: int) -> None:
    ngrams = [tuple(history[i : i + size]) for i in range(len(history) - size + 1)]
    ending = tuple(history[len(history) - size + 1 :])
    expected = sorted({gram[-1] for gram in ngrams if gram[:-1] == ending}) if len(history) >= size - 1 else []
    assert repeated_ngram_ids(np.array(history, np.int32), size).tolist() == expected


@given(text=IDS, history=IDS, size=st.integers(1, 4))
def test_no_ngram_can_be_copied(text: list[int], history: list[int], size: int) -> None:
    banned = completions(np.array(text, np.int32), np.array(history, np.int32), size).tolist()
    ngrams = {tuple(text[i : i + size]) for i in range(len(text) - size + 1)}
    ending = history[len(history) - size + 1 :]
    for token in range(4):
        completes = len(history) >= size - 1 and (*ending, token) in ngrams
        assert (token in banned) == completes


def test_options_that_never_edit_make_no_plan() -> None:
    options = DecodingOptions(num_beams=3, stop_strings=("x",), length_penalty=2.0)
    assert EditPlanner(CONFIG, penalises_log_probs=True).plan(options, PROMPT) is None


def test_eos_is_suppressed_until_min_new_tokens_stand() -> None:
    made = plan(DecodingOptions(min_new_tokens=2))
    for standing in (tokens(), tokens(5)):
        edits = made.edits(standing)
        assert edits is not None
        assert edits.suppressed_ids.tolist() == [1]
    assert made.edits(tokens(5, 6)) is None


class SpellingDetokenizer:
    """Two ids for each of "ab", so that a text can be written in several ways; id 9 writes nothing."""

    def push(self, token_id: int) -> str:
        return {5: "a", 6: "b", 7: "ab", 8: " a"}.get(token_id, "")

    def finish(self) -> str:
        return ""


def test_eos_may_not_follow_a_forbidden_text_however_it_is_written() -> None:
    options = DecodingOptions(forbidden_texts=("ab ", "b"))
    made = EditPlanner(CONFIG, penalises_log_probs=False, detokenizer_factory=SpellingDetokenizer).plan(options, PROMPT)
    assert made is not None
    assert as_compared(" \ufb01sh\u3000 a\tb ") == "fish a b"
    for standing in (tokens(5, 6), tokens(7), tokens(8, 6), tokens(9, 5, 9, 6), tokens(6)):
        edits = made.edits(standing)
        assert edits is not None
        assert edits.suppressed_ids.tolist() == [1]
    for standing in (tokens(), tokens(5), tokens(7, 5), tokens(6, 6)):
        assert made.edits(standing) is None


def test_an_empty_answer_can_be_forbidden() -> None:
    options = DecodingOptions(forbidden_texts=("",))
    made = EditPlanner(CONFIG, penalises_log_probs=True, detokenizer_factory=SpellingDetokenizer).plan(options, PROMPT)
    assert made is not None
    assert made.edits(tokens()) is not None
    assert made.edits(tokens(9)) is not None
    assert made.edits(tokens(5)) is None


def test_history_begins_with_the_start_token() -> None:
    edits = plan(DecodingOptions(repetition_penalty=1.5)).edits(tokens(9, 9, 4))
    assert edits is not None
    assert edits.penalty_ids.tolist() == [0, 4, 9]
    edits = plan(DecodingOptions(no_repeat_ngram_size=2)).edits(tokens(9, 4, 0))
    assert edits is not None
    assert edits.suppressed_ids.tolist() == [9]  # (0, 9) stands at the very beginning


def test_prompt_ngrams_are_those_of_the_encoder_ids() -> None:
    edits = plan(DecodingOptions(encoder_no_repeat_ngram_size=2)).edits(tokens(3, 7))
    assert edits is not None
    assert edits.suppressed_ids.tolist() == [5, 8]


def test_the_last_token_is_forced_to_eos_only_if_asked_for() -> None:
    made = plan(DecodingOptions(max_new_tokens=3, forced_eos=True))
    assert made.edits(tokens(5)) is None
    edits = made.edits(tokens(5, 6))
    assert edits is not None
    assert edits.forced_id == 1
    assert plan(DecodingOptions(max_new_tokens=3, suppressed_ids=(9,))).edits(tokens(5, 6)).forced_id is None  # type: ignore[union-attr]


def test_prefix_ids_are_forced_and_nothing_else_is_edited_there() -> None:
    made = plan(DecodingOptions(forced_prefix_ids=(5, 6), min_new_tokens=4, repetition_penalty=2.0))
    edits = made.edits(tokens(5))
    assert edits is not None
    assert edits.forced_id == 6
    assert not edits.suppressed_ids.size
    assert not edits.penalty_ids.size


def test_rules_add_up() -> None:
    options = DecodingOptions(
        suppressed_ids=(20, 21),
        logit_bias=((30, 1.5), (31, -2.0)),
        min_new_tokens=5,
        no_repeat_ngram_size=1,
        allowed_outputs=((9, 8, 1), (9, 7, 1)),
    )
    edits = plan(options).edits(tokens(9))
    assert edits is not None
    assert edits.suppressed_ids.tolist() == [20, 21, 1, 0, 9]
    assert edits.delta_ids.tolist() == [30, 31]
    assert edits.deltas.tolist() == [1.5, -2.0]
    assert edits.allowed_ids is not None
    assert edits.allowed_ids.tolist() == [7, 8]


def test_requests_with_one_set_of_outputs_share_its_tree() -> None:
    planner = EditPlanner(CONFIG, penalises_log_probs=False)
    options = DecodingOptions(allowed_outputs=((5, 1), (6, 1)))
    first, second = planner.plan(options, PROMPT), planner.plan(options, PROMPT)
    assert first is not None
    assert second is not None
    assert first.trie is second.trie


class AnyText:
    """A constraint that permits everything."""

    def allowed(self, tokens: object) -> np.ndarray:
        return np.ones(CONFIG.vocab_size, bool)


def test_trees_and_constraints_live_as_long_as_a_plan_that_holds_them() -> None:
    made = []

    def factory(grammar: Grammar) -> AnyText:
        made.append(grammar)
        return AnyText()

    planner = EditPlanner(CONFIG, penalises_log_probs=False, constraint_factory=factory)
    tree, grammar = DecodingOptions(allowed_outputs=((5, 1),)), DecodingOptions(grammar=Grammar("regex", "a"))
    first, second = planner.plan(grammar, PROMPT), planner.plan(grammar, PROMPT)
    assert first is not None and second is not None and first.constraint is second.constraint and len(made) == 1
    kept = [weakref.ref(first.constraint), weakref.ref(planner.plan(tree, PROMPT).trie)]  # type: ignore[union-attr, arg-type]
    del first
    assert kept[0]() is not None
    del second
    gc.collect()
    assert [each() for each in kept] == [None, None]  # while the planner, and so its search, goes on
    assert planner.plan(grammar, PROMPT) is not None and len(made) == 2
