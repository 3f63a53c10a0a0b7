"""Answers given to the server are written as those that the model was trained on: by the rule of the prompt."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

import t5kit
from t5kit.checkpoint import write_folder
from t5kit.scheduling import ServiceLimits
from t5kit.serving.config import ModelSource, RequestLimits
from t5kit.serving.engine import Engine
from t5kit.serving.loading import FolderLoader
from t5kit.serving.served_model import ServedModel
from t5kit.testing.server_process import ServerProcess
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors
from t5kit.text import CharacterRule, SentencePieceTokenizer
from t5kit.text.sentencepiece_format import ModelFacts, Piece, PieceKind, build_model

NUM_TOKENS = {"spell: kat": {"cat": 5, "it": 4}, "say: kat": {"cat": 2, "it": 2}}
"""Prompt -> answer -> its tokens: [▁, c, a, t, EOS] by the rule, [▁cat, EOS] without."""


def tokenizer() -> SentencePieceTokenizer:
    special = [("<pad>", PieceKind.CONTROL), ("</s>", PieceKind.CONTROL), ("<unk>", PieceKind.UNKNOWN)]
    pieces = [Piece(text, 0.0, kind) for text, kind in special]
    pieces += [Piece("\u2581", -2.0), *(Piece(letter, -9.0) for letter in "abcdefghijklmnopqrstuvwxyz: ")]
    pieces += [Piece(f"\u2581{word}", -1.0) for word in ("spell", "say", "cat", "it")]
    model = build_model(pieces, ModelFacts(), pad_id=0, eos_id=1, unk_id=2)
    return SentencePieceTokenizer(model, character_rules=[CharacterRule("spell: ", in_targets=True)])


@pytest.fixture(scope="module")
def ruled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path, config = tmp_path_factory.mktemp("served") / "ruled", TINY_CONFIGS["byt5"]
    write_folder(path, config, random_tensors(config), generation={}, save_tokenizer=tokenizer().save)
    return path


@pytest.fixture(scope="module")
def ruled_server(ruled: Path) -> Iterator[ServerProcess]:
    with ServerProcess(["-m", f"ruled={ruled}", "--weights", "float32", "--threads", "1"]) as running:
        yield running


@pytest.mark.parametrize("prompt", NUM_TOKENS)
def test_given_answers_follow_the_rule_of_their_prompt(ruled_server: ServerProcess, ruled: Path, prompt: str) -> None:
    with t5kit.Model.from_pretrained(ruled, weights="float32", threads=1) as model:
        right = dict(zip(("cat", "it"), model.score([prompt] * 2, ["cat", "it"]), strict=True))
    num_tokens = NUM_TOKENS[prompt]
    reply = ruled_server.post("/v1/score", {"sources": [prompt] * 2, "targets": ["cat", "it"]}).json
    assert [each["num_tokens"] for each in reply["scores"]] == list(num_tokens.values())
    assert [each["score"] for each in reply["scores"]] == list(right.values())
    reply = ruled_server.post("/v1/rank", {"text": prompt, "candidates": ["cat", "it"]}).json
    assert {each["text"]: each["num_tokens"] for each in reply["results"]} == num_tokens
    assert {each["text"]: each["score"] for each in reply["results"]} == right
    reply = ruled_server.post("/v1/trace", {"text": prompt, "answer": "cat"}).json
    assert len(reply["tokens"]) == num_tokens["cat"]


def test_labels_follow_the_rule_of_each_text(ruled_server: ServerProcess, ruled: Path) -> None:
    texts, labels = list(NUM_TOKENS), ["cat", "it"]
    with t5kit.Model.from_pretrained(ruled, weights="float32", threads=1) as model:
        right = [model.score([text] * 2, labels) for text in texts]
    results = ruled_server.post("/v1/classify", {"text": texts, "labels": labels}).json["results"]
    found = [{each["label"]: each["score"] for each in result["labels"]} for result in results]
    assert found == [dict(zip(labels, scores, strict=True)) for scores in right]


def test_allowed_outputs_follow_the_rule_of_each_text(ruled_server: ServerProcess) -> None:
    for is_streamed in (False, True):
        body = {"text": list(NUM_TOKENS), "allowed_outputs": ["cat", "it"], "stream": is_streamed}
        reply = ruled_server.post("/v1/generate", body)
        results = [each for each in reply.events if each["type"] == "result"] if is_streamed else reply.json["results"]
        for result in results:
            (output,) = result["outputs"]
            assert output["num_tokens"] == list(NUM_TOKENS.values())[result["index"]][output["text"]]
        assert len(results) == len(NUM_TOKENS)


def test_a_copy_is_forbidden_text_by_text(ruled_server: ServerProcess) -> None:
    body = {"text": ["spell: cat", "say: it", "say: cat"], "allowed_outputs": ["cat", "it"], "forbid_copy": True}
    results = ruled_server.post("/v1/generate", body).json["results"]
    assert [result["outputs"][0]["text"] for result in results] == ["it", "cat", "it"]
    body = {"text": "say: cat", "allowed_outputs": ["cat", "it"], "forbidden_outputs": [" it"]}
    (result,) = ruled_server.post("/v1/generate", body).json["results"]
    assert result["outputs"][0]["text"] == "cat"


def test_a_forced_prefix_follows_the_rule_of_each_text(ruled_server: ServerProcess, ruled: Path) -> None:
    begins = {"spell: kat": ["\u2581", "c", "a", "t"], "say: kat": ["\u2581cat"]}
    with t5kit.Model.from_pretrained(ruled, weights="float32", threads=1) as model:
        results = model.generate(list(begins), details=True, forced_prefix="cat", max_new_tokens=6)
        pieces = [[model.tokenizer.id_to_piece(token) for token in result.token_ids] for result in results]
    assert [found[: len(begin)] for found, begin in zip(pieces, begins.values(), strict=True)] == list(begins.values())
    body = {"text": list(begins), "forced_prefix": "cat", "max_new_tokens": 6}
    replies = ruled_server.post("/v1/generate", body).json["results"]
    assert [reply["outputs"][0]["text"] for reply in replies] == [result.text for result in results]


def test_labels_are_encoded_once_for_each_rule(ruled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = ModelSource(name="ruled", path=ruled)
    served = ServedModel.open(source, Engine("ruled", FolderLoader(source), ServiceLimits()), RequestLimits())
    calls: list[list[str]] = []
    encode_targets = served.tokenizer.encode_targets

    def counted(targets: Sequence[str], prompts: Sequence[str]) -> list[np.ndarray]:
        calls.append(list(prompts))
        return encode_targets(targets, prompts)

    monkeypatch.setattr(served.tokenizer, "encode_targets", counted)
    prompts = [f"{prefix}: {number}" for number in range(100) for prefix in ("spell", "say")]
    encoded = asyncio.run(served.encode_labels(["cat", "it"], prompts))
    assert [[len(ids) for ids in row] for row in encoded] == [[5, 4], [2, 2]] * 100
    assert calls == [[""] * 2, ["spell: 0"] * 2, ["say: 0"] * 2], "checked, then written by each rule"
