"""What copy-aware speculation saves on answers that copy much, some and little of their prompt.

    T5KIT_TEST_FILES=... python bench/speculation.py [--texts 32] [--weights int8]

FLAN-T5-small decodes the texts of tests/golden/synopsis64.json on one thread, alone and many together, without drafts,
with 8 a step, and with "auto". The work is real; what is answered comes from a script, so that every share of copying
can be measured with one model: after each right past the script's next token is the best one, whatever the logits say.

correction: the prompt with every tenth token mended, so nearly all of the answer is copied
extraction: two passages of twelve tokens out of the prompt, and a few words between
summary:    what the model really answers

Times are processor time of everything but the encoder. One JSON line a result; answers are checked.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from t5kit.checkpoint import open_folder
from t5kit.decoding import DecodingOptions
from t5kit.decoding.options import Speculate
from t5kit.runtime import Runtime, StepInput, StepOutput
from t5kit.runtime.native import NativeRuntime
from t5kit.scheduling import ContinuousScheduler, GenerationRequest, RequestFinished
from t5kit.testing.counting_runtime import CountingRuntime

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "synopsis64.json"
FOLDER = Path(os.environ.get("T5KIT_TEST_FILES", ROOT / ".cache" / "t5kit-test-files")) / "flan-t5-small"
HOW: tuple[Speculate, ...] = (0, 8, "auto")
ROUNDS = 3

Ids = list[int]


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Work:
    """Prompts, EOS in, and the answers that the script gives to them, EOS in."""

    prompts: list[Ids]
    answers: list[Ids]


def works(rows: Sequence[dict[str, Ids]]) -> dict[str, Work]:
    generator = np.random.Generator(np.random.Philox(2))
    clean = [row["encoder_ids"][:-1] for row in rows]
    broken = [
        [int(generator.integers(100, 20_000)) if generator.random() < 0.1 else token for token in ids] for ids in clean
    ]
    passages = [[*ids[8:20], *generator.integers(100, 20_000, 4).tolist(), *ids[-14:-2]] for ids in clean]
    return {
        "correction": Work([[*ids, 1] for ids in broken], [[*ids, 1] for ids in clean]),
        "extraction": Work([[*ids, 1] for ids in clean], [[*ids, 1] for ids in passages]),
        "summary": Work([row["encoder_ids"] for row in rows], [row["greedy_ids"] for row in rows]),
    }


class ScriptedRuntime(CountingRuntime):
    """The engine's own steps, but the best token after the right past of an answer is the script's next."""

    def __init__(self, runtime: Runtime, scripts: dict[bytes, Ids]) -> None:
        super().__init__(runtime)
        self._scripts = scripts
        self._by_handle: dict[int, Ids] = {}
        self._by_slot: dict[int, Ids] = {}
        self.num_tokens = 0
        self.encoder_s = 0.0

    def encode(self, sequences: Sequence[np.ndarray]) -> list[int]:
        start = time.thread_time()
        handles = super().encode(sequences)
        self.encoder_s += time.thread_time() - start
        for handle, ids in zip(handles, sequences, strict=True):
            self._by_handle[handle] = self._scripts[ids.tobytes()]
        return handles

    def open_slots(self, handles: Sequence[int]) -> np.ndarray:
        slots = super().open_slots(handles)
        self._by_slot |= {slot: self._by_handle[handle] for slot, handle in zip(slots.tolist(), handles, strict=True)}
        return slots

    def step(self, step: StepInput) -> StepOutput:
        lengths = self.slot_lengths(step.slots)
        output = super().step(step)
        self.num_tokens += len(step.tokens)
        ids = output.top_ids.copy()
        scripts = [self._by_slot[slot] for slot in step.slots.tolist()]
        if not step.need.all_positions:
            ids[:, 0] = [script[length] for script, length in zip(scripts, lengths.tolist(), strict=True)]
        else:
            place = 0
            for script, length, num_new in zip(scripts, lengths.tolist(), step.lengths.tolist(), strict=True):
                fed = step.tokens[place + 1 : place + num_new].tolist()
                for offset in range(num_new):
                    if script[length : length + offset] == fed[:offset]:
                        ids[place + offset, 0] = script[length + offset]
                place += num_new
        return dataclasses.replace(output, top_ids=ids)


@dataclasses.dataclass(frozen=True, slots=True)
class Run:
    seconds: float
    num_steps: int
    num_fed: int


def run(runtime: ScriptedRuntime, work: Work, speculate: Speculate, together: int) -> Run:
    """Answer all of `work`, so many at a time, and check the answers."""
    options = DecodingOptions(max_new_tokens=512, speculate=speculate)
    runtime.num_steps = runtime.num_tokens = 0
    runtime.encoder_s = 0.0
    start = time.thread_time()
    for first in range(0, len(work.prompts), together):
        scheduler = ContinuousScheduler(runtime, max_encoder_tokens=1 << 20)
        prompts = work.prompts[first : first + together]
        scheduler.submit(
            [
                GenerationRequest(request_id=number, encoder_input_ids=np.array(ids, np.int32), options=options)
                for number, ids in enumerate(prompts)
            ]
        )
        while scheduler.has_work:
            for event in scheduler.step():
                assert isinstance(event, RequestFinished), event
                assert event.hypotheses[0].token_ids.tolist() == work.answers[first + event.request_id]
    return Run(time.thread_time() - start - runtime.encoder_s, runtime.num_steps, runtime.num_tokens)


def measure(name: str, work: Work, make_runtime: Callable[[dict[bytes, Ids]], ScriptedRuntime], together: int) -> None:
    scripts = {np.array(p, np.int32).tobytes(): a for p, a in zip(work.prompts, work.answers, strict=True)}
    runtime = make_runtime(scripts)
    runs: dict[Speculate, list[Run]] = {how: [] for how in HOW}
    for _ in range(ROUNDS):
        for how in HOW:
            runs[how].append(run(runtime, work, how, together))
    num_tokens = sum(map(len, work.answers))
    plain = statistics.median(each.seconds for each in runs[0])
    for how in HOW:
        seconds = statistics.median(each.seconds for each in runs[how])
        last = runs[how][-1]
        num_drafted = last.num_fed - (num_tokens if how == 0 else last.num_steps if together == 1 else 0)
        result = {
            "bench": "speculation",
            "work": name,
            "together": together,
            "speculate": how,
            "ms_a_token": round(seconds * 1e3 / num_tokens, 3),
            "times_as_fast": round(plain / seconds, 2),
            "tokens": num_tokens,
            "steps": last.num_steps,
            "fed": last.num_fed,
            "texts": len(work.prompts),
        }
        if together == 1 and num_drafted:
            result["accepted"] = round((num_tokens - last.num_steps) / num_drafted, 3)
        print(json.dumps(result), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=32)
    parser.add_argument("--weights", default="int8", choices=["int8", "bfloat16", "float32"])
    parser.add_argument("--together", default="1,16")
    arguments = parser.parse_args()
    if not (FOLDER / "model.safetensors").exists():
        sys.exit(f"{FOLDER} is not there. Run `make weights`, or name its parent in T5KIT_TEST_FILES.")
    folder = open_folder(FOLDER)
    rows = json.loads(GOLDEN.read_text(encoding="utf-8"))["rows"]
    rows = list({tuple(row["encoder_ids"]): row for row in rows}.values())[: arguments.texts]
    native = NativeRuntime(folder.config, folder.tensors(), weights=arguments.weights, threads=1)
    for together in map(int, arguments.together.split(",")):
        for name, work in works(rows).items():
            measure(name, work, lambda scripts: ScriptedRuntime(native, scripts), together)


if __name__ == "__main__":
    main()
