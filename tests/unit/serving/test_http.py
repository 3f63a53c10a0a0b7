"""The server as its clients see it: answers, streams, scores, errors, and what is told of it."""

import dataclasses
import math
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import t5kit
from t5kit.api.arguments import GenerationArguments
from t5kit.config import Head
from t5kit.errors import T5kitError
from t5kit.serving.schemas import (
    Body,
    ClassifyBody,
    CompletionBody,
    EmbeddingsBody,
    GenerateRequest,
    GenerationWords,
    RankBody,
    ScoreBody,
    TraceBody,
)
from t5kit.testing.folders import write_tiny_folder
from t5kit.testing.server_process import ServerProcess
from t5kit.testing.tiny import TINY_CONFIGS


def test_the_bodys_words_are_those_of_generate() -> None:
    # A request names its adapter by `model`, as it names the model.
    assert set(GenerationWords.model_fields) == set(GenerationArguments.__annotations__) - {"adapter"}


@pytest.mark.parametrize(
    ("body", "field", "wrong"),
    [
        (GenerateRequest, "text", [1] * 1000),
        (GenerateRequest, "suppress_tokens", ["a"] * 1000),
        (GenerateRequest, "allowed_outputs", [1] * 1000),
        (GenerateRequest, "stop_strings", [1] * 1000),
        (GenerateRequest, "logit_bias", dict.fromkeys(map(str, range(1000)), "a")),
        (CompletionBody, "prompt", [1.5] * 1000),
        (CompletionBody, "prompt", [[1.5] * 1000] * 1000),
        (CompletionBody, "stop", [1] * 1000),
        (EmbeddingsBody, "input", [1.5] * 1000),
        (ClassifyBody, "labels", [1] * 1000),
        (RankBody, "candidates", [1] * 1000),
        (ScoreBody, "sources", [1] * 1000),
        (TraceBody, "answer_ids", ["a"] * 1000),
    ],
)
def test_a_list_of_wrong_elements_is_not_read_to_its_end(body: type[Body], field: str, wrong: object) -> None:
    with pytest.raises(ValidationError) as refused:
        body.model_validate({field: wrong})
    assert 1 <= sum(error["loc"][0] == field for error in refused.value.errors()) <= 4


@pytest.mark.parametrize(
    "options",
    [
        {"max_new_tokens": 9},
        {"max_new_tokens": 9, "num_beams": 3, "num_return_sequences": 2, "length_penalty": 0.5},
        {"max_new_tokens": 9, "temperature": 0.7, "seed": 4},
        {"max_new_tokens": 9, "logit_bias": {"104": 20.0}, "stop_strings": "ee"},
        {"max_new_tokens": 9, "allowed_outputs": ["yes", "no"]},
    ],
)
def test_generate_answers_as_the_model_does(server: ServerProcess, model: t5kit.Model, options: dict[str, Any]) -> None:
    texts = ["one", "two two", "one"]
    reply = server.post("/v1/generate", {"text": texts, "details": True, **options})
    assert reply.status == 200 and reply.json["model"] == "tiny"
    said = {**options}
    if "logit_bias" in said:
        said["logit_bias"] = {104: 20.0}
    for result, right in zip(reply.json["results"], model.try_generate(texts, **said), strict=True):
        assert not isinstance(right, T5kitError)
        for output, completion in zip(result["outputs"], right, strict=True):
            assert output["text"] == completion.text and output["token_ids"] == list(completion.token_ids)
            assert output["score"] == completion.score and output["token_scores"] == list(completion.token_scores)
            assert output["finish_reason"] == completion.finish_reason
            assert len(output["tokens"]) == output["num_tokens"] == len(completion.token_ids)


