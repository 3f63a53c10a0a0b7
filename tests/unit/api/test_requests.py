"""What the face refuses, what of a folder's defaults it follows, and that labels come back letter for letter."""

import collections
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t5kit import Model
from t5kit.api.arguments import check_folder_defaults, decoding_options, translate
from t5kit.errors import CheckpointError, ConfigError, EngineError, RequestError, TokenizerError
from t5kit.scheduling.memory import prompt_bytes
from t5kit.testing import TINY_CONFIGS
from t5kit.testing.folders import write_tiny_folder


class FoldingTokenizer:
    """A vocabulary that folds a line break into a space and cannot write braces, as T5's."""

    vocab_size, unk_id, eos_id, pad_id = 300, 2, 1, 0

    def encode(self, text: str, *, add_eos: bool = True) -> np.ndarray:
        ids = [2 if letter in "{}" else ord(letter.replace("\n", " ")) for letter in text]
        return np.array(ids + [1] * add_eos, np.int32)

    def encode_batch(self, texts: list[str], *, add_eos: bool = True) -> list[np.ndarray]:
        return [self.encode(text, add_eos=add_eos) for text in texts]

    def encode_targets(self, targets: list[str], prompts: list[str]) -> list[np.ndarray]:
        return self.encode_batch(targets)

    def decode(self, ids: Any) -> str:
        return "".join("⁇" if token == 2 else chr(token) for token in ids if token != 1)


TOKENIZER: Any = FoldingTokenizer()


def test_a_label_keeps_the_callers_spelling() -> None:
    asked = translate({"allowed_outputs": ["a\nb", "no"]}, {}, TOKENIZER)
    assert [asked.labels[ids] for ids in asked.options.allowed_outputs or ()] == ["a\nb", "no"]


@pytest.mark.parametrize("options", [{"allowed_outputs": ["{a}"]}, {"forced_prefix": "{"}])
def test_a_text_the_vocabulary_cannot_write_is_refused(options: Any) -> None:
    with pytest.raises(RequestError, match="cannot write"):
        decoding_options(options, {}, TOKENIZER)


def test_labels_of_equal_tokens_are_refused() -> None:
    with pytest.raises(RequestError, match="same tokens"):
        decoding_options({"allowed_outputs": ["a b", "a\nb"]}, {}, TOKENIZER)


def test_a_folders_words_are_followed() -> None:
    folder = {"min_length": 5, "forced_eos_token_id": 1, "forced_bos_token_id": 70, "max_length": 21}
    options = decoding_options({"forced_prefix": "A"}, folder, TOKENIZER)
    assert (options.min_new_tokens, options.max_new_tokens, options.forced_eos) == (4, 20, True)
    assert options.forced_prefix_ids == (70, 65)


@pytest.mark.parametrize(
    ("folder", "said", "expected"),
    [
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, {"top_k": 3}, {"num_beams": 1}),
        ({"do_sample": True, "temperature": 0.5}, {"num_beams": 4}, {"does_sample": False, "temperature": 1.0}),
        ({"do_sample": True, "temperature": 0.5}, {"do_sample": False}, {"temperature": 1.0}),
        ({"do_sample": False}, {"temperature": 0.5}, {"does_sample": True}),
        ({"min_new_tokens": 30}, {"max_new_tokens": 5}, {"min_new_tokens": 0, "max_new_tokens": 5}),
        ({"max_length": 9}, {"min_new_tokens": 30}, {"min_new_tokens": 30}),
        ({"num_beams": 4, "num_return_sequences": 4}, {"num_beams": 2}, {"num_return_sequences": 1}),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 1.0}, {"num_beams": 3}, {"num_beam_groups": 1}),
    ],
)
def test_what_the_user_says_wins(folder: Any, said: Any, expected: dict[str, object]) -> None:
    options = decoding_options(said, folder, TOKENIZER)
    assert {name: getattr(options, name) for name in expected} == expected


