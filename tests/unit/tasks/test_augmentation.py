"""Inputs changed a little while their targets stay."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t5kit.errors import ConfigError, DataError, RequestError
from t5kit.metrics.error_rates import edit_distance
from t5kit.sources import table_of
from t5kit.tasks import PairExamples, TaskForm, Template
from t5kit.tasks.augmentation import Augmenter, noisy, paraphrased, parse_synonyms, read_synonyms
from t5kit.tasks.config import AugmentationConfig, TaskConfig
from t5kit.tasks.configured import DEV, TRAIN, open_task
from t5kit.text import ByteTokenizer


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.Generator(np.random.Philox(seed))


def test_words_of_a_line_stand_for_each_other_and_keep_their_case() -> None:
    synonyms = parse_synonyms("great, superb # a comment\nfilm\tmovie\n\n# nothing\n", "list")
    assert synonyms == {"great": ("superb",), "superb": ("great",), "film": ("movie",), "movie": ("film",)}
    config = AugmentationConfig(synonyms="list", synonym_rate=1.0, probability=1.0, kept_prefix="film: ")
    augment = Augmenter(config, synonyms)
    assert augment("film: A Great FILM, greatly liked.", rng()) == "film: A Superb MOVIE, greatly liked."
    assert augment("a great film", rng()) == "a great film"  # not one of the run's prompts


@pytest.mark.parametrize(
    ("words", "text", "changed"),
    [
        ("fine film, good picture", "A fine film, Fine  Film!", "A good picture, Good picture!"),
        ("fine film, good picture", "FINE FILM of fine films", "GOOD PICTURE of fine films"),
        ("fine, dull\nfine film, good picture", "fine film, fine day", "good picture, dull day"),
        ("fine, dull\nfine film noir, Noir", "fine film by night", "dull film by night"),
        ("NYC, New York", "nyc and Nyc", "New York and New York"),
        ("अच्छा, बढ़िया", "अच्छा काम, अच्छाई", "बढ़िया काम, अच्छाई"),
        ("cafe\u0301, bar", "a cafe\u0301, a cafe", "a bar, a cafe"),
        ("cafe, bar", "a cafe\u0301, a cafe", "a cafe\u0301, a bar"),
        ("می\u200cخواهم, خواستم", "من می\u200cخواهم", "من خواستم"),
        ("c++, rust", "c++ is not c++11 or ac++", "rust is not c++11 or ac++"),
        ("can, may\nknown, famous", "can't, can; well-known, known_1", "can't, may; well-known, known_1"),
    ],
)
def test_phrases_and_words_of_any_script_are_replaced_where_they_stand_whole(
    words: str, text: str, changed: str
) -> None:
    config = AugmentationConfig(synonyms="list", synonym_rate=1.0, probability=1.0)
    assert Augmenter(config, parse_synonyms(words, "list"))(text, rng()) == changed


def test_words_are_drawn_one_after_another_from_the_left() -> None:
    drawn = Augmenter(
        AugmentationConfig(synonyms="list", synonym_rate=0.5, probability=1.0),
        parse_synonyms("great, superb, fine, grand\nfilm, movie, picture", "list"),
    )
    text = "a great film, a great, great film; Film: great"
    assert drawn(text, rng(3)) == drawn(text, rng(3))
    assert [drawn(text, rng(seed)) for seed in range(3)] == [
        "a fine movie, a great, fine picture; Movie: great",
        "a superb film, a superb, superb movie; Film: great",
        "a great film, a great, fine picture; Film: fine",
    ]


def test_noise_changes_about_as_many_letters_as_it_says_and_nothing_else() -> None:
    text = "the quick brown fox jumps over the lazy dog, 10 times! " * 40
    changed = noisy(text, 0.1, rng())
    assert noisy(text, 0.0, rng()) == text and noisy(text, 0.1, rng()) == changed
    words = list(zip(text.split(), changed.split(), strict=True))
    num_edits = sum(edit_distance(old, new) for old, new in words)
    assert 0.07 < num_edits / sum(letter.isalnum() for letter in text) < 0.17  # a swap is two edits
    assert [c for c in changed if not c.isalnum()] == [c for c in text if not c.isalnum()]


@pytest.mark.parametrize("word", ["it", "noon", "pronunciation", "the end", "x2"])
def test_what_is_mistyped_differs_however_short_it_is(word: str) -> None:
    typed = [noisy(word, 0.05, rng(seed)) for seed in range(300)]
    assert word not in typed and len(set(typed)) >= len(word)
    assert noisy("...", 0.5, rng()) == "..." and noisy("", 0.5, rng()) == ""


def test_an_input_is_never_emptied() -> None:
    config = AugmentationConfig(noise_rate=0.9, probability=1.0, kept_prefix="p: ")
    augment = Augmenter(config, {})
    assert all(augment("p: a", rng(seed)).removeprefix("p: ").strip() for seed in range(50))


def test_what_is_kept_at_the_end_is_not_changed() -> None:
    kept = dict(kept_prefix="film: ", kept_suffix=" a film?")
    words = AugmentationConfig(synonyms="list", synonym_rate=1.0, probability=1.0, **kept)  # type: ignore[arg-type]
    augment = Augmenter(words, {"film": ("movie",)})
    assert augment("film: this film, a film?", rng()) == "film: this movie, a film?"
    assert augment("film: this film", rng()) == "film: this film"  # not one of the run's prompts
    noise = AugmentationConfig(noise_rate=0.9, probability=1.0, kept_prefix="aba", kept_suffix="aba")
    changed = [Augmenter(noise, {})("aba some words aba", rng(seed)) for seed in range(20)]
    assert all(text.startswith("aba") and text.endswith("aba") for text in changed) and len(set(changed)) > 10
    assert Augmenter(noise, {})("ababa", rng()) == "ababa"  # of which one of the two is no whole one


def test_only_train_inputs_change_and_the_generator_decides_how(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("".join(f"a long enough sentence {n}\tyes\n" for n in range(30)), encoding="utf-8")
    config = TaskConfig(train=("a.tsv",), dev=("a.tsv",), augmentation=AugmentationConfig(noise_rate=0.3))
    task = open_task("t", config, tmp_path, seed=0)
    lengths = dict(encoder_length=64, target_length=8)
    tokenizer = ByteTokenizer()

    def texts(split: str, seed: int) -> list[str]:
        block = task.examples(split, tokenizer, **lengths).block(range(30), rng=rng(seed))
        assert {tokenizer.decode(example.target_ids) for example in block.examples} == {"yes"}
        return [tokenizer.decode(example.encoder_ids) for example in block.examples]

    plain = texts(DEV, 1)
    changed = texts(TRAIN, 1)
    assert changed == texts(TRAIN, 1) != texts(TRAIN, 2)
    assert 5 <= sum(a != b for a, b in zip(plain, changed, strict=True)) <= 25  # half of them
    assert plain == [f"a long enough sentence {n}" for n in range(30)]


def test_without_augmentation_blocks_are_what_they_were() -> None:
    examples = PairExamples(TaskForm((Template("{a}", "{b}"),)), table_of([{"a": "x", "b": "y"}]), ByteTokenizer())
    (example,) = examples.block([0], rng=rng()).examples
    assert ByteTokenizer().decode(example.encoder_ids) == "x"


def test_a_callable_s_texts_come_behind_the_kept_prefix() -> None:
    def swap(texts: list[str]) -> list[str]:
        return [{"good film": "fine movie", "bad": "bad ", "gone": ""}[text] for text in texts]

    assert paraphrased(["r: good film", "r: bad", "r: gone"], swap, kept_prefix="r: ") == ["r: fine movie", None, None]
    asked = ["r: good film ok?", "r: bad ok?"]
    assert paraphrased(asked, swap, kept_prefix="r: ", kept_suffix=" ok?") == ["r: fine movie ok?", None]
    wrong: list[Any] = [lambda texts: texts[:1], lambda texts: [1] * len(texts), lambda texts: None]
    for callable in wrong:
        with pytest.raises(RequestError, match="the paraphrasing callable got a list of 2 texts and gave"):
            paraphrased(["a", "b"], callable)


def test_what_would_change_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="changes nothing"):
        AugmentationConfig()
    with pytest.raises(ConfigError, match=r"noise_rate = 1.0 must be from 0 to below 1"):
        AugmentationConfig(noise_rate=1.0)
    (tmp_path / "words.txt").write_text("alone\n")
    with pytest.raises(DataError, match="no line has two words"):
        read_synonyms(tmp_path / "words.txt")
    with pytest.raises(DataError, match=r"cannot be read \(No such file or directory\)"):
        read_synonyms(tmp_path / "nowhere.txt")
