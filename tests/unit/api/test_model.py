"""The face: what goes in and what comes out of t5kit.Model."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from t5kit import Model
from t5kit.api import Completion
from t5kit.checkpoint import write_folder
from t5kit.errors import ModelNotFoundError, RequestError, TokenizerError
from t5kit.testing import TINY_CONFIGS
from t5kit.testing.answers import tensors_that_end
from t5kit.testing.folders import write_tiny_folder
from t5kit.text import ByteTokenizer

TEXTS = ["a", "the quick brown fox", "", "ünïcödé 🙂", "the quick brown fox", "x" * 70]


def test_a_text_gives_a_text_and_a_list_a_list_in_its_order(model: Model) -> None:
    together = model.generate(TEXTS, max_new_tokens=12)
    assert isinstance(together, list)
    assert together == [model.generate(text, max_new_tokens=12) for text in TEXTS]
    assert len(set(together)) > 1


def test_no_texts_give_no_answers(model: Model) -> None:
    assert model.generate([]) == []
    assert model.score([], []) == []
    assert model.embed([]).shape == (0, model.config.d_model)


def test_details_carry_the_ids_and_scores_of_the_text(model: Model) -> None:
    completion = model.generate("hello", max_new_tokens=9, details=True)
    assert isinstance(completion, Completion)
    assert completion.text == model.generate("hello", max_new_tokens=9)
    assert completion.text == model.tokenizer.decode(completion.token_ids)
    assert len(completion.token_scores) == len(completion.token_ids) <= 9
    assert completion.score == pytest.approx(sum(completion.token_scores), abs=1e-4)
    assert (completion.token_ids[-1] == model.config.eos_id) == (completion.finish_reason == "eos")
    assert completion.timings.total_s >= completion.timings.first_token_s >= 0


def test_n_best_gives_a_list_for_each_text_best_first(model: Model) -> None:
    answers = model.generate(TEXTS[:2], num_beams=4, num_return_sequences=3, max_new_tokens=8, details=True)
    assert [len(best) for best in answers] == [3, 3]
    for best in answers:
        scores = [completion.score for completion in best]
        assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize(
    "options",
    [{}, {"temperature": 0.9, "seed": 3}, {"top_p": 0.8, "seed": 4}, {"top_k": 5, "seed": 5}, {"num_beams": 3}],
    ids=["greedy", "temperature", "top_p", "top_k", "beams"],
)
def test_stream_joined_equals_generate(model: Model, options: dict[str, float]) -> None:
    for text in TEXTS:
        pieces = list(model.stream(text, max_new_tokens=20, **options))  # type: ignore[arg-type]
        assert "".join(pieces) == model.generate(text, max_new_tokens=20, **options)  # type: ignore[call-overload]


def test_a_stop_string_cuts_the_text_and_never_leaks_into_a_stream(model: Model) -> None:
    whole = model.generate("the quick brown fox", max_new_tokens=24)
    stop = whole[len(whole) // 2 : len(whole) // 2 + 2]
    assert stop
    cut = model.generate("the quick brown fox", max_new_tokens=24, stop_strings=stop, details=True)
    assert cut.text == whole[: whole.index(stop)]
    assert cut.finish_reason == "stop_string"
    assert "".join(model.stream("the quick brown fox", max_new_tokens=24, stop_strings=[stop])) == cut.text


def test_score_is_the_answers_own_score(model: Model) -> None:
    completions = model.generate(TEXTS, allowed_outputs=["yes", "no", "perhaps, but not today"], details=True)
    assert all(completion.finish_reason == "eos" for completion in completions)
    scores = model.score(TEXTS, [completion.text for completion in completions])
    np.testing.assert_allclose(scores, [completion.score for completion in completions], atol=1e-3)


def test_score_takes_one_pair_or_lists_of_equal_length(model: Model) -> None:
    one = model.score("a", "b")
    assert isinstance(one, float) and one < 0
    assert model.score(["a", "a"], ["b", "c"])[0] == pytest.approx(one, abs=1e-5)
    with pytest.raises(RequestError, match="2 sources and 1 targets"):
        model.score(["a", "b"], ["c"])
    with pytest.raises(RequestError, match="one of each"):
        model.score("a", ["c"])  # type: ignore[call-overload]


def test_embed_pools_the_encoder_states(model: Model) -> None:
    vectors = model.embed(TEXTS)
    assert vectors.shape == (len(TEXTS), model.config.d_model) and vectors.dtype == np.float32
    np.testing.assert_allclose(vectors[1], model.embed(TEXTS[1]), atol=1e-5)
    (states,) = model.runtime.encoder_states([model.tokenizer.encode(TEXTS[1])])
    for pooling, expected in (
        ("mean", states.mean(0)),
        ("max", states.max(0)),
        ("first", states[0]),
        ("last", states[-1]),
    ):
        np.testing.assert_allclose(model.embed(TEXTS[1], pooling=pooling), expected, atol=1e-5)  # type: ignore[arg-type]
    np.testing.assert_allclose(np.linalg.norm(model.embed(TEXTS, normalize=True), axis=-1), 1, atol=1e-5)
    with pytest.raises(RequestError, match="pooling"):
        model.embed("a", pooling="middle")  # type: ignore[arg-type]


def test_a_sample_depends_on_the_seed_and_the_text_not_on_the_company(model: Model) -> None:
    def sample(texts: list[str], seed: int) -> list[str]:
        return model.generate(texts, temperature=1.5, seed=seed, max_new_tokens=10)

    together = sample(TEXTS, 11)
    assert sample(TEXTS[3:4], 11) == together[3:4]
    assert sample(TEXTS[::-1], 11)[2] == together[3]
    assert sample(TEXTS, 12) != together
    assert together[1] != together[4], "the same text twice in one call gives two samples"
    assert together[1] == sample(["the quick brown fox"], 11)[0]


def test_samples_without_a_seed_differ_from_call_to_call(model: Model) -> None:
    assert len({model.generate("abc", temperature=2.0, max_new_tokens=12) for _ in range(4)}) > 1


def test_a_long_text_is_refused_or_cut_never_cut_in_silence(tiny_folder: Path) -> None:
    with Model.from_pretrained(tiny_folder, engine="reference", max_input_tokens=8) as model:
        with pytest.raises(RequestError, match=r"9 tokens.*max_input_tokens = 8.*truncate"):
            model.generate("12345678", max_new_tokens=3)
        assert model.generate("1234567", max_new_tokens=3) == model.generate(
            "12345678", truncate=True, max_new_tokens=3
        )


def test_one_bad_text_leaves_the_others_answered(tiny_folder: Path) -> None:
    with Model.from_pretrained(tiny_folder, engine="reference", max_input_tokens=8) as model:
        results = model.try_generate(["ok", "far too long a text", "fine"], max_new_tokens=4)
        assert isinstance(results[1], RequestError)
        assert [results[0][0].text, results[2][0].text] == model.generate(["ok", "fine"], max_new_tokens=4)  # type: ignore[index]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_new_token": 5}, "max_new_tokens"),
        ({"num_beams": 0}, "num_beams = 0"),
        ({"temperature": -1.0}, "temperature = -1.0"),
        ({"top_p": 1.5}, "top_p = 1.5"),
        ({"max_new_tokens": 5, "max_length": 6}, "the same thing"),
        ({"num_beams": 4, "temperature": 0.5}, "exclude each other"),
        ({"num_return_sequences": 2}, "as many beams"),
        ({"stop_strings": [""]}, "empty"),
        ({"stop_strings": 3}, "stop_strings must be a list of texts"),
        ({"suppress_tokens": [10**6]}, "suppress_tokens holds 1000000"),
        ({"logit_bias": [1]}, "logit_bias must map"),
        ({"early_stopping": "maybe"}, "early_stopping"),
        ({"seed": -1}, "seed = -1"),
    ],
)
def test_a_wrong_option_is_named_with_what_is_allowed(model: Model, options: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        model.generate("a", **options)  # type: ignore[call-overload]


def test_max_length_counts_as_hugging_face_does(model: Model) -> None:
    assert model.generate("hello", max_length=8) == model.generate("hello", max_new_tokens=7)


def test_an_answer_is_one_of_the_allowed_outputs(model: Model) -> None:
    labels = ["positive", "negative", "neutral"]
    assert all(answer in labels for answer in model.generate(TEXTS, allowed_outputs=labels))
    best = model.generate("hello", allowed_outputs=labels, num_beams=3)
    assert best == max(labels, key=lambda label: model.score("hello", label) / (len(label) + 1))


def test_a_forbidden_output_gives_way_to_the_next_best(tmp_path: Path) -> None:
    config = TINY_CONFIGS["byt5"]
    tensors = tensors_that_end(config, seed=2, eos_gain=5.0)
    write_folder(tmp_path / "ends", config, tensors, generation={}, save_tokenizer=ByteTokenizer().save)
    words: dict[str, Any] = {"num_beams": 4, "max_new_tokens": 6, "details": True, "length_penalty": 0.0}
    num_ended = 0
    with Model.from_pretrained(tmp_path / "ends", weights="float32") as model:
        for text in TEXTS:
            best, *others = model.generate(text, num_return_sequences=4, **words)
            found = model.generate(text, forbidden_outputs=[f" {best.text}"], **words)
            if best.finish_reason != "eos":
                assert found == dataclasses.replace(best, timings=found.timings)
                continue
            num_ended += 1
            assert found.finish_reason == "length" or found.text.split() != best.text.split()
            next_best = next(each for each in others if each.text.split() != best.text.split())
            assert found.score >= next_best.score - 1e-4  # beams that were spent on the best are free for others
    assert num_ended >= 2


def test_a_copy_of_the_prompt_is_forbidden_prompt_by_prompt(model: Model) -> None:
    prompts = ["say: yes", "say: no", "no", "say: no: yes"]
    labels = ["yes", "no", "no: yes", "say: no: yes"]
    ranked = {prompt: sorted(labels, key=lambda label: -model.score(prompt, label)) for prompt in prompts}
    words: dict[str, Any] = {"allowed_outputs": labels, "num_beams": 8, "length_penalty": 0.0}
    for prompt, found in zip(prompts, model.generate(prompts, forbid_copy=True, **words), strict=True):
        copies = {prompt, prompt.split(": ", 1)[-1]}
        assert found == next(label for label in ranked[prompt] if label not in copies)


@pytest.mark.parametrize("word", [{"forbidden_outputs": ["no"]}, {"forbid_copy": True}])
@pytest.mark.parametrize("other", [{"regex": "yes|no"}, {"json_schema": {"type": "string"}}, {"forced_eos": True}])
def test_what_can_leave_no_end_is_refused(model: Model, word: dict[str, Any], other: dict[str, Any]) -> None:
    with pytest.raises(RequestError, match=f"{next(iter(word))} and {next(iter(other))} can leave no way"):
        model.generate("say: no", **word, **other)


def test_forbidding_all_that_is_allowed_says_so(model: Model) -> None:
    with pytest.raises(RequestError, match="allowed_outputs, forbidden_outputs"):
        model.generate("say: yes", allowed_outputs=["yes"], forbid_copy=True)


def test_a_forced_prefix_begins_the_answer(model: Model) -> None:
    assert model.generate("hello", forced_prefix="Dear ", max_new_tokens=10).startswith("Dear ")


def test_what_is_saved_loads_and_answers_the_same(model: Model, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path / "copy")
    with Model.from_pretrained(tmp_path / "copy", engine="reference") as copy:
        assert copy.generate(TEXTS, max_new_tokens=10) == model.generate(TEXTS, max_new_tokens=10)
    model.save_pretrained(tmp_path / "half", dtype="bfloat16")
    with Model.from_pretrained(tmp_path / "half", engine="reference") as half:
        assert half.folder.dtype == "bfloat16"


def test_an_unknown_model_is_one_clear_sentence(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match="nowhere"):
        Model.from_pretrained(tmp_path / "nowhere")


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="another model"):
        Model.from_pretrained(write_tiny_folder(tmp_path / "m", config=TINY_CONFIGS["t5_v1_1"]), engine="reference")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine": "fast"}, "engine"),
        ({"weights": "int3"}, "weights"),
        ({"threads": 0}, "threads"),
        ({"max_input_tokens": 0}, "max_input"),
    ],
)
def test_a_wrong_way_of_loading_is_named(tiny_folder: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        Model.from_pretrained(tiny_folder, **arguments)  # type: ignore[arg-type]


def test_a_stream_given_up_leaves_nothing_open(model: Model) -> None:
    stream = model.stream("hello", max_new_tokens=30)
    next(stream)
    stream.close()
    assert not model.runtime._slots and not model.runtime._prompts  # type: ignore[attr-defined]