def test_a_stream_joins_to_the_answers(server: ServerProcess, model: t5kit.Model) -> None:
    texts = ["one", "two two"]
    reply = server.post("/v1/generate", {"text": texts, "max_new_tokens": 12, "stream": True})
    assert reply.status == 200 and reply.headers["content-type"].startswith("text/event-stream")
    joined = ["", ""]
    for event in reply.events[:-1]:
        if event["type"] == "text":
            joined[event["index"]] += event["text"]
        else:
            assert event["type"] == "result" and event["outputs"][0]["text"] == joined[event["index"]]
    assert reply.events[-1] == {"type": "done"}
    assert joined == model.generate(texts, max_new_tokens=12)


def test_models_and_adapters_are_named_and_answer_differently(server: ServerProcess) -> None:
    listed = {each["id"]: each for each in server.get("/v1/models").json["data"]}
    assert set(listed) == {"tiny", "other", "adapted"}
    assert listed["adapted"]["parent"] == "tiny" and listed["tiny"]["status"] == "ready"

    def answer(name: str) -> str:
        reply = server.post("/v1/generate", {"text": "abc", "model": name, "max_new_tokens": 12})
        assert reply.json["model"] == name
        return str(reply.json["results"][0]["outputs"][0]["score"])

    assert answer("tiny") == answer("other") != answer("adapted")


def test_scores_classes_and_ranks_are_log_probabilities(server: ServerProcess, model: t5kit.Model) -> None:
    expected = model.score(["a", "a", "a"], ["x", "yes", "zz"])
    reply = server.post("/v1/score", {"sources": ["a", "a", "a"], "targets": ["x", "yes", "zz"]})
    assert [each["score"] for each in reply.json["scores"]] == expected
    assert [each["num_tokens"] for each in reply.json["scores"]] == [2, 4, 3]
    assert server.post("/v1/score", {"sources": "a", "targets": "x"}).json["scores"][0]["score"] == expected[0]

    reply = server.post("/v1/classify", {"text": ["a", "b"], "labels": ["x", "yes", "zz"]})
    first = reply.json["results"][0]
    assert {each["label"]: each["score"] for each in first["labels"]} == dict(
        zip(["x", "yes", "zz"], expected, strict=True)
    )
    assert first["label"] == first["labels"][0]["label"] == ["x", "yes", "zz"][expected.index(max(expected))]
    for is_length_normalized in (False, True):
        body = {"text": "a", "labels": ["x", "yes", "zz"], "is_length_normalized": is_length_normalized}
        (result,) = server.post("/v1/classify", body).json["results"]
        right = model.classify("a", ["x", "yes", "zz"], is_length_normalized=is_length_normalized)
        assert result["label"] == right.label
        assert {each["label"]: each["probability"] for each in result["labels"]} == right.probabilities

    body = {"text": "a", "candidates": ["x", "yes", "zz"], "is_length_normalized": True, "top_n": 2}
    ranked = server.post("/v1/rank", body).json["results"]
    normal = [score / length for score, length in zip(expected, [2, 4, 3], strict=True)]
    assert [each["score"] for each in ranked] == sorted(normal, reverse=True)[:2]
    assert ranked[0]["index"] == normal.index(max(normal))