@pytest.mark.parametrize(
    "folder",
    [
        {"begin_suppress_tokens": [3]},
        {"eos_token_ids": [1, 5]},
        {"forced_eos_token_id": 7},
        {"temperature": 0.0},
        {"max_length": 1},
        {"num_return_sequences": 3},
    ],
)
def test_what_is_ignored_of_a_folder_is_said(folder: Any) -> None:
    with pytest.warns(UserWarning, match=r"generation_config\.json: ignored"):
        check_folder_defaults(folder, TOKENIZER, 300)


@pytest.mark.parametrize(
    "said", [{"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.9}, {"min_p": 0.1}, {"typical_p": 0.9}]
)
def test_a_word_about_samples_is_refused_where_none_are_drawn(said: Any) -> None:
    (word,) = said
    with pytest.raises(RequestError, match=rf"{word} = .* has no effect with do_sample = False"):
        decoding_options({"do_sample": False, **said}, {}, TOKENIZER)
    off: Any = {"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "typical_p": 1.0}
    assert not decoding_options({"do_sample": False, **off}, {}, TOKENIZER).does_sample


def test_defaults_that_cannot_be_followed_name_their_file(tiny_folder: Path, tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "m")
    (folder / "generation_config.json").write_text(json.dumps({"do_sample": True, "temperature": 0.0}))
    with pytest.raises(CheckpointError, match=r"generation_config\.json: temperature"):
        Model.from_pretrained(folder, engine="reference")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Model.from_pretrained(tiny_folder, engine="reference").close()


@pytest.mark.parametrize("texts", [None, 3, {"a": 1}, {"a"}, b"a"])
def test_what_is_no_list_of_texts_is_refused(model: Model, texts: Any) -> None:
    for call in (model.generate, model.try_generate, model.embed, lambda given: model.score(given, given)):
        with pytest.raises(RequestError, match="expected a list of texts"):
            call(texts)
    assert len(model.generate((text for text in "ab"), max_new_tokens=2)) == 2  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "options",
    [
        {"do_sample": "no"},
        {"forced_eos": 1},
        {"early_stopping": 1},
        {"logit_bias": {5: 10**400}},
        {"num_beams": 257},
        {"stop_strings": b"a"},
        {"seed": True},
    ],
)
def test_check_options_refuses_a_wrong_type(model: Model, options: Any) -> None:
    with pytest.raises(RequestError):
        model.check_options(**options)


def test_numbers_of_numpy_are_numbers(model: Model) -> None:
    model.check_options(
        max_new_tokens=np.int64(5),  # type: ignore[arg-type]
        temperature=np.float32(0.5),  # type: ignore[arg-type]
        suppress_tokens=np.array([4, 5]),  # type: ignore[arg-type]
        logit_bias={np.int64(3): np.float32(1)},  # type: ignore[dict-item]
    )


def test_results_that_are_not_finite_are_errors(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    nan = np.full((2, model.config.d_model), np.nan, np.float32)
    monkeypatch.setattr(model.runtime, "score", lambda *_: [nan[0]])
    monkeypatch.setattr(model.runtime, "encoder_states", lambda *_: [nan])
    with pytest.raises(EngineError, match="NaN"):
        model.score("a", "b")
    with pytest.raises(EngineError, match="NaN"):
        model.embed("a")


def test_occurrences_count_over_calls_that_share_repeats(model: Model) -> None:
    options: Any = {"temperature": 1.5, "seed": 3, "max_new_tokens": 8}
    whole = model.generate(["a", "a"], **options)
    repeats: collections.Counter[bytes] = collections.Counter()
    parts: Any = [model.try_generate(["a"], repeats=repeats, **options) for _ in range(2)]
    assert [part[0][0].text for part in parts] == whole


def test_a_tokenizer_with_another_end_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"eos_token_id": 5}))
    with pytest.raises(TokenizerError, match="eos_id is 1 in the tokenizer and 5"):
        Model.from_pretrained(folder, engine="reference")


