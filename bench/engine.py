"""The native engine beside CTranslate2 and Hugging Face transformers, and beside the machine's own limits.

    T5KIT_TEST_FILES=... python bench/engine.py [--rounds 3] [--plan small:128:2,base:128:2] [--engines ...] [--quick]

A plan is size:input tokens:threads. Size `small` is real FLAN-T5-small weights on the 64 texts of
tests/golden/synopsis64.json (at most 128 tokens; 512 are made by joining texts), 32 new tokens at most, natural end.
Size `base` has T5-base's shapes and random weights: right for time, and its answers run to 32 tokens. Scenarios:

    one_greedy, one_beam4   one text at a time          all_greedy, all_beam4   64 together
    one_beam4_early, all_beam4_early
                            beams that stop once four answers are finished (early_stopping=True): the same work
                            for all, since CTranslate2 has no other rule; the default of Hugging Face and ours goes on
                            for a better answer
    encoder                 64 texts through the encoder alone (CTranslate2 has no call for that: encoder and one step)
    start                   a new process, files in the page cache and our packed weights in theirs, to its first token
                            (bench/start.py); the peak memory of another one that answers the 64 texts with 4 beams

The engines run by turns in one process (`start`: each in its own), so that whatever else the machine does meets all of
them; medians of wall-clock time and of processor time count (the second is nearly blind to other processes). Answers
are compared with the golden ones (Hugging Face, float32, each text alone), or where there are none with our float32's.
Engines that are not installed are left out. CTranslate2 stands there twice: all threads in one worker, and a worker of
one thread for each (`ctranslate2_workers`); a plan of one thread shows what a text alone takes without the second. Ours
look drafts up in the prompt (`speculate="auto"`), as Model.generate does by default.

Beside each of our figures stands the limit: for encoder and steps each the longer of bytes over the bandwidth and
operations over the peak that were measured in this run, and `share`, the limit as a part of the time it took. The
peak is that of PyTorch's best matrix product in float32, bfloat16 and int8 (16-bit activations are two int8 products;
the encoder of the kernel set avx512, whose activations are bytes and four 16-bit quads of sixteen, spends one and a
quarter), or where it has no instructions for a format, what vectors of floats would give: four bytes or one bfloat16
a lane. The limit takes a pass over the weights for each token of the longest answer; where drafts were right a share
can exceed 1.

One JSON line a result on stdout; tables at the end on stderr.
"""

import argparse
import contextlib
import dataclasses
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from machine import processor_name
from start import SYSTEMS, start

from t5kit import _native
from t5kit.checkpoint import open_folder, write_folder
from t5kit.config import T5Config, preset
from t5kit.errors import DependencyError
from t5kit.runtime.native import NativeRuntime
from t5kit.testing import random_tensors
from t5kit.testing.peers import Answer, EngineName, Ids, Search, open_engine, prepare_engine
from t5kit.text import load_tokenizer

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "synopsis64.json"
FOLDER = Path(os.environ.get("T5KIT_TEST_FILES", ROOT / ".cache" / "t5kit-test-files")) / "flan-t5-small"
CACHE = ROOT / ".cache" / "bench-engine"
ENGINES = (
    "native:int8,native:bfloat16,native:float32,ctranslate2:int8,ctranslate2_workers:int8,ctranslate2:bfloat16,ctranslate2:float32,"
    "transformers:bfloat16,transformers:float32"
)
PLAN = "small:128:2,small:128:1,small:512:2,base:128:2"
GREEDY, BEAM4, BEAM4_EARLY = Search(), Search(num_beams=4), Search(num_beams=4, early_stopping=True)
SCENARIOS = {
    "one_greedy": (1, GREEDY),
    "all_greedy": (64, GREEDY),
    "one_beam4": (1, BEAM4),
    "all_beam4": (64, BEAM4),
    "one_beam4_early": (1, BEAM4_EARLY),
    "all_beam4_early": (64, BEAM4_EARLY),
}
"""Name -> texts asked for together, search."""
EVERY_SCENARIO = (*SCENARIOS, "encoder", "start")
MAX_NEW_TOKENS = 32
BYTES_A_WEIGHT = {"float32": 4.0, "bfloat16": 2.0, "int8": 1 + 4 / 64}
"""int8: and one float32 scale for each 64 inputs."""
PAUSE_S = 0.3
"""Between two turns: threads of the engine before may still spin, waiting for more."""