def test_a_trace_tells_alternatives_and_attention(server: ServerProcess) -> None:
    generated = server.post("/v1/generate", {"text": "abc", "max_new_tokens": 5, "details": True}).json
    output = generated["results"][0]["outputs"][0]
    reply = server.post("/v1/trace", {"text": "abc", "answer_ids": output["token_ids"], "num_alternatives": 3}).json
    assert [each["text"] for each in reply["input_tokens"]] == ["a", "b", "c", ""]
    assert [each["id"] for each in reply["tokens"]] == output["token_ids"]
    assert "".join(each["text"] for each in reply["tokens"]) == output["text"]
    for token, score in zip(reply["tokens"], output["token_scores"], strict=True):
        assert token["alternatives"][0]["id"] == token["id"] and len(token["alternatives"]) == 3
        assert math.isclose(token["log_prob"], score, abs_tol=1e-4)
        assert len(token["attention"]) == 4 and math.isclose(sum(token["attention"]), 1, abs_tol=1e-3)


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        ("/v1/generate", {"text": "a", "num_beams": 0}, 400, "num_beams = 0"),
        ("/v1/generate", {"text": "a", "num_beems": 2}, 422, "Did you mean num_beams"),
        ("/v1/generate", {"text": 7}, 422, "text"),
        ("/v1/generate", {"text": []}, 422, "text"),
        ("/v1/generate", {"text": "a", "max_new_tokens": "9"}, 422, "max_new_tokens"),
        ("/v1/generate", {"text": "a", "model": "gpt"}, 404, "there are: tiny, adapted, other"),
        ("/v1/generate", {"text": "a", "max_new_tokens": 9999}, 400, "more than this server allows"),
        ("/v1/generate", {"text": "a" * 5000}, 400, "max_input_tokens"),
        ("/v1/generate", {"text": "a", "timeout_s": 9999}, 400, "timeout_s = 9999"),
        ("/v1/generate", {"text": ["a"] * 600}, 400, "600 texts"),
        ("/v1/generate", {"text": "a", "regex": "a" * 65_537}, 400, "65,537 bytes"),
        ("/v1/generate", {"text": "a", "json_schema": {"enum": ["a" * 65_536]}}, 400, "json_schema has"),
        ("/v1/generate", b'{"text": "a", "regex": "\\ud800"}', 400, "surrogate"),
        ("/v1/generate", {"text": "a", "stream": True, "num_beams": 2, "num_return_sequences": 2}, 400, "one answer"),
        ("/v1/generate", {"text": "a", "logit_bias": {"x": 1}}, 400, "logit_bias"),
        ("/v1/generate", {"text": "a", "priority": "urgent"}, 422, "priority"),
        ("/v1/generate", b'{"text": "a', 422, "not valid JSON"),
        ("/v1/generate", b'{"text": "\xff\xfe"}', 400, "parsing the body"),
        ("/v1/generate", b'{"text": "\\ud800"}', 400, "surrogate"),
        ("/v1/generate", b"[" * 100_000, 400, "parsing the body"),
        ("/v1/score", {"sources": ["a", "b"], "targets": ["c"]}, 400, "one target for each"),
        ("/v1/score", {"sources": "a", "targets": "b" * 2048}, 400, "2,049 tokens, more than max_new_tokens = 2,048"),
        ("/v1/classify", {"text": "a", "labels": ["x", "b" * 2048]}, 400, "more than max_new_tokens"),
        ("/v1/rank", {"text": "a", "candidates": ["x", "b" * 2048]}, 400, "more than max_new_tokens"),
        ("/v1/classify", {"text": "a", "labels": ["x", "x"]}, 400, "twice"),
        ("/v1/classify", {"text": "a", "labels": ["x", " "]}, 400, "has no words"),
        ("/v1/classify", {"text": "a", "labels": ["x", "y"], "normalize_by_length": True}, 422, "is_length_normalized"),
        ("/v1/trace", {"text": "a"}, 400, "one of the two"),
        ("/v1/trace", {"text": "a", "answer_ids": [1_000_000]}, 400, "outside the model's vocabulary"),
        ("/v1/embeddings", {"input": "a", "dimensions": 3}, 400, "dimensions"),
        ("/v1/generate", {"text": "a", "stop_strings": [f"{n}" for n in range(65)]}, 400, "65 stop strings"),
        ("/v1/classify", {"text": ["a"] * 200, "labels": [f"{n}" for n in range(100)]}, 400, "20,000 pairs"),
        ("/v1/completions", {"prompt": "a", "n": 10**12}, 400, "1000000000000 answers are more"),
        ("/v1/generate", {"text": "a", "temperature": 0}, 400, "temperature = 0 must be above 0. Leave it out"),
        ("/v1/completions", {"prompt": "a", "n": 3, "num_beams": 2}, 400, "n = 3 needs as many beams (num_beams = 2)"),
        ("/v1/completions", {"prompt": "a", "n": 2, "best_of": 4, "stream": True}, 400, "; n = 2 needs stream=false"),
        ("/v1/completions", {"prompt": "a", "best_of": 257}, 400, "best_of = 257 must be at most"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 0}, 400, "max_tokens = 0 must be"),
        ("/v1/completions", {"prompt": "a", "max_tokens": 9999}, 400, "max_tokens = 9999 is more"),
        ("/v1/completions", {"prompt": "a", "echo": True}, 400, "echo"),
        ("/v1/completions", {"prompt": "a", "presence_penalty": 1}, 400, "presence_penalty"),
        ("/v1/completions", {"prompt": [[999_999]]}, 400, "outside the model's vocabulary"),
        ("/v1/nothing", {}, 404, "Not Found"),
    ],
)
def test_wrong_requests_are_told_what_is_wrong(
    server: ServerProcess, path: str, body: object, status: int, words: str
) -> None:
    reply = server.post(path, body)
    assert reply.status == status, reply
    error = reply.json["error"]
    assert words in error["message"] and set(error) == {"message", "type", "param", "code"}


