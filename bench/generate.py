"""t5kit's torch runtime beside Hugging Face transformers on real FLAN-T5-small weights: time, equality, peak memory.

    make bench                  or, with the files of `make weights` fetched:
    python bench/generate.py [--quick] [--rounds N] [--threads N] [--dtypes float32,bfloat16] [--scenarios ...]

64 texts, 128 tokens in at most, 32 out at most; ids in, ids out. Both systems run in one process by turns, so that
whatever else the machine does meets both; the medians and their ratio count. Peak memory is measured in a process for
each system. Hugging Face gets its batches sorted by length, as t5kit makes them, so that it pads as little as it can.
Answers are compared with those in tests/golden/synopsis64.json (Hugging Face, float32, each text alone).

One JSON line a result on stdout; a table at the end on stderr.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from machine import machine_with_torch

from t5kit.checkpoint import open_folder
from t5kit.decoding import DecodingOptions
from t5kit.runtime.torch_runtime import TorchRuntime
from t5kit.scheduling import ContinuousScheduler, GenerationRequest, RequestFinished
from t5kit.testing.engine_worker import peak_bytes

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "synopsis64.json"
FILES = Path(os.environ.get("T5KIT_TEST_FILES", ROOT / ".cache" / "t5kit-test-files"))
SYSTEMS = ("huggingface", "t5kit")

Ids = list[int]
Generate = Callable[[Sequence[Ids]], list[Ids]]


@dataclasses.dataclass(frozen=True)
class Scenario:
    """How the texts are asked for."""

    batch_size: int
    num_beams: int
    golden_key: str


SCENARIOS = {
    "one_at_a_time": Scenario(1, 1, "greedy_ids"),
    "batch_32": Scenario(32, 1, "greedy_ids"),
    "beam_4": Scenario(32, 4, "beam4_ids"),
}


def open_huggingface(dtype: str) -> Callable[[Scenario], Generate]:
    import transformers  # here, so that it does not count in t5kit's peak memory

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    folder = FILES / "flan-t5-small"
    model = transformers.T5ForConditionalGeneration.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
    # transformers 5 has left untied heads tied or random (T5 v1.1 folders); a wrong head would make this bench a lie.
    assert not torch.equal(model.lm_head.weight, model.shared.weight)

    def generator(scenario: Scenario) -> Generate:
        @torch.inference_mode()
        def generate(sequences: Sequence[Ids]) -> list[Ids]:
            answers: dict[int, Ids] = {}
            order = sorted(range(len(sequences)), key=lambda i: -len(sequences[i]))
            for first in range(0, len(order), scenario.batch_size):
                batch = order[first : first + scenario.batch_size]
                longest = max(len(sequences[i]) for i in batch)
                ids = torch.zeros(len(batch), longest, dtype=torch.int64)
                mask = torch.zeros(len(batch), longest, dtype=torch.int64)
                for row, i in enumerate(batch):
                    ids[row, : len(sequences[i])] = torch.tensor(sequences[i])
                    mask[row, : len(sequences[i])] = 1
                made = model.generate(
                    input_ids=ids,
                    attention_mask=mask,
                    do_sample=False,
                    num_beams=scenario.num_beams,
                    max_new_tokens=32,
                )
                for i, row_ids in zip(batch, made[:, 1:].tolist(), strict=True):
                    answers[i] = row_ids[: row_ids.index(1) + 1] if 1 in row_ids else row_ids
            return [answers[i] for i in range(len(sequences))]

        return generate

    return generator


def open_t5kit(dtype: str) -> Callable[[Scenario], Generate]:
    folder = open_folder(FILES / "flan-t5-small")
    runtime = TorchRuntime(folder.config, folder.tensors(), weights=dtype, device="cpu")

    def generator(scenario: Scenario) -> Generate:
        options = DecodingOptions(max_new_tokens=32, num_beams=scenario.num_beams)

        def generate(sequences: Sequence[Ids]) -> list[Ids]:
            answers: dict[int, Ids] = {}
            calls = [sequences] if scenario.batch_size > 1 else [[ids] for ids in sequences]
            for call in calls:
                scheduler = ContinuousScheduler(runtime, max_batch_rows=scenario.batch_size * scenario.num_beams)
                scheduler.submit(
                    [
                        GenerationRequest(
                            request_id=len(answers) + i, encoder_input_ids=np.array(ids, np.int32), options=options
                        )
                        for i, ids in enumerate(call)
                    ]
                )
                while scheduler.has_work:
                    for event in scheduler.step():
                        assert isinstance(event, RequestFinished), event
                        answers[event.request_id] = event.hypotheses[0].token_ids.tolist()
            return [answers[i] for i in range(len(sequences))]

        return generate

    return generator


OPENERS = {"huggingface": open_huggingface, "t5kit": open_t5kit}


def emit(**result: object) -> None:
    print(json.dumps({"bench": "generate", **result}), flush=True)


def peak_memory_mb(system: str, dtype: str, scenario: str, threads: int) -> float:
    """Return the peak resident megabytes of a process that opens `system`, answers the texts, and ends."""
    command = [sys.executable, __file__, "--peak-of", system, "--dtypes", dtype, "--scenarios", scenario]
    out = subprocess.run([*command, "--threads", str(threads)], check=True, capture_output=True, text=True).stdout
    return float(out)


def measure(
    dtype: str, names: Sequence[str], sequences: list[Ids], golden: dict[str, list[Ids]], rounds: int
) -> list[dict[str, object]]:
    """Run every scenario by turns on both systems; emit and return a result for each scenario and system."""
    opened = {system: OPENERS[system](dtype) for system in SYSTEMS}
    results = []
    for name in names:
        scenario = SCENARIOS[name]
        generators = {system: opened[system](scenario) for system in SYSTEMS}
        for generate in generators.values():
            generate(sequences[: scenario.batch_size])
        times: dict[str, list[float]] = {system: [] for system in SYSTEMS}
        answers: dict[str, list[Ids]] = {}
        for _ in range(rounds):
            for system, generate in generators.items():
                start = time.perf_counter()
                answers[system] = generate(sequences)
                times[system].append(time.perf_counter() - start)
        medians = {system: statistics.median(times[system]) for system in SYSTEMS}
        for system in SYSTEMS:
            expected = golden[scenario.golden_key]
            results.append(
                {
                    "scenario": name,
                    "dtype": dtype,
                    "system": system,
                    "texts": len(sequences),
                    "median_s": round(medians[system], 4),
                    "times_s": [round(t, 4) for t in times[system]],
                    "new_tokens": sum(map(len, answers[system])),
                    "equal_to_float32_alone": sum(a == e for a, e in zip(answers[system], expected, strict=False)),
                    "times_as_fast_as_huggingface": round(medians["huggingface"] / medians[system], 3),
                }
            )
            emit(**results[-1])
    return results


def table(results: Sequence[dict[str, object]], memory: dict[tuple[str, str], float]) -> str:
    """Return the results as a markdown table."""
    lines = [
        "| | dtype | Hugging Face s | t5kit s | times as fast | equal answers HF / t5kit | peak MB HF / t5kit |",
        "|---|---|---|---|---|---|---|",
    ]
    for theirs, ours in zip(results[::2], results[1::2], strict=True):
        dtype = str(ours["dtype"])
        peak = " / ".join(f"{memory[system, dtype]:.0f}" if (system, dtype) in memory else "" for system in SYSTEMS)
        equal = f"{theirs['equal_to_float32_alone']} / {ours['equal_to_float32_alone']} of {ours['texts']}"
        lines.append(
            f"| {ours['scenario']} | {dtype} | {theirs['median_s']:.2f} | {ours['median_s']:.2f} "
            f"| {ours['times_as_fast_as_huggingface']:.2f} | {equal} | {peak} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="16 texts, 2 rounds, no memory")
    parser.add_argument("--rounds", type=int, default=None, help="times each system answers all texts (5)")
    parser.add_argument("--threads", type=int, default=None, help="processor threads (PyTorch's choice)")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--peak-of", choices=SYSTEMS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if not (FILES / "flan-t5-small" / "model.safetensors").exists():
        sys.exit(f"{FILES}/flan-t5-small is not there. Run `make weights`, or name its folder in T5KIT_TEST_FILES.")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    rows = json.loads(GOLDEN.read_text(encoding="utf-8"))["rows"][: 16 if arguments.quick else None]
    sequences = [row["encoder_ids"] for row in rows]
    golden = {key: [row[key] for row in rows] for key in ("greedy_ids", "beam4_ids")}
    dtypes, names = arguments.dtypes.split(","), arguments.scenarios.split(",")
    if arguments.peak_of:
        OPENERS[arguments.peak_of](dtypes[0])(SCENARIOS[names[0]])(sequences)
        print(peak_bytes() / 2**20)
        return
    emit(machine=machine_with_torch())
    rounds = arguments.rounds or (2 if arguments.quick else 5)
    results, memory = [], {}
    for dtype in dtypes:
        results += measure(dtype, names, sequences, golden, rounds)
    for dtype in [] if arguments.quick else dtypes:
        for system in SYSTEMS:
            memory[system, dtype] = peak_memory_mb(system, dtype, "batch_32", torch.get_num_threads())
            emit(scenario="batch_32", dtype=dtype, system=system, peak_mb=round(memory[system, dtype], 1))
    print(table(results, memory), file=sys.stderr)


if __name__ == "__main__":
    main()