Result = dict[str, object]


@dataclasses.dataclass(frozen=True, slots=True)
class Plan:
    """One combination that is measured."""

    size: str
    input_tokens: int
    threads: int

    @classmethod
    def parse(cls, word: str) -> "Plan":
        size, tokens, threads = word.split(":")
        if size not in ("small", "base"):
            raise SystemExit(f"--plan {word!r}: the size must be small or base.")
        return cls(size, int(tokens), int(threads))

    def __str__(self) -> str:
        return f"{self.size}:{self.input_tokens}:{self.threads}"


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class Texts:
    """What is asked, and what is right."""

    prompts: list[Ids]
    golden: dict[Search, list[Ids]]
    """Search -> right answers; where there are none our float32 tells."""


@dataclasses.dataclass(frozen=True, slots=True)
class Machine:
    """What was measured of the machine in this run, with a number of threads."""

    reading_rate: dict[str, float]
    """Weights -> bytes a second, over as many bytes as a token's step reads."""
    peak: dict[str, float]
    """Weights -> multiply-adds a second; empty without PyTorch."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--plan", default=PLAN)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--engines", default=ENGINES)
    parser.add_argument("--scenarios", default=",".join(EVERY_SCENARIO))
    parser.add_argument("--quick", action="store_true", help="8 texts, one round, small:128:1: does it all work?")
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.plan, arguments.rounds, arguments.texts = "small:128:1", 1, 8
    if not (FOLDER / "model.safetensors").exists():
        sys.exit(f"{FOLDER} is not there. Run `make weights`, or name its parent in T5KIT_TEST_FILES.")
    tables = []
    for word in arguments.plan.split(","):
        plan = Plan.parse(word)
        emit(plan=word, machine=machine_of(plan.threads))
        results = run_plan(
            plan, arguments.engines.split(","), arguments.scenarios.split(","), arguments.rounds, arguments.texts
        )
        tables.append(f"{word}\n\n{table(results)}")
        emit(plan=word, load_average_at_end=os.getloadavg()[0])
    print("\n\n".join(tables), file=sys.stderr)


def run_plan(plan: Plan, words: Sequence[str], scenarios: Sequence[str], rounds: int, num_texts: int) -> list[Result]:
    folder = folder_of(plan.size)
    config = open_folder(folder).config
    texts = texts_of(plan, num_texts)
    names = openable([EngineName.parse(word) for word in words], folder, scratch_of(plan.size))
    machine = measured_machine(config, plan.threads)
    emit(plan=str(plan), reading_gb_a_s=machine.reading_rate, peak_gmac_a_s=machine.peak)
    results: list[Result] = []
    asked = [scenario for scenario in scenarios if scenario in SCENARIOS]
    engines: dict[str, Answer] = {}
    for name in list(names):
        try:
            engines[str(name)] = opened(name, folder, plan)
        except ValueError as error:  # CTranslate2, where it has no efficient bfloat16
            if not name.is_ctranslate2:
                raise
            print(f"{name} is left out: {error}", file=sys.stderr)
            names.remove(name)
    for scenario in asked:
        results += measure(plan, scenario, engines, texts, rounds, config, machine)
    engines.clear()
    if "encoder" in scenarios:
        results += measure_encoder(plan, names, folder, texts, rounds, config, machine)
    if "start" in scenarios:
        results += measure_start(plan, names, folder, texts, rounds)
    return results


# What is run


def folder_of(size: str) -> Path:
    """Return the model folder of a size; base is written once, with random weights."""
    if size == "small":
        return FOLDER
    folder = CACHE / "base"
    if not folder.exists():
        config = preset("flan_t5_base")
        print(f"writing {folder}, with random weights", file=sys.stderr)
        CACHE.mkdir(parents=True, exist_ok=True)
        tokenizer = load_tokenizer(FOLDER)
        write_folder(folder, config, random_tensors(config), generation={}, save_tokenizer=tokenizer.save)
    return folder


def scratch_of(size: str) -> Path:
    scratch = CACHE / f"{size}-converted"
    scratch.mkdir(parents=True, exist_ok=True)
    return scratch


def texts_of(plan: Plan, num_texts: int) -> Texts:
    """Return prompts of at most plan.input_tokens; where 128 are asked of small, with their golden answers."""
    rows = json.loads(GOLDEN.read_text(encoding="utf-8"))["rows"]
    if plan.input_tokens == 128:
        prompts = [row["encoder_ids"] for row in rows[:num_texts]]
        golden = {GREEDY: [row["greedy_ids"] for row in rows], BEAM4: [row["beam4_ids"] for row in rows]}
        return Texts(prompts, golden if plan.size == "small" else {})
    bodies = [row["encoder_ids"][:-1] for row in rows]
    prompts = []
    for number in range(min(num_texts, len(rows))):
        ids: Ids = []
        while len(ids) < plan.input_tokens - 1:
            ids += bodies[(number + len(ids)) % len(bodies)]
        prompts.append([*ids[: plan.input_tokens - 1], 1])
    return Texts(prompts, {})


def openable(names: Sequence[EngineName], folder: Path, scratch: Path) -> list[EngineName]:
    """Return the engines that are installed, with what they need converted."""
    kept = []
    for name in names:
        try:
            prepare_engine(name, folder, scratch=scratch)
            if name.engine == "transformers" and not importlib.util.find_spec("transformers"):
                raise DependencyError("transformers is not installed.")
        except DependencyError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
        else:
            kept.append(name)
    return kept


def opened(name: EngineName, folder: Path, plan: Plan, max_new_tokens: int = MAX_NEW_TOKENS) -> Answer:
    return open_engine(name, folder, threads=plan.threads, max_new_tokens=max_new_tokens, scratch=scratch_of(plan.size))


# Measuring


def timed(answer: Answer, prompts: Sequence[Ids], together: int, search: Search) -> tuple[list[Ids], float, float]:
    """Return the answers, wall-clock seconds and processor seconds."""
    answers: list[Ids] = []
    wall, processor = time.perf_counter(), time.process_time()
    for first in range(0, len(prompts), together):
        answers += answer(prompts[first : first + together], search)
    return answers, time.perf_counter() - wall, time.process_time() - processor


def measure(
    plan: Plan,
    scenario: str,
    engines: dict[str, Answer],
    texts: Texts,
    rounds: int,
    config: T5Config,
    machine: Machine,
) -> list[Result]:
    """Run one scenario by turns on all engines; emit and return a result for each."""
    together, search = SCENARIOS[scenario]
    prompts = texts.prompts
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    answers: dict[str, list[Ids]] = {}
    for answer in engines.values():
        timed(answer, prompts[:4], together, search)
    for _ in range(rounds):
        for name, answer in engines.items():
            time.sleep(PAUSE_S)
            answers[name], wall, processor = timed(answer, prompts, together, search)
            runs[name].append((wall, processor))
    right = texts.golden.get(search) or answers.get("native:float32")
    results: list[Result] = []
    for name in engines:
        wall, processor = (statistics.median(run[i] for run in runs[name]) for i in (0, 1))
        equal = None if right is None else sum(a == b for a, b in zip(answers[name], right, strict=False))
        result: Result = {
            **times(plan, scenario, name, prompts, wall, processor),
            "wall_s": [round(run[0], 3) for run in runs[name]],
            "equal": equal,
            "new_tokens": sum(map(len, answers[name])),
        }
        weights = EngineName.parse(name).weights
        if name.startswith("native") and weights in machine.reading_rate:
            limit = limit_s(config, weights, machine, prompts, answers[name], together, search.num_beams)
            result |= {"limit_ms_a_text": round(limit / len(prompts) * 1e3, 3), "share": round(limit / wall, 3)}
        results.append(result)
        emit(**result)
    return results


def measure_encoder(
    plan: Plan,
    names: Sequence[EngineName],
    folder: Path,
    texts: Texts,
    rounds: int,
    config: T5Config,
    machine: Machine,
) -> list[Result]:
    """Run 64 texts through the encoders, by turns."""
    encoders = {str(name): encoder_of(name, folder, plan) for name in names}
    prompts = texts.prompts
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in encoders}
    for number in range(rounds + 1):
        for name, encode in encoders.items():
            wall, processor = time.perf_counter(), time.process_time()
            encode(prompts[:4] if number == 0 else prompts)  # the first warms up
            if number:
                runs[name].append((time.perf_counter() - wall, time.process_time() - processor))
    results: list[Result] = []
    for name in encoders:
        wall, processor = (statistics.median(run[i] for run in runs[name]) for i in (0, 1))
        result = times(plan, "encoder", name, prompts, wall, processor)
        weights = EngineName.parse(name).weights
        if name.startswith("native") and weights in machine.reading_rate:
            limit = phase_s(machine, weights, encoder_work(config, prompts, with_cross=False), in_encoder=True)
            result |= {"limit_ms_a_text": round(limit / len(prompts) * 1e3, 3), "share": round(limit / wall, 3)}
        results.append(result)
        emit(**result)
    return results


def encoder_of(name: EngineName, folder: Path, plan: Plan) -> Callable[[Sequence[Ids]], object]:
    """Return what runs prompts through an engine's encoder, all together."""
    if name.engine == "native":
        source = open_folder(folder)
        runtime = NativeRuntime(
            source.config,
            source.tensors(),
            weights=name.weights,  # type: ignore[arg-type]
            threads=plan.threads,
        )
        return lambda prompts: runtime.encoder_states([np.array(ids, np.int32) for ids in prompts])
    if name.engine == "transformers":
        import torch
        import transformers

        torch.set_num_threads(plan.threads)
        model = transformers.T5EncoderModel.from_pretrained(folder, dtype=getattr(torch, name.weights)).eval()

        @torch.inference_mode()
        def encode(prompts: Sequence[Ids]) -> object:
            longest = max(map(len, prompts))
            ids = torch.tensor([prompt + [0] * (longest - len(prompt)) for prompt in prompts])
            mask = torch.tensor([[1] * len(prompt) + [0] * (longest - len(prompt)) for prompt in prompts])
            return model(input_ids=ids, attention_mask=mask)

        return encode
    answer = opened(name, folder, plan, max_new_tokens=1)
    return lambda prompts: answer(prompts, GREEDY)


