"""An engine process behind an event loop: answers as the model's own, refusals, cancellation, death and restart."""

import asyncio
import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

import t5kit
from t5kit.checkpoint.sentence_modules import SentenceModules
from t5kit.decoding import Grammar, GrammarCompiler
from t5kit.errors import BusyError, CheckpointError, EngineGoneError, OverloadedError, RequestError, T5kitError
from t5kit.scheduling import ServiceLimits, ServiceRequest
from t5kit.scheduling.worker import Ready
from t5kit.serving import engine as serving_engine
from t5kit.serving.config import ModelSource, RequestLimits
from t5kit.serving.engine import Engine
from t5kit.serving.loading import FolderLoader
from t5kit.serving.served_model import Answer, Asker, Failure, Generation, Piece, ServedModel

ASKER = Asker(timeout_s=60)
LONG = {"max_new_tokens": 2000, "min_new_tokens": 2000}


@contextlib.asynccontextmanager
async def served(
    source: ModelSource, service: ServiceLimits | None = None, **limits: Any
) -> AsyncIterator[ServedModel]:
    engine = Engine(source.name, FolderLoader(source), service or ServiceLimits(), **limits)
    await engine.start()
    try:
        yield ServedModel.open(source, engine, RequestLimits())
    finally:
        await engine.close()


def unstarted(source: ModelSource, **limits: Any) -> ServedModel:
    """Return a model whose process is not started: what is done before it is asked."""
    return ServedModel.open(source, Engine(source.name, FolderLoader(source), ServiceLimits()), RequestLimits(**limits))


def run(main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(main(), 60))


async def begun(
    served_model: ServedModel, texts: list[str], asker: Asker = ASKER, is_streamed: bool = False, **options: Any
) -> Generation:
    asked = await served_model.asked(options, is_streamed=is_streamed)  # type: ignore[arg-type]
    return served_model.generate(await served_model.encode(texts), asked, asker, is_streamed=is_streamed)


def test_answers_of_mixed_requests_at_once_are_the_models_own(source: ModelSource, model: t5kit.Model) -> None:
    every_options: list[dict[str, Any]] = [
        {"max_new_tokens": 12},
        {"max_new_tokens": 9, "num_beams": 3, "num_return_sequences": 2},
        {"max_new_tokens": 11, "temperature": 0.8, "seed": 3, "num_return_sequences": 2},
        {"max_new_tokens": 12, "allowed_outputs": ["yes", "no", "perhaps"]},
        {"max_new_tokens": 12, "speculate": True, "repetition_penalty": 1.2},
        {"max_new_tokens": 12, "stop_strings": ["e"]},
    ]
    texts = ["one", "two two", "three three three", "one"]

    async def main() -> None:
        async with served(source) as server:
            asked = [begun(server, texts, **options) for options in every_options]
            every_answers = await asyncio.gather(*[(await each).answers() for each in asked])
            for options, answers in zip(every_options, every_answers, strict=True):
                expected = model.try_generate(texts, **options)
                for answer, right in zip(answers, expected, strict=True):
                    assert not isinstance(right, T5kitError)
                    for ours, theirs in zip(answer.completions, right, strict=True):
                        assert (ours.text, ours.token_ids, ours.score) == (theirs.text, theirs.token_ids, theirs.score)
                        assert ours.token_scores == theirs.token_scores
                        assert ours.finish_reason == theirs.finish_reason

    run(main)


def test_streamed_pieces_join_to_the_answers(source: ModelSource, model: t5kit.Model) -> None:
    texts = ["one", "two two"]

    async def main() -> None:
        async with served(source) as server:
            for options in ({"max_new_tokens": 12}, {"max_new_tokens": 12, "num_beams": 2}):
                generation = await begun(server, texts, is_streamed=True, **options)
                joined = ["", ""]
                async for event in generation.stream():
                    if isinstance(event, Piece):
                        joined[event.index] += event.text
                    else:
                        assert isinstance(event, Answer) and joined[event.index] == event.completions[0].text
                assert joined == model.generate(texts, **options)  # type: ignore[call-overload]

    run(main)


