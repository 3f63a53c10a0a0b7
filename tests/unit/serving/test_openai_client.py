"""OpenAI's own client, unchanged, against this server."""

from collections.abc import Iterator

import numpy as np
import openai
import pytest

import t5kit
from t5kit.testing.server_process import ServerProcess


@pytest.fixture(scope="module")
def client(server: ServerProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0) as made:
        yield made


def test_completions_are_the_models_answers(client: openai.OpenAI, model: t5kit.Model) -> None:
    reply = client.completions.create(model="tiny", prompt=["one", "two"], max_tokens=9)
    assert [choice.text for choice in reply.choices] == model.generate(["one", "two"], max_new_tokens=9)
    assert [choice.finish_reason for choice in reply.choices] == ["length", "length"]
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (8, 18, 26)


def test_a_streamed_completion_joins_to_the_answer(client: openai.OpenAI, model: t5kit.Model) -> None:
    chunks = list(
        client.completions.create(
            model="tiny", prompt="one", max_tokens=12, stream=True, stream_options={"include_usage": True}
        )
    )
    text = "".join(choice.text for chunk in chunks for choice in chunk.choices)
    assert text == model.generate("one", max_new_tokens=12)
    assert [choice.finish_reason for chunk in chunks for choice in chunk.choices][-1] == "length"
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 12


def test_samples_are_several_and_repeatable(client: openai.OpenAI) -> None:
    def texts(**more: object) -> list[str]:
        reply = client.completions.create(model="tiny", prompt="one", max_tokens=9, n=3, seed=5, **more)  # type: ignore[call-overload]
        return [choice.text for choice in reply.choices]

    assert texts() == texts() and len(set(texts(temperature=2.0))) > 1
    streamed: dict[int, str] = {0: "", 1: "", 2: ""}
    for chunk in client.completions.create(model="tiny", prompt="one", max_tokens=9, n=3, seed=5, stream=True):
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert list(streamed.values()) == texts()


def test_answers_without_randomness_are_equal(client: openai.OpenAI, model: t5kit.Model) -> None:
    expected = model.generate(["one", "two"], max_new_tokens=9)
    asked = {"model": "tiny", "prompt": ["one", "two"], "max_tokens": 9, "n": 2, "temperature": 0}
    reply = client.completions.create(**asked, logprobs=1)  # type: ignore[call-overload]
    assert [choice.text for choice in reply.choices] == [expected[0]] * 2 + [expected[1]] * 2
    assert reply.choices[0].logprobs == reply.choices[1].logprobs and reply.usage.completion_tokens == 36
    streamed = [""] * 4
    for chunk in client.completions.create(**asked, stream=True):  # type: ignore[call-overload]
        for choice in chunk.choices:
            streamed[choice.index] += choice.text
    assert streamed == [choice.text for choice in reply.choices]
    beams = client.completions.create(model="tiny", prompt="one", max_tokens=9, n=2, best_of=4, temperature=0)
    assert [choice.text for choice in beams.choices] == model.generate(
        "one", max_new_tokens=9, num_beams=4, num_return_sequences=2
    )


def test_the_best_of_beams_and_our_own_words_work(client: openai.OpenAI, model: t5kit.Model) -> None:
    best = client.completions.create(model="tiny", prompt="one", max_tokens=9, best_of=4, n=2)
    expected = model.generate("one", max_new_tokens=9, num_beams=4, num_return_sequences=2)
    assert [choice.text for choice in best.choices] == list(expected)
    ours = client.completions.create(model="tiny", prompt="one", max_tokens=9, extra_body={"num_beams": 4})
    assert ours.choices[0].text == expected[0]


def test_log_probabilities_have_openais_shape(client: openai.OpenAI, model: t5kit.Model) -> None:
    reply = client.completions.create(model="tiny", prompt="one", max_tokens=6, logprobs=3)
    found = reply.choices[0].logprobs
    (right,) = model.try_generate(["one"], max_new_tokens=6)
    assert isinstance(right, tuple) and found is not None and found.tokens is not None
    assert "".join(found.tokens) == reply.choices[0].text
    assert found.token_logprobs == list(right[0].token_scores)
    assert found.top_logprobs is not None and found.text_offset is not None
    assert len(found.top_logprobs) == len(found.text_offset) == len(found.tokens)


def test_token_ids_are_taken_as_prompts(client: openai.OpenAI, model: t5kit.Model) -> None:
    ids = model.tokenizer.encode("one", add_eos=False).tolist()
    for prompt in (ids, [ids]):
        reply = client.completions.create(model="tiny", prompt=prompt, max_tokens=9)
        assert reply.choices[0].text == model.generate("one", max_new_tokens=9)


def test_embeddings_are_the_models_vectors_at_length_one(client: openai.OpenAI, model: t5kit.Model) -> None:
    reply = client.embeddings.create(model="tiny", input=["one", "two"])  # base64 on the way
    expected = model.embed(["one", "two"], normalize=True)
    assert np.allclose([each.embedding for each in reply.data], expected, atol=1e-6)
    floats = client.embeddings.create(
        model="tiny", input="one", encoding_format="float", extra_body={"normalize": False, "pooling": "max"}
    )
    assert np.allclose(floats.data[0].embedding, model.embed("one", pooling="max"), atol=1e-6)


def test_models_are_listed_and_errors_raised_as_openais(client: openai.OpenAI) -> None:
    assert {each.id for each in client.models.list()} == {"tiny", "other", "adapted"}
    with pytest.raises(openai.NotFoundError, match="there are: tiny"):
        client.completions.create(model="gpt", prompt="one")
    with pytest.raises(openai.BadRequestError, match="suffix"):
        client.completions.create(model="tiny", prompt="one", suffix="end")


def test_an_error_within_a_stream_has_the_shape_of_any_other(client: openai.OpenAI) -> None:
    late = {"timeout_s": 0.01, "min_new_tokens": 2000}
    stream = client.completions.create(model="tiny", prompt="one", max_tokens=2000, stream=True, extra_body=late)
    with pytest.raises(openai.APIError, match="time limit") as raised:
        list(stream)
    assert (raised.value.code, raised.value.type) == ("deadline", "timeout_error")
