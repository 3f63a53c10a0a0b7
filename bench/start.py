"""From starting a process to its first token, and the memory it took: t5kit beside CTranslate2 and Hugging Face.

    T5KIT_TEST_FILES=... python bench/start.py [--threads 2] [--rounds 3]

Real FLAN-T5-small weights, one text of tests/golden/synopsis64.json, ids in and one greedy token out, each start in a
process of its own, by turns. t5kit starts with no cache (T5KIT_CACHE=off), with an empty one that it fills, with a full
one, and from an int8 folder without a cache. Measured in the process: seconds of importing, of loading, to the first
token, VmHWM, the peak of memory that counts mapped files too (`ru_maxrss` is inherited from the parent and lies), and
RssAnon, what the process holds for itself at the end: mapped weights are shared and given back when memory is short.
The system's file cache is warm for all. CTranslate2's model is converted to int8 beforehand, and it gets pieces, its
own form of ids. bench/engine.py times its starts with this too.

One JSON line a result on stdout (medians of the rounds), a table at the end on stderr.
"""

import argparse
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from t5kit.checkpoint import open_folder, write_folder
from t5kit.testing.peers import EngineName, converted_folder, prepare_engine

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden" / "synopsis64.json"
FOLDER = Path(os.environ.get("T5KIT_TEST_FILES", ROOT / ".cache" / "t5kit-test-files")) / "flan-t5-small"

# Each child sets `first()`, which loads nothing more and returns the first token's id.
T5KIT = """
from pathlib import Path
import numpy as np
from t5kit.checkpoint import open_folder
from t5kit.runtime import StepInput
from t5kit.runtime.native import NativeRuntime
imported = time.perf_counter()
folder = open_folder(Path(model))
runtime = NativeRuntime(folder.config, folder.tensors(), weights=weights, threads=threads,
                        weight_files=folder.weight_files)
def first():
    slots = runtime.open_slots(runtime.encode([np.array(ids, np.int32)]))
    return int(runtime.step(StepInput.one_token_each(slots, np.zeros(1, np.int32))).top_ids[0, 0])
"""
CTRANSLATE2 = """
import ctranslate2
imported = time.perf_counter()
translator = ctranslate2.Translator(model, compute_type=weights, intra_threads=threads, inter_threads=workers)
def first():
    made = translator.translate_batch([ids], beam_size=1, max_decoding_length=1, return_end_token=True)
    return made[0].hypotheses[0][0]
"""
HUGGINGFACE = """
import torch, transformers
imported = time.perf_counter()
torch.set_num_threads(threads)
transformers.logging.set_verbosity_error()
network = transformers.T5ForConditionalGeneration.from_pretrained(model, dtype=getattr(torch, weights)).eval()
def first():
    with torch.inference_mode():
        return int(network.generate(input_ids=torch.tensor([ids]), do_sample=False, max_new_tokens=1)[0, 1])
"""
CHILD = """
import time
started = time.perf_counter()
import json, os, sys
model, weights, threads, workers, ids = json.loads(sys.argv[1])
{system}
loaded = time.perf_counter()
token = first()
done = time.perf_counter()
status = dict(line.split(":", 1) for line in open("/proc/self/status") if line.startswith(("Vm", "Rss")))
print(json.dumps(dict(token=token, import_s=imported - started, load_s=loaded - imported, first_token_s=done - loaded,
                      total_s=done - started, peak_mb=int(status["VmHWM"].split()[0]) * 1024 / 1e6,
                      private_mb=int(status["RssAnon"].split()[0]) * 1024 / 1e6)))
sys.stdout.flush()
os._exit(0)
"""


SYSTEMS = {
    "native": T5KIT, "ctranslate2": CTRANSLATE2, "ctranslate2_workers": CTRANSLATE2, "transformers": HUGGINGFACE
}  # fmt: skip
"""Engine -> its child."""


def start(
    name: EngineName, model: Path, threads: int, ids: list[int], *, scratch: Path, cache: str | None = None
) -> dict[str, float]:
    """Return what one process measured of itself: seconds, MB, and its first token's id.

    scratch: what `prepare_engine` was given. cache: T5KIT_CACHE; None leaves it as it is.
    """
    shown: list[str] | list[int] = ids
    vocabulary: list[str] = []
    folder, workers = model, threads if name.engine == "ctranslate2_workers" else 1
    if name.is_ctranslate2:
        folder = converted_folder(name, scratch)
        vocabulary = json.loads((folder / "shared_vocabulary.json").read_text(encoding="utf-8"))
        shown = [vocabulary[number] for number in ids]
    argument = json.dumps([str(folder), name.weights, threads // workers, workers, shown])
    environment = {**os.environ, **({} if cache is None else {"T5KIT_CACHE": cache}), "OMP_NUM_THREADS": str(threads)}
    made = subprocess.run(
        [sys.executable, "-c", CHILD.replace("{system}", SYSTEMS[name.engine]), argument],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        sys.exit(made.stderr)
    result: dict[str, float] = json.loads(made.stdout.splitlines()[-1])
    if vocabulary:
        result["token"] = vocabulary.index(str(result["token"]))
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    chosen = parser.parse_args()
    row = json.loads(GOLDEN.read_text(encoding="utf-8"))["rows"][0]
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        folder = open_folder(FOLDER)
        write_folder(work / "int8", folder.config, folder.tensors(), weights="int8")
        full = str(work / "full")
        cases: dict[str, tuple[str, Path, str | None]] = {
            "t5kit int8, no cache": ("native:int8", FOLDER, "off"),
            "t5kit int8, empty cache": ("native:int8", FOLDER, None),
            "t5kit int8, full cache": ("native:int8", FOLDER, full),
            "t5kit int8 folder, no cache": ("native:int8", work / "int8", "off"),
            "t5kit bfloat16, full cache": ("native:bfloat16", FOLDER, full),
            "t5kit float32, full cache": ("native:float32", FOLDER, full),
        }
        if importlib.util.find_spec("ctranslate2"):
            prepare_engine(EngineName.parse("ctranslate2:int8"), FOLDER, scratch=work)
            cases["CTranslate2 int8"] = ("ctranslate2:int8", FOLDER, "off")
        if importlib.util.find_spec("transformers"):
            cases["Hugging Face float32"] = ("transformers:float32", FOLDER, "off")
        results: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
        for number in range(chosen.rounds + 1):  # the first round fills caches and is not counted
            for name, (word, model, cache) in cases.items():
                place = str(work / f"empty{number}") if cache is None else cache
                engine = EngineName.parse(word)
                result = start(engine, model, chosen.threads, row["encoder_ids"], scratch=work, cache=place)
                if number:
                    results[name].append(result)
    machine = {
        "machine": platform.processor() or platform.machine(),
        "threads": chosen.threads,
        "rounds": chosen.rounds,
    }
    for name, rounds in results.items():
        medians = {key: round(statistics.median(each[key] for each in rounds), 4) for key in rounds[0]}
        is_right = all(each["token"] == row["greedy_ids"][0] for each in rounds)
        print(json.dumps({"case": name, **medians, "first_token_is_float32s": is_right, **machine}), flush=True)
        print(
            f"{name:30} import {medians['import_s']:6.3f} s  load {medians['load_s']:6.3f} s  first token "
            f"{medians['first_token_s']:6.3f} s  peak {medians['peak_mb']:5.0f} MB, "
            f"{medians['private_mb']:4.0f} of them private",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