def measure_start(plan: Plan, names: Sequence[EngineName], folder: Path, texts: Texts, rounds: int) -> list[Result]:
    """Start the engines that bench/start.py knows in new processes: to the first token, and to their peak memory."""
    results: list[Result] = []
    names = [name for name in names if name.engine in SYSTEMS]
    runs: dict[str, list[float]] = {str(name): [] for name in names}
    peaks: dict[str, int] = {}
    for _ in range(rounds + 1):  # the first fills the page cache, and a cache of packed weights
        for name in names:
            made = start(name, folder, plan.threads, texts.prompts[0], scratch=scratch_of(plan.size))
            runs[str(name)].append(made["total_s"])
    for name in runs:
        with worker(name, folder, plan, max_new_tokens=MAX_NEW_TOKENS) as ask:
            ask({"prompts": texts.prompts, "together": 64, "search": {"num_beams": 4}})
            peaks[name] = int(ask({"memory": True})["peak_bytes"])
    for name, seconds_of in runs.items():
        result: Result = {
            "plan": str(plan),
            "scenario": "start",
            "engine": name,
            "start_to_first_token_s": round(statistics.median(seconds_of[1:]), 3),
            "peak_mb": round(peaks[name] / 2**20),
        }
        results.append(result)
        emit(**result)
    return results


