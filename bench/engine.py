"""The native engine beside CTranslate2 and Hugging Face transformers on real FLAN-T5-small weights.

    T5KIT_TEST_FILES=... python bench/engine.py [--threads 2] [--rounds 3] [--engines t5kit:int8,ctranslate2:int8,...]

64 texts of tests/golden/synopsis64.json, 128 tokens in at most, 32 out at most, ids in and ids out, each engine one
text at a time and all 64 together, greedy and with 4 beams. The engines run by turns in one process, so that whatever
else the machine does meets all of them; medians of wall-clock time and of processor time count (the second is nearly
blind to other processes). Answers are compared with the golden ones (Hugging Face, float32, each text alone). Engines
that are not installed are left out. CTranslate2's model is converted once into --converted, with `scale_outputs` reset:
beside transformers 5 its converter takes untied models for tied ones and scales their logits.

One JSON line a result on stdout; a table at the end on stderr.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from t5kit import _native
from t5kit.checkpoint import open_folder
from t5kit.config import T5Config
from t5kit.decoding import DecodingOptions
from t5kit.runtime.native import NativeRuntime
from t5kit.scheduling import ContinuousScheduler, GenerationRequest, RequestFinished

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "synopsis64.json"
FOLDER = Path(os.environ.get("T5KIT_TEST_FILES", ROOT / ".cache" / "t5kit-test-files")) / "flan-t5-small"
ENGINES = "t5kit:int8,t5kit:bfloat16,t5kit:float32,ctranslate2:int8,ctranslate2:float32,huggingface:float32"
MAX_NEW_TOKENS = 32

Ids = list[int]
Generate = Callable[[Sequence[Ids], int], list[Ids]]
"""Texts asked for together and the number of beams -> their answers, EOS included where it was reached."""

SCENARIOS = {"one_greedy": (1, 1), "all_greedy": (64, 1), "one_beam4": (1, 4), "all_beam4": (64, 4)}
"""Name -> texts asked for together, beams."""


def open_t5kit(weights: str, threads: int) -> Generate:
    folder = open_folder(FOLDER)
    runtime = NativeRuntime(folder.config, folder.tensors(), weights=weights, threads=threads)  # type: ignore[arg-type]

    def generate(texts: Sequence[Ids], num_beams: int) -> list[Ids]:
        options = DecodingOptions(max_new_tokens=MAX_NEW_TOKENS, num_beams=num_beams)
        scheduler = ContinuousScheduler(runtime)
        scheduler.submit(
            [
                GenerationRequest(request_id=i, encoder_input_ids=np.array(ids, np.int32), options=options)
                for i, ids in enumerate(texts)
            ]
        )
        answers: dict[int, Ids] = {}
        while scheduler.has_work:
            for event in scheduler.step():
                assert isinstance(event, RequestFinished), event
                answers[event.request_id] = event.hypotheses[0].token_ids.tolist()
        return [answers[i] for i in range(len(texts))]

    return generate


def open_ctranslate2(weights: str, threads: int, converted: Path) -> Generate:
    import ctranslate2
    from ctranslate2.converters import TransformersConverter
    from tokenizers import Tokenizer

    if not converted.exists():
        spec = TransformersConverter(str(FOLDER))._load()
        spec.decoder.scale_outputs = "__optional"  # what the converter itself writes for an unscaled model
        spec.validate()
        spec.optimize(quantization="float32")
        converted.mkdir(parents=True)
        spec.save(str(converted))
    tokenizer = Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    translator = ctranslate2.Translator(str(converted), compute_type=weights, intra_threads=threads, inter_threads=1)

    def generate(texts: Sequence[Ids], num_beams: int) -> list[Ids]:
        pieces = [[tokenizer.id_to_token(i) for i in ids] for ids in texts]
        made = translator.translate_batch(
            pieces, beam_size=num_beams, max_decoding_length=MAX_NEW_TOKENS, max_batch_size=64, return_end_token=True
        )
        return [[tokenizer.token_to_id(piece) for piece in answer.hypotheses[0]] for answer in made]

    return generate


def open_huggingface(weights: str, threads: int) -> Generate:
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    model = transformers.T5ForConditionalGeneration.from_pretrained(FOLDER, dtype=getattr(torch, weights)).eval()
    assert not torch.equal(model.lm_head.weight, model.shared.weight)

    @torch.inference_mode()
    def generate(texts: Sequence[Ids], num_beams: int) -> list[Ids]:
        longest = max(map(len, texts))
        ids = torch.zeros(len(texts), longest, dtype=torch.int64)
        mask = torch.zeros(len(texts), longest, dtype=torch.int64)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text)
            mask[row, : len(text)] = 1
        made = model.generate(
            input_ids=ids, attention_mask=mask, do_sample=False, num_beams=num_beams, max_new_tokens=MAX_NEW_TOKENS
        )
        return [row[: row.index(1) + 1] if 1 in row else row for row in made[:, 1:].tolist()]

    return generate


def open_engines(names: Sequence[str], threads: int, converted: Path) -> dict[str, Generate]:
    """Return the engines that are installed, by their names."""
    opened = {}
    for name in names:
        engine, weights = name.split(":")
        if engine == "t5kit":
            opened[name] = open_t5kit(weights, threads)
        elif engine == "ctranslate2" and importlib.util.find_spec("ctranslate2"):
            opened[name] = open_ctranslate2(weights, threads, converted)
        elif engine == "huggingface" and importlib.util.find_spec("transformers"):
            opened[name] = open_huggingface(weights, threads)
        else:
            print(f"{name} is not installed and is left out.", file=sys.stderr)
    return opened


def bytes_per_token(config: T5Config, weights: str) -> int:
    """Return the bytes of weights that one token's decoder step must read: all layers and the head."""
    inner, d = config.inner_width, config.d_model
    maps = 3 if config.uses_gated_mlp else 2
    numbers = config.num_decoder_layers * (6 * inner * d + maps * d * config.d_ff) + config.vocab_size * d
    # int8: and one float32 scale for each 64 inputs.
    return int(numbers * {"float32": 4, "bfloat16": 2, "int8": 1 + 4 / 64}[weights])