def test_a_page_of_another_site_is_not_answered_under_its_own_name(server: ServerProcess) -> None:
    for path in ("/", "/v1/models", "/openapi.json"):
        refused = server.get(path, headers={"Host": f"rebound.example:{server.port}"})
        assert refused.status == 421 and "--allowed-host" in refused.json["error"]["message"]
        assert server.get(path, headers={"Host": f"localhost:{server.port}"}).status == 200
    assert server.metric("t5kit_refusals_total", reason="host") >= 3


def test_a_grammar_without_its_library_is_400_and_says_what_to_install(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "llguidance.py").write_text("raise ImportError('as if it were not installed')")
    arguments = ["-m", str(folder), "--threads", "1"]
    with ServerProcess(arguments, environment={"PYTHONPATH": str(tmp_path)}) as server:
        reply = server.post("/v1/generate", {"text": "a", "regex": "a+"})
        assert (reply.status, reply.json["error"]["type"]) == (400, "invalid_request_error")
        assert "pip install 't5kit[constrain]'" in reply.json["error"]["message"]
        assert server.post("/v1/generate", {"text": "a", "max_new_tokens": 2}).status == 200


def test_the_extra_for_serving_brings_the_library_for_grammars() -> None:
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text("utf-8"))["project"]
    assert "t5kit[constrain]" in project["optional-dependencies"]["serve"]
    assert any(each.startswith("llguidance") for each in project["optional-dependencies"]["constrain"])


def test_a_deadline_is_504(server: ServerProcess) -> None:
    body = {"text": "a", "max_new_tokens": 2000, "min_new_tokens": 2000, "timeout_s": 0.01}
    reply = server.post("/v1/generate", body)
    assert (reply.status, reply.json["error"]["code"]) == (504, "deadline")


def test_every_response_has_an_id_and_the_headers_that_browsers_heed(server: ServerProcess) -> None:
    for path in ("/", "/v1/models", "/nothing", "/healthz"):
        reply = server.get(path, headers={"X-Request-Id": "mine-1"})
        assert reply.headers["x-request-id"] == "mine-1"
        assert "default-src 'none'" in reply.headers["content-security-policy"]
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in reply.headers and "server" not in reply.headers
    assert server.get("/healthz", headers={"X-Request-Id": "a b\u00e4"}).headers["x-request-id"] != "a b\u00e4"


def test_the_log_has_a_line_for_each_request_and_nothing_that_users_wrote(server: ServerProcess) -> None:
    server.post("/v1/generate", {"text": "top secret", "max_new_tokens": 3}, headers={"X-Request-Id": "log-1"})
    server.post("/v1/generate", {"text": "top secret", "num_beams": -1}, headers={"X-Request-Id": "log-2"})
    server.post("/v1/generate", {"text": ["top secret", 7]}, headers={"X-Request-Id": "log-3"})
    assert server.wait_for(lambda: any(entry.get("request_id") == "log-3" for entry in server.log))
    found = {entry["request_id"]: entry for entry in server.log if "request_id" in entry}
    assert [found[f"log-{number}"]["status"] for number in (1, 2, 3)] == [200, 400, 422]
    assert found["log-1"]["num_texts"] == 1 and found["log-1"]["model"] == "tiny" and found["log-1"]["seconds"] > 0
    assert not any("top secret" in line for line in server.lines)