def test_a_revision_of_a_folder_is_refused(tiny_folder: Path) -> None:
    with pytest.raises(RequestError, match="Hub ids"):
        Model.from_pretrained(tiny_folder, revision="main")


def test_a_config_flag_must_be_a_bool() -> None:
    with pytest.raises(ConfigError, match="is_tied"):
        type(TINY_CONFIGS["t5_v1_1"])(is_tied=1)  # type: ignore[arg-type]


@pytest.mark.parametrize("how", [False, True, 4, "auto"])
def test_drafts_change_no_answer(tmp_path: Path, how: Any) -> None:
    with Model.from_pretrained(write_tiny_folder(tmp_path / "m"), engine="reference") as model:
        texts = ["abcabcabc", "", "aaaa"]
        plain = model.generate(texts, max_new_tokens=30)
        assert model.generate(texts, max_new_tokens=30, speculate=how) == plain


def test_drafts_are_looked_up_by_default_on_the_native_engine_only(tmp_path: Path) -> None:
    pytest.importorskip("t5kit._native")
    folder = write_tiny_folder(tmp_path / "m")
    for engine, expected in (("native", "auto"), ("reference", 0)):
        with Model.from_pretrained(folder, engine=engine) as model:  # type: ignore[arg-type]
            assert model._asked({}).options.speculate == expected
            assert model._asked({"speculate": False}).options.speculate == 0


def test_caches_are_bounded_and_the_error_names_the_option(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "m")
    with Model.from_pretrained(folder, engine="reference", max_cache_bytes=100_000) as model:
        assert len(model.generate(["a"] * 20, max_new_tokens=4)) == 20
        with pytest.raises(RequestError, match="max_cache_bytes = 100,000"):
            model.generate("a", max_new_tokens=10**6)
    for wrong in (0, -5, 1.5):
        with pytest.raises(RequestError, match="max_cache_bytes"):
            Model.from_pretrained(folder, engine="reference", max_cache_bytes=wrong)  # type: ignore[arg-type]


def test_scores_classes_and_ranks_keep_within_the_bound_of_caches(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "m")
    texts, words = [f"text {number} " * (1 + number % 7) for number in range(30)], ["a", "bb", "ccc"]

    def asked(model: Model) -> list[Any]:
        return [
            model.score(texts, [word * 3 for word in words] * 10),
            model.classify(texts, words),
            model.rank("a query", texts, method="likelihood").scores,
            model.evaluate(list(zip(texts, words * 10, strict=True)), ["perplexity"]).scores,
        ]

    with Model.from_pretrained(folder, engine="native", threads=1) as free:
        expected = asked(free)
    config = free.folder.config
    limit = prompt_bytes(config, max(len(free.tokenizer.encode(text)) for text in texts) + 64) + prompt_bytes(
        config, 32
    )
    with Model.from_pretrained(folder, engine="native", threads=1, max_cache_bytes=limit) as model:
        most = 0
        encode, score = model.runtime.encode, model.runtime.score

        def watched(call: Any) -> Any:
            def run(*arguments: Any) -> Any:
                nonlocal most
                result = call(*arguments)
                most = max(most, model.runtime.cache_bytes)  # type: ignore[attr-defined]
                return result

            return run

        model.runtime.encode, model.runtime.score = watched(encode), watched(score)  # type: ignore[method-assign]
        assert asked(model) == expected
        assert 0 < most <= limit
    with Model.from_pretrained(folder, engine="native", threads=1, max_cache_bytes=1000) as model:
        with pytest.raises(RequestError, match="more than max_cache_bytes = 1,000"):
            model.score(texts[:1], ["a"])
        with pytest.raises(RequestError, match="more than max_cache_bytes = 1,000"):
            model.classify(texts, words)