@contextlib.contextmanager
def worker(
    name: str, folder: Path, plan: Plan, *, max_new_tokens: int
) -> Iterator[Callable[[Result], dict[str, float]]]:
    """Give what asks a new process that has the engine open."""
    with subprocess.Popen(
        [sys.executable, "-m", "t5kit.testing.engine_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:

        def ask(command: Result) -> dict[str, float]:
            assert process.stdin and process.stdout
            process.stdin.write(json.dumps(command) + "\n")
            process.stdin.flush()
            reply: dict[str, float] = json.loads(process.stdout.readline())
            assert "error" not in reply, reply
            return reply

        ask(
            {
                "open": name,
                "folder": str(folder),
                "threads": plan.threads,
                "max_new_tokens": max_new_tokens,
                "scratch": str(scratch_of(plan.size)),
            }
        )
        yield ask
        assert process.stdin
        process.stdin.close()


def times(plan: Plan, scenario: str, name: str, prompts: Sequence[Ids], wall: float, processor: float) -> Result:
    return {
        "plan": str(plan),
        "scenario": scenario,
        "engine": name,
        "texts_per_s": round(len(prompts) / wall, 2),
        "ms_a_text": round(wall / len(prompts) * 1e3, 2),
        "processor_ms_a_text": round(processor / len(prompts) * 1e3, 2),
        "texts": len(prompts),
    }


# Limits: a phase takes at least as long as its weights take to be read once a pass, and its products to be made


def measured_machine(config: T5Config, threads: int) -> Machine:
    """Measure bandwidth over a token's weights, and the peak of multiply-adds where PyTorch is installed."""
    sizes = {weights: int(decoder_weights(config) * each) for weights, each in BYTES_A_WEIGHT.items()}
    rates = {weights: _native.reading_rate(size, threads) for weights, size in sizes.items()}
    return Machine(rates, multiply_rates(threads) if importlib.util.find_spec("torch") else {})


def multiply_rates(threads: int) -> dict[str, float]:
    """Return the multiply-adds a second of PyTorch's best matrix product in each format, the best of some rounds."""
    import torch

    torch.set_num_threads(threads)
    size = 768  # some milliseconds: short enough to fall between other processes
    x = torch.randn(size, size)
    pairs = {"float32": (x, x), "bfloat16": (x.bfloat16(), x.bfloat16())}
    eights = torch.randint(-127, 128, (size, size), dtype=torch.int8)
    products: dict[str, Callable[[], object]] = {
        "int8": lambda: torch._int_mm(eights, eights),
        **{name: (lambda pair=pair: torch.mm(*pair)) for name, pair in pairs.items()},  # type: ignore[misc]
    }
    rates = {}
    for name, product in products.items():
        product()
        seconds = []
        for _ in range(30):
            start = time.perf_counter()
            product()
            seconds.append(time.perf_counter() - start)
        rates[name] = size**3 / min(seconds)
    # Emulated formats are slower than that: a lane of 32 bits holds four bytes, and bfloat16 widens to float32.
    return rates | {
        "int8": max(rates["int8"], 4 * rates["float32"]),
        "bfloat16": max(rates["bfloat16"], rates["float32"]),
    }


def decoder_weights(config: T5Config) -> int:
    """Return how many weights one decoder step reads: all layers (cross keys and values aside) and the head."""
    inner, d = config.inner_width, config.d_model
    maps = 3 if config.uses_gated_mlp else 2
    return config.num_decoder_layers * (6 * inner * d + maps * d * config.d_ff) + config.vocab_size * d


def encoder_work(config: T5Config, prompts: Sequence[Ids], *, with_cross: bool) -> tuple[int, int, int]:
    """Return weights read once, multiply-adds with weights, and those of attention, of one encoder run."""
    inner, d = config.inner_width, config.d_model
    maps = 3 if config.uses_gated_mlp else 2
    weights = config.num_encoder_layers * (4 * inner * d + maps * d * config.d_ff)
    if with_cross:
        weights += config.num_decoder_layers * 2 * inner * d
    tokens = sum(map(len, prompts))
    attention = config.num_encoder_layers * 2 * inner * sum(len(ids) ** 2 for ids in prompts)
    return weights, weights * tokens, attention


def steps_work(
    config: T5Config, prompts: Sequence[Ids], answers: Sequence[Ids], num_beams: int
) -> tuple[int, int, int]:
    """Return weights read, multiply-adds with weights, and those of attention, of all steps of prompts together."""
    num_steps = max(map(len, answers), default=0)
    rows = num_beams * sum(map(len, answers))
    keys = sum(
        len(answer) * len(prompt) + len(answer) * (len(answer) + 1) // 2
        for prompt, answer in zip(prompts, answers, strict=True)
    )
    attention = config.num_decoder_layers * 2 * config.inner_width * num_beams * keys
    return num_steps * decoder_weights(config), rows * decoder_weights(config), attention


def products_a_weight(weights: str, *, in_encoder: bool) -> float:
    """Return how many multiply-adds of the format one of a weight takes: see the top. Cross-attention's keys and values
    are the encoder's work."""
    if weights != "int8":
        return 1
    return 1.25 if in_encoder and kernel_set() == "avx512" else 2


def kernel_set() -> str:
    """Return the kernels that native engines take here."""
    return os.environ.get("T5KIT_KERNELS") or _native.available_kernels()[0]


def phase_s(machine: Machine, weights: str, work: tuple[int, int, int], *, in_encoder: bool) -> float:
    """Return the least seconds of a phase's work; attention is float32 whatever the weights are."""
    num_read, num_products, num_attention = work
    reading = num_read * BYTES_A_WEIGHT[weights] / machine.reading_rate[weights]
    if not machine.peak:
        return reading
    computing = num_products * products_a_weight(weights, in_encoder=in_encoder) / machine.peak[weights]
    return max(reading, computing + num_attention / machine.peak["float32"])


def limit_s(
    config: T5Config,
    weights: str,
    machine: Machine,
    prompts: Sequence[Ids],
    answers: Sequence[Ids],
    together: int,
    num_beams: int,
) -> float:
    """Return the least seconds for all prompts, so many together."""
    total = 0.0
    for first in range(0, len(prompts), together):
        some, found = prompts[first : first + together], answers[first : first + together]
        total += phase_s(machine, weights, encoder_work(config, some, with_cross=True), in_encoder=True)
        total += phase_s(machine, weights, steps_work(config, some, found, num_beams), in_encoder=False)
    return total


# Telling


def emit(**result: object) -> None:
    print(json.dumps({"bench": "engine", **result}), flush=True)


def machine_of(threads: int) -> Result:
    """Return what a figure depends on."""
    return {
        "cpu": processor_name(),
        "cores": os.cpu_count(),
        "threads": threads,
        "kernels": kernel_set(),
        "load_average": os.getloadavg()[0],
    }


def table(results: Sequence[Result]) -> str:
    """Return the results as a markdown table."""
    lines = [
        "| | engine | texts/s | ms a text | processor ms a text | equal | limit, ms a text | our share of it |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in results:
        if r["scenario"] == "start":
            first = f"{r['start_to_first_token_s']} s to the first token, peak {r['peak_mb']} MB"
            lines.append(f"| start | {r['engine']} | {first} | | | | | |")
            continue
        equal = "" if r.get("equal") is None else f"{r['equal']} of {r['texts']}"
        share = f"{r['share']:.0%}" if isinstance(r.get("share"), float) else ""
        lines.append(
            f"| {r['scenario']} | {r['engine']} | {r['texts_per_s']} | {r['ms_a_text']} | {r['processor_ms_a_text']} "
            f"| {equal} | {r.get('limit_ms_a_text', '')} | {share} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