def test_metrics_count_what_happened(server: ServerProcess) -> None:
    before = server.metric("t5kit_generated_tokens_total", model="other")
    hits = server.metric("t5kit_prompt_cache_hits_total", model="other")
    for _ in range(2):
        reply = server.post("/v1/generate", {"text": "count me", "model": "other", "max_new_tokens": 4})
    num_tokens = reply.json["results"][0]["outputs"][0]["num_tokens"]
    assert server.metric("t5kit_generated_tokens_total", model="other") == before + 2 * num_tokens
    assert server.metric("t5kit_prompt_cache_hits_total", model="other") == hits + 1
    assert server.metric("t5kit_first_token_seconds_count", model="other") >= 2
    assert server.metric("t5kit_http_requests_total", route="/v1/generate", status="200") >= 2
    assert server.metric("t5kit_running", model="other") == 0


def test_the_openapi_document_names_every_route_with_an_example(server: ServerProcess) -> None:
    document = server.get("/openapi.json").json
    bodies = [
        operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        for path in document["paths"].values()
        for operation in path.values()
        if "requestBody" in operation
    ]
    assert len(bodies) == 7
    asking = [each["post"] for path, each in document["paths"].items() if path.startswith("/v1/") and "post" in each]
    assert [operation["security"] for operation in asking] == [[{"HTTPBearer": []}]] * 7
    for name in bodies:
        schema = document["components"]["schemas"][name]
        assert schema["examples"] and all("description" in each for each in schema["properties"].values())
    assert {"/healthz", "/readyz", "/metrics", "/v1/models"} <= set(document["paths"])
    assert server.get("/docs").status == 404


def test_many_clients_at_once_get_the_models_own_answers(server: ServerProcess, model: t5kit.Model) -> None:
    """Eighty requests of every kind from twenty threads, each compared with `Model.generate` alone."""
    every_options: list[dict[str, Any]] = [
        {"max_new_tokens": 20},
        {"max_new_tokens": 9, "num_beams": 4},
        {"max_new_tokens": 15, "top_k": 5, "seed": 3},
        {"max_new_tokens": 15, "speculate": 4, "priority": "high"},
        {"max_new_tokens": 15, "allowed_outputs": ["good", "bad"], "priority": "low"},
        {"max_new_tokens": 15, "regex": "[0-9]{3}|yes"},
    ]
    cases = [(f"text {number % 7} " * (number % 5 + 1), every_options[number % 6]) for number in range(80)]

    def ask(case: tuple[str, dict[str, Any]]) -> str:
        reply = server.post("/v1/generate", {"text": case[0], **case[1]})
        return str(reply.json["results"][0]["outputs"][0]["text"])

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, cases))
    for (text, options), answer in zip(cases, answers, strict=True):
        said = {word: value for word, value in options.items() if word != "priority"}
        assert answer == model.generate(text, **said)


def test_an_encoder_gives_vectors_and_says_that_it_writes_nothing(tmp_path: Path) -> None:
    config = dataclasses.replace(TINY_CONFIGS["byt5"], head=Head.ENCODER)
    folder = write_tiny_folder(tmp_path / "encoder", config=config)
    with ServerProcess(["-m", str(folder), "--threads", "1"]) as server:
        assert server.post("/v1/embeddings", {"model": "encoder", "input": "a"}).status == 200
        for path, body in (
            ("/v1/generate", {"text": "a"}),
            ("/v1/completions", {"model": "encoder", "prompt": "a"}),
            ("/v1/score", {"sources": "a", "targets": "b"}),
            ("/v1/classify", {"text": "a", "labels": ["b", "c"]}),
        ):
            reply = server.post(path, body)
            assert reply.status == 400 and "/v1/embeddings" in reply.json["error"]["message"], path
