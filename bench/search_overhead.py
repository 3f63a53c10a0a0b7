"""What search and scheduling cost a step in Python: the whole loop over a runtime that returns at once.

    python bench/search_overhead.py            prints one JSON line for each case

`ms_per_step` is the median over runs of the mean time of one scheduler step in the middle of decoding (all rows alive);
`ms_per_batch` is a whole batch of about 32 tokens an answer, from submission to the last answer, all included.
"""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from t5kit.config import preset
from t5kit.decoding import DecodingOptions
from t5kit.scheduling import ContinuousScheduler, GenerationRequest
from t5kit.testing.null_runtime import NullRuntime

NUM_TEXTS = 64
NUM_STEPS = 100
NUM_RUNS = 9
MEAN_LENGTH = 32
CASES = {
    "greedy": DecodingOptions(max_new_tokens=100_000),
    "greedy, streamed": DecodingOptions(max_new_tokens=100_000),
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


def main() -> None:
    machine = f"{platform.machine()} {platform.processor() or cpu_name()}, {os.cpu_count()} processors"
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
        print(json.dumps(result))


def cpu_name() -> str:
    """Return the processor's name as Linux tells it, or nothing."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return ""
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")


if __name__ == "__main__":
    main()