def test_scores_vectors_and_traces_are_the_models_own(source: ModelSource, model: t5kit.Model) -> None:
    async def main() -> None:
        async with served(source) as server:
            prompts, targets = await server.encode(["one", "two"]), await server.encode(["a", "bcd", "e"])
            (first, second), vectors, (trace,) = await asyncio.gather(
                server.score(prompts, [targets[:2], targets[2:]], ASKER),
                server.embed(prompts, SentenceModules(("mean",), ()), ASKER),
                server.trace(prompts[:1], targets[:1], 4, ASKER),
            )
            scores = [float(row.sum(dtype="float64")) for row in (*first, *second)]
            assert scores == model.score(["one", "one", "two"], ["a", "bcd", "e"])
            assert (vectors == model.embed(["one", "two"])).all()
            assert trace.found.top_ids.shape == (2, 4)

    run(main)


def test_what_is_too_much_is_refused_and_nothing_of_it_is_begun(source: ModelSource) -> None:
    async def main() -> None:
        async with served(source, max_requests=6, max_tokens=100) as server:
            with pytest.raises(RequestError, match=r"more than this server takes at a time \(3 and 50\)\. Split them"):
                await begun(server, ["a"] * 4)
            with pytest.raises(RequestError, match="Split them"):
                await begun(server, ["a" * 200])
            first = await begun(server, ["a", "b"], **LONG)
            with pytest.raises(OverloadedError, match="now 3 requests of 50 tokens; you hold 2 of 4") as refused:
                await begun(server, ["c", "d"])
            assert 1 <= refused.value.retry_after_s <= 60
            assert server.engine.num_pending == 2
            await (await begun(server, ["c"], max_new_tokens=2)).answers()
            first.cancel()
            assert server.engine.num_pending == 0
            await (await begun(server, ["c", "d", "e"], max_new_tokens=2)).answers()
            with pytest.raises(RequestError, match="more than this server allows"):
                await server.asked({"max_new_tokens": 4000})

    run(main)


def test_a_client_that_takes_all_it_can_leaves_places_and_tokens_to_others(source: ModelSource) -> None:
    async def main() -> None:
        async with served(source, max_requests=8, max_tokens=200) as server:
            held = [await begun(server, ["a"], **LONG) for _ in range(4)]
            with pytest.raises(OverloadedError, match="half of what the others leave"):
                await begun(server, ["a"], **LONG)
            bob, carol = Asker(client="bob"), Asker(client="carol")
            held += [await begun(server, ["a"], bob, **LONG) for _ in range(2)]
            with pytest.raises(OverloadedError, match="you hold 2 of 4"):
                await begun(server, ["a"], bob)
            held += [await begun(server, ["a" * 179], carol, **LONG)]  # a newcomer's text may take all tokens left
            with pytest.raises(OverloadedError, match="holds 7 requests of 192 tokens, as much as it can"):
                await begun(server, ["a" * 9], Asker(client="dave"))
            for generation in held:
                generation.cancel()
            assert server.engine.num_pending == 0
            await (await begun(server, ["a"] * 4, max_new_tokens=2)).answers()

    run(main)


def test_targets_are_scored_in_pieces_and_joined(source: ModelSource, model: t5kit.Model) -> None:
    texts = ["a" * length for length in (5, 3, 20, 1, 1, 2, 9)]  # and EOS, as each byte, is a token

    async def main() -> None:
        async with served(source, service=ServiceLimits(max_encoder_tokens=10)) as server:
            prompts, targets = await server.encode(["one", "two"]), await server.encode(texts)
            asked: list[ServiceRequest] = []
            submit = server.engine.submit
            server.engine.submit = lambda requests: asked.extend(requests) or submit(requests)  # type: ignore[assignment,func-returns-value]
            found = await server.score(prompts, [targets, targets[:1]], ASKER)
            sizes = [[len(target) for target in request.work.targets] for request in asked]  # type: ignore[union-attr]
            assert sizes == [[6, 4], [21], [2, 2, 3], [10], [6]]
            scores = [float(row.sum(dtype="float64")) for row in (*found[0], *found[1])]
            assert scores == model.score(["one"] * 7 + ["two"], [*texts, texts[0]])

    run(main)


