"""The budget of a token: what a step costs in C++, in Python around it, in search, and in text.

    python bench/search_overhead.py             search and scheduling alone, over a runtime that returns at once
    T5KIT_TEST_FILES=... python bench/search_overhead.py --real           and their share of real steps

Over the null runtime `ms_per_step` is the median over runs of the mean time of one scheduler step in the middle of
decoding (all rows alive); `ms_per_batch` is a whole batch of about 32 tokens an answer, from submission to the last
answer, all included.

With --real, FLAN-T5-small answers the 64 texts of tests/golden/synopsis64.json on one thread, and the processor time
of its decoder steps is split: `engine_us` inside the C++ engine's step, `call_us` in Python around it (checks, arrays)
and `search_us` in search and scheduling, from submission to the answer, all for one step; `text_us` is turning text
into ids and ids into text, for one generated token. `search_share` is search_us / (engine_us + call_us); it is to stay
below 0.1 for 64 texts. One JSON line a result.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from machine import processor_name

from t5kit.checkpoint import open_folder
from t5kit.config import preset
from t5kit.decoding import DecodingOptions, answer_text
from t5kit.runtime.native import NativeRuntime, NativeWeights
from t5kit.scheduling import ContinuousScheduler, GenerationRequest
from t5kit.testing.null_runtime import NullRuntime
from t5kit.text import load_tokenizer

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "synopsis64.json"
FOLDER = Path(os.environ.get("T5KIT_TEST_FILES", ROOT / ".cache" / "t5kit-test-files")) / "flan-t5-small"
WEIGHTS: tuple[NativeWeights, ...] = ("int8", "float32")
NUM_TEXTS = 64
NUM_STEPS = 100
NUM_RUNS = 9
MEAN_LENGTH = 32
CASES = {
    "greedy": DecodingOptions(max_new_tokens=100_000),
    "greedy, streamed": DecodingOptions(max_new_tokens=100_000),
    "greedy, looking for drafts": DecodingOptions(max_new_tokens=100_000, speculate="auto"),
    "beam 4": DecodingOptions(max_new_tokens=100_000, num_beams=4),
    "beam 4 of 2 groups": DecodingOptions(
        max_new_tokens=100_000, num_beams=4, num_beam_groups=2, diversity_penalty=0.5
    ),
    "sampling, top_k 50, top_p 0.9": DecodingOptions(
        max_new_tokens=100_000, does_sample=True, top_k=50, top_p=0.9, seed=0
    ),
    "sampling, top_p 0.9": DecodingOptions(max_new_tokens=100_000, does_sample=True, top_p=0.9, seed=0),
    "greedy, repetition penalty": DecodingOptions(max_new_tokens=100_000, repetition_penalty=1.2),
}


def requests(name: str, options: DecodingOptions) -> list[GenerationRequest]:
    generator = np.random.Generator(np.random.Philox(1))
    return [
        GenerationRequest(
            request_id=number,
            encoder_input_ids=generator.integers(2, 32000, 128).astype(np.int32),
            options=options,
            is_streamed="streamed" in name,
        )
        for number in range(NUM_TEXTS)
    ]


def ms_per_step(name: str, options: DecodingOptions) -> float:
    """Return the mean time of a step of one run, from the eleventh step on."""
    scheduler = ContinuousScheduler(NullRuntime(preset("flan_t5_small"), max_rows=256))
    scheduler.submit(requests(name, options))
    num_steps = NUM_STEPS if "sampling, top_p" not in name else NUM_STEPS // 10
    for _ in range(10):
        scheduler.step()
    start = time.perf_counter()
    for _ in range(num_steps):
        scheduler.step()
    return (time.perf_counter() - start) * 1e3 / num_steps


def ms_per_batch(name: str, options: DecodingOptions) -> float:
    scheduler = ContinuousScheduler(NullRuntime(preset("flan_t5_small"), max_rows=256, mean_length=MEAN_LENGTH))
    batch = requests(name, options)
    start = time.perf_counter()
    scheduler.submit(batch)
    while scheduler.has_work:
        scheduler.step()
    return (time.perf_counter() - start) * 1e3


def median(measure: Callable[[str, DecodingOptions], float], name: str, options: DecodingOptions) -> float:
    return round(statistics.median(measure(name, options) for _ in range(NUM_RUNS)), 4)


def measure_alone(machine: str) -> None:
    for name, options in CASES.items():
        result = {
            "bench": "search_overhead",
            "case": name,
            "texts": NUM_TEXTS,
            "rows": NUM_TEXTS * options.num_beams,
            "ms_per_step": median(ms_per_step, name, options),
            "ms_per_batch": median(ms_per_batch, name, options),
            "runs": NUM_RUNS,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "machine": machine,
        }
        print(json.dumps(result), flush=True)


class TimedCalls:
    """Passes every call on to `inner` and sums up the seconds spent in each method."""

    def __init__(self, inner: object) -> None:
        self._inner = inner
        self.seconds: dict[str, float] = {}

    def __getattr__(self, name: str) -> object:
        value = getattr(self._inner, name)
        if not callable(value):
            return value

        def timed(*arguments: object) -> object:
            start = time.thread_time()
            try:
                return value(*arguments)
            finally:
                self.seconds[name] = self.seconds.get(name, 0.0) + time.thread_time() - start

        return timed


def budget_us(
    runtime: NativeRuntime, prompts: list[np.ndarray], options: DecodingOptions, together: int
) -> list[float]:
    """Return microseconds a decoder step spends in the engine, in the call around it, and in search and scheduling.

    Encoder runs, and what is freed with a finished answer, are counted in none of them but the last.
    """
    with timed_engine(runtime) as engine:
        timed = TimedCalls(runtime)
        num_steps, total = 0, 0.0
        for first in range(0, len(prompts), together):
            scheduler = ContinuousScheduler(timed)  # type: ignore[arg-type]
            texts = prompts[first : first + together]
            scheduler.submit(
                [
                    GenerationRequest(request_id=number, encoder_input_ids=ids, options=options)
                    for number, ids in enumerate(texts)
                ]
            )
            while scheduler.has_work:
                start = time.thread_time()
                scheduler.step()
                total += time.thread_time() - start
                num_steps += 1
    in_steps, in_engine = timed.seconds["step"], engine.seconds["step"]
    elsewhere = sum(seconds for name, seconds in timed.seconds.items() if name != "step")
    return [each * 1e6 / num_steps for each in (in_engine, in_steps - in_engine, total - in_steps - elsewhere)]


@contextlib.contextmanager
def timed_engine(runtime: NativeRuntime) -> Iterator[TimedCalls]:
    """Put a clock between the runtime and its C++ engine."""
    engine = runtime._engine
    timed = TimedCalls(engine)
    runtime._engine = timed  # type: ignore[assignment]
    try:
        yield timed
    finally:
        runtime._engine = engine


def text_us(folder: Path, rows: list[dict[str, list[int]]]) -> float:
    """Return microseconds of tokenizing the texts and of writing their answers, for one generated token."""
    tokenizer = load_tokenizer(folder)
    texts = [tokenizer.decode(row["encoder_ids"]) for row in rows]
    runs = []
    for _ in range(NUM_RUNS):
        start = time.perf_counter()
        tokenizer.encode_batch(texts)
        for row in rows:
            answer_text(np.array(row["greedy_ids"]), tokenizer.detokenizer(), ())
        runs.append(time.perf_counter() - start)
    return statistics.median(runs) * 1e6 / sum(len(row["greedy_ids"]) for row in rows)


def measure_real(machine: str) -> None:
    if not (FOLDER / "model.safetensors").exists():
        sys.exit(f"{FOLDER} is not there. Run `make weights`, or name its parent in T5KIT_TEST_FILES.")
    rows = json.loads(GOLDEN.read_text(encoding="utf-8"))["rows"]
    folder = open_folder(FOLDER)
    text = round(text_us(FOLDER, rows), 1)
    prompts = [np.array(row["encoder_ids"], np.int32) for row in rows]
    for weights in WEIGHTS:
        runtime = NativeRuntime(folder.config, folder.tensors(), weights=weights, threads=1)
        for num_beams, together in ((1, 1), (1, NUM_TEXTS), (4, 1), (4, NUM_TEXTS)):
            options = DecodingOptions(max_new_tokens=32, num_beams=num_beams)
            some = prompts if together > 1 else prompts[:8]
            runs = [budget_us(runtime, some, options, together) for _ in range(3)]
            engine, call, search = (round(statistics.median(each), 1) for each in zip(*runs, strict=True))
            result = {
                "bench": "token_budget",
                "weights": weights,
                "texts_together": together,
                "num_beams": num_beams,
                "engine_us": engine,
                "call_us": call,
                "search_us": search,
                "search_share": round(search / (engine + call), 4),
                "text_us": text,
                "kernels": runtime.kernels,
                "machine": machine,
            }
            print(json.dumps(result), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real", action="store_true", help="measure FLAN-T5-small's steps, not the null runtime's")
    arguments = parser.parse_args()
    machine = f"{platform.machine()} {processor_name()}, {os.cpu_count()} processors"
    if arguments.real:
        measure_real(machine)
    else:
        measure_alone(machine)


if __name__ == "__main__":
    main()