def timed(generate: Generate, texts: Sequence[Ids], together: int, num_beams: int) -> tuple[list[Ids], float, float]:
    """Return the answers, wall-clock seconds and processor seconds."""
    answers: list[Ids] = []
    wall, processor = time.perf_counter(), time.process_time()
    for first in range(0, len(texts), together):
        answers += generate(texts[first : first + together], num_beams)
    return answers, time.perf_counter() - wall, time.process_time() - processor


def measure(
    engines: dict[str, Generate], rows: Sequence[dict[str, Ids]], rounds: int, scenario: str
) -> list[dict[str, object]]:
    """Run one scenario by turns on all engines; emit and return a result for each."""
    together, num_beams = SCENARIOS[scenario]
    texts = [row["encoder_ids"] for row in rows]
    golden = [row["greedy_ids" if num_beams == 1 else "beam4_ids"] for row in rows]
    runs: dict[str, list[tuple[float, float]]] = {name: [] for name in engines}
    answers: dict[str, list[Ids]] = {}
    for generate in engines.values():
        timed(generate, texts[:4], together, num_beams)
    for _ in range(rounds):
        for name, generate in engines.items():
            answers[name], wall, processor = timed(generate, texts, together, num_beams)
            runs[name].append((wall, processor))
    results: list[dict[str, object]] = []
    for name in engines:
        wall, processor = (statistics.median(run[i] for run in runs[name]) for i in (0, 1))
        result = {
            "scenario": scenario,
            "engine": name,
            "texts_per_s": round(len(texts) / wall, 2),
            "ms_a_text": round(wall / len(texts) * 1e3, 2),
            "processor_ms_a_text": round(processor / len(texts) * 1e3, 2),
            "wall_s": [round(run[0], 3) for run in runs[name]],
            "equal_to_golden": sum(a == e for a, e in zip(answers[name], golden, strict=True)),
            "texts": len(texts),
            "new_tokens": sum(map(len, answers[name])),
        }
        results.append(result)
        emit(**result)
    return results


def emit(**result: object) -> None:
    print(json.dumps({"bench": "engine", **result}), flush=True)


def machine(threads: int) -> dict[str, object]:
    """Return what a figure depends on."""
    model = platform.processor()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0] if names else model
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": threads,
        "kernels": _native.available_kernels()[0],
        "load_average": os.getloadavg()[0],
    }


def emit_limits(threads: int) -> None:
    """Emit how long reading a token's weights takes at least, from bandwidth measured here and now."""
    config = open_folder(FOLDER).config
    for weights in ("int8", "bfloat16", "float32"):
        size = bytes_per_token(config, weights)
        rate = _native.reading_rate(size, threads)
        emit(
            limit=weights,
            bytes_a_token=size,
            reading_gb_a_s=round(rate / 1e9, 2),
            least_ms_a_token=round(size / rate * 1e3, 3),
        )


def table(results: Sequence[dict[str, object]]) -> str:
    """Return the results as a markdown table."""
    lines = ["| | engine | texts/s | ms a text | processor ms a text | equal |", "|---|---|---|---|---|---|"]
    lines += [
        f"| {r['scenario']} | {r['engine']} | {r['texts_per_s']} | {r['ms_a_text']} | {r['processor_ms_a_text']} "
        f"| {r['equal_to_golden']} of {r['texts']} |"
        for r in results
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=_native.default_threads())
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=64)
    parser.add_argument("--engines", default=ENGINES)
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--converted", type=Path, default=ROOT / ".cache" / "ctranslate2-flan-t5-small")
    arguments = parser.parse_args()
    if not (FOLDER / "model.safetensors").exists():
        sys.exit(f"{FOLDER} is not there. Run `make weights`, or name its parent in T5KIT_TEST_FILES.")
    rows = json.loads(GOLDEN.read_text(encoding="utf-8"))["rows"][: arguments.texts]
    emit(machine=machine(arguments.threads))
    emit_limits(arguments.threads)
    engines = open_engines(arguments.engines.split(","), arguments.threads, arguments.converted)
    results: list[dict[str, object]] = []
    for scenario in arguments.scenarios.split(","):
        results += measure(engines, rows, arguments.rounds, scenario)
    emit(load_average_at_end=os.getloadavg()[0])
    print(table(results), file=sys.stderr)


if __name__ == "__main__":
    main()