def test_a_deadline_ends_scoring_between_pieces(source: ModelSource) -> None:
    async def main() -> None:
        async with served(source, service=ServiceLimits(max_encoder_tokens=8)) as server:
            (prompt,), (target,) = await server.encode(["a"]), await server.encode(["b" * 1000])
            with pytest.raises(TimeoutError, match="time limit"):
                await server.score([prompt], [[target] * 500], Asker(timeout_s=0.05))
            assert server.engine.num_pending == 0

    run(main)


def test_tokens_of_targets_are_held_tokens(source: ModelSource) -> None:
    async def main() -> None:
        async with served(source, max_tokens=100) as server:
            prompts, targets = await server.encode(["a"]), await server.encode(["b" * 60] * 2)
            with pytest.raises(RequestError, match="124 tokens are more than this server takes at a time"):
                await server.score(prompts, [targets], ASKER)
            with pytest.raises(RequestError, match="tokens are more than this server takes at a time"):
                await server.trace(prompts, targets[:1], 2, ASKER)
            await server.score(prompts, [targets[:1]], ASKER)

    run(main)


def test_an_adapter_answers_by_its_own_defaults(source: ModelSource, tmp_path: Path) -> None:
    (tmp_path / "generation_config.json").write_text('{"max_new_tokens": 7}', encoding="utf-8")
    server = unstarted(dataclasses.replace(source, adapters={"brief": tmp_path}))

    async def main() -> None:
        plain, brief = await server.asked({}), await server.asked({}, adapter="brief")
        said = await server.asked({"max_new_tokens": 9}, adapter="brief")
        assert [asked.options.max_new_tokens for asked in (plain, brief, said)] == [128, 7, 9]

    run(main)
    assert server.defaults_of("brief") == {**server.defaults_of(), "max_new_tokens": 7}


def test_the_event_loop_goes_on_while_a_grammar_is_checked(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_gone_on = threading.Event()

    def check(compiler: GrammarCompiler, grammar: Grammar) -> None:
        assert has_gone_on.wait(10), "the check holds the event loop"

    monkeypatch.setattr(GrammarCompiler, "check", check)
    server = unstarted(source)

    async def main() -> None:
        asyncio.get_running_loop().call_soon(has_gone_on.set)
        asked = await server.asked({"regex": "a+"})
        assert asked.options.grammar == Grammar("regex", "a+")

    run(main)


def test_a_large_grammar_is_refused_before_it_is_translated(
    source: ModelSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked: list[Grammar] = []
    monkeypatch.setattr(GrammarCompiler, "check", lambda compiler, grammar: checked.append(grammar))
    server = unstarted(source, max_grammar_bytes=100)

    async def main() -> None:
        large: list[Any] = [{"regex": "\u00e4" * 51}, {"json_schema": {"enum": ["a" * 100]}}]
        for options in large:
            with pytest.raises(RequestError, match=r"has 1\d\d bytes, more than this server translates \(100\)"):
                await server.asked(options)
        assert not checked
        await server.asked({"regex": "\u00e4" * 50})
        assert len(checked) == 1

    run(main)


def test_a_reader_that_leaves_a_stream_frees_its_rows(source: ModelSource) -> None:
    async def main() -> None:
        async with served(source) as server:
            generation = await begun(server, ["a"], is_streamed=True, **LONG)
            stream = generation.stream()
            await anext(stream)
            await stream.aclose()  # type: ignore[attr-defined]
            assert server.engine.num_pending == 0
            await (await begun(server, ["b"], max_new_tokens=2)).answers()
            counts = server.engine.counts
            assert counts is not None and counts.scheduler.num_rows == 0

    run(main)


def test_a_deadline_is_an_error_of_its_own(source: ModelSource) -> None:
    async def main() -> None:
        async with served(source) as server:
            asked = await server.asked(LONG)  # type: ignore[arg-type]
            generation = server.generate(await server.encode(["a"]), asked, Asker(timeout_s=0.01))
            with pytest.raises(TimeoutError, match="time limit"):
                await generation.answers()

    run(main)


def test_a_killed_process_answers_with_errors_and_comes_back(source: ModelSource, model: t5kit.Model) -> None:
    restarts = []

    async def main() -> None:
        async with served(source, on_restart=lambda: restarts.append(1)) as server:
            streamed = (await begun(server, ["a", "b"], is_streamed=True, **LONG)).stream()
            waiting = asyncio.create_task((await begun(server, ["c"], **LONG)).answers())
            await anext(streamed)
            assert server.engine.pid is not None
            os.kill(server.engine.pid, signal.SIGKILL)
            with pytest.raises(EngineGoneError, match="signal 9"):
                await waiting
            ends = [event async for event in streamed if not isinstance(event, Piece)]
            assert sorted(end.index for end in ends) == [0, 1]
            assert all(isinstance(end, Failure) and isinstance(end.error, EngineGoneError) for end in ends)
            with pytest.raises(BusyError, match="restarting"):
                await begun(server, ["d"])
            while server.engine.status != "ready":
                await asyncio.sleep(0.02)
            (answer,) = await (await begun(server, ["d"], max_new_tokens=8)).answers()
            assert answer.completions[0].text == model.generate("d", max_new_tokens=8)

    run(main)
    assert restarts == [1]


def test_a_process_that_cannot_be_started_again_now_is_started_later(monkeypatch: pytest.MonkeyPatch) -> None:
    num_made = 0

    class Process:
        """Dies as soon as it is ready, the first time; there is no memory for the second one."""

        def __init__(self, *_: object, on_message: Callable[..., None], on_exit: Callable[[int], None], **__: object):
            nonlocal num_made
            num_made += 1
            if num_made == 2:
                raise OSError("Cannot allocate memory")
            on_message(Ready(description=None))  # type: ignore[arg-type]
            if num_made == 1:
                on_exit(-9)

        def stop(self) -> None:
            pass

    monkeypatch.setattr(serving_engine, "EngineProcess", Process)
    monkeypatch.setattr(serving_engine, "_RESTART_DELAYS_S", (0.0,))

    async def main() -> None:
        engine = Engine("a", FolderLoader(ModelSource(name="a", path=Path())), ServiceLimits())
        await engine.start()
        while num_made < 3 or engine.status != "ready":
            await asyncio.sleep(0.01)
        await engine.close()

    run(main)


def test_a_process_that_hangs_is_ended_and_started_again(source: ModelSource) -> None:
    async def main() -> None:
        async with served(source, stall_timeout_s=0.4) as server:
            assert server.engine.pid is not None
            os.kill(server.engine.pid, signal.SIGSTOP)
            with pytest.raises(EngineGoneError):
                await (await begun(server, ["a"], max_new_tokens=2)).answers()
            assert server.engine.num_restarts == 1

    run(main)


def test_a_process_that_hangs_is_ended_though_its_clients_lose_patience(source: ModelSource) -> None:
    async def main() -> None:
        async with served(source, stall_timeout_s=0.5) as server:
            assert server.engine.pid is not None
            os.kill(server.engine.pid, signal.SIGSTOP)
            while server.engine.status == "ready":
                generation = await begun(server, ["a"], max_new_tokens=2)
                await asyncio.sleep(0.1)
                generation.cancel()
                assert server.engine.num_pending == 0

    run(main)


def test_a_folder_that_cannot_be_loaded_is_told_at_the_start(tmp_path: Path) -> None:
    async def main() -> None:
        engine = Engine("none", FolderLoader(ModelSource(name="none", path=tmp_path)), ServiceLimits())
        with pytest.raises(CheckpointError, match=r"config\.json"):
            await engine.start()
        await engine.close()

    run(main)
