"""t5kit's training step beside Hugging Face's T5 under its usual loop: real tokens a second, and the same losses.

    make bench                  or, with the files of `make weights` fetched:
    python bench/train.py [--data synopsis.train.tsv.gz] [--steps N] [--batch-size N] [--threads N] [--compiled]
                          [--held-out N]

Both fine-tune FLAN-T5-small on the same examples in the same order, dropout 0.1, AdamW at the same learning rate,
gradients clipped at 1. Hugging Face: autocast to bfloat16, every batch padded to its longest text, its own dropout.
t5kit: bfloat16 copies, all else ComputeConfig's defaults. They run in one process by turns, a step each, so that
whatever else the machine does meets both; medians and their ratio count. Only tokens that are no padding are counted.
Processor seconds stand beside seconds of the clock: on a busy machine and with one thread they are what a quiet one
would show.

--held-out: the mean loss of so many other examples, dropout off, before the first step and after the last: the losses
of the steps themselves have dropout in them, which the two draw differently.

--data: lines of input TAB target, as scripts/build_debian_tasks.py makes them; by default it is run once, into
.cache/debian-tasks. In the same run: the rate of large matrix products, and where a step of t5kit spends its time.

One JSON line a result on stdout; a table at the end on stderr.
"""

import argparse
import dataclasses
import gzip
import json
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from machine import machine_with_torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from t5kit.checkpoint import open_folder
from t5kit.data import Batch
from t5kit.model.loading import load_model
from t5kit.model.t5 import T5
from t5kit.tasks.example import Example
from t5kit.text import load_tokenizer
from t5kit.training.config import AdamConfig, ComputeConfig, LossConfig, OptimizerConfig
from t5kit.training.optimizers import ModelOptimizer
from t5kit.training.step import TrainingStep

ROOT = Path(__file__).parent.parent
FILES = Path(os.environ.get("T5KIT_TEST_FILES", ROOT / ".cache" / "t5kit-test-files"))
BUILT = ROOT / ".cache" / "debian-tasks" / "synopsis.train.tsv.gz"
MAX_ENCODER, MAX_TARGET = 512, 128
LR = 3e-4
SYSTEMS = ("huggingface", "t5kit")

Step = Callable[[Sequence[Example], int], float]
"""Examples, number of the step -> mean loss of their targets before the update."""
HeldOut = Callable[[Sequence[Example]], float]
"""Examples -> mean loss of their targets, dropout off."""


@dataclasses.dataclass(frozen=True, slots=True)
class System:
    """A model that is being trained."""

    step: Step
    held_out: HeldOut


KINDS = {
    "matrix products": "mm bmm addmm addmm_ baddbmm",
    "copies and gathers": "copy_ index_select cat gather index fill_ zero_ _foreach_copy_ index_put_ _index_put_impl_ "
    "constant_pad_nd embedding_dense_backward",
    "softmax": "_softmax _softmax_backward_data exp_ amax",
    "optimizer": "_fused_adamw_",
}
"""Kind of work -> operations; every other operation that takes time is element-wise work or its bookkeeping."""


def open_huggingface() -> System:
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    model = transformers.T5ForConditionalGeneration.from_pretrained(FILES / "flan-t5-small", dtype=torch.float32)
    # transformers 5 has left untied heads tied or random (T5 v1.1 folders); a wrong head would make this bench a lie.
    assert not torch.equal(model.lm_head.weight, model.shared.weight)
    assert model.config.dropout_rate == 0.1
    model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.0, fused=True)

    def loss_of(examples: Sequence[Example]) -> Tensor:
        ids = padded([example.encoder_ids for example in examples], 0)
        labels = padded([example.target_ids for example in examples], -100)
        mask = padded([np.ones_like(example.encoder_ids) for example in examples], 0)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss: Tensor = model(input_ids=ids, attention_mask=mask, labels=labels).loss
        return loss

    def step(examples: Sequence[Example], number: int) -> float:
        torch.manual_seed(number)
        loss = loss_of(examples)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    def held_out(examples: Sequence[Example]) -> float:
        model.eval()
        total = 0.0
        with torch.no_grad():
            for few in in_parts(examples):
                total += float(loss_of(few)) * sum(len(example.target_ids) for example in few)
        model.train()
        return total / sum(len(example.target_ids) for example in examples)

    return System(step, held_out)


def in_parts(examples: Sequence[Example], size: int = 16) -> Iterator[Sequence[Example]]:
    """Yield so many examples at a time."""
    for first in range(0, len(examples), size):
        yield examples[first : first + size]


def padded(rows: Sequence[np.ndarray], filler: int) -> Tensor:
    """Return rows as one int64 tensor, as wide as the longest."""
    wide = np.full((len(rows), max(map(len, rows))), filler, np.int64)
    for row, values in zip(wide, rows, strict=True):
        row[: len(values)] = values
    return torch.from_numpy(wide)


def open_t5kit(*, is_compiled: bool) -> System:
    folder = open_folder(FILES / "flan-t5-small")
    model = load_model(folder.config, folder.tensors())
    assert isinstance(model, T5)
    assert folder.config.dropout_rate == 0.1
    training_step = TrainingStep(
        model,
        ModelOptimizer(model.named_parameters(), OptimizerConfig(name="adamw", adam=AdamConfig())),
        loss=LossConfig(z_loss=0.0),  # Hugging Face has none
        compute=ComputeConfig(precision="bfloat16", is_compiled=is_compiled),
        max_gradient_norm=1.0,
        seed=0,
    )

    def batch_of(examples: Sequence[Example]) -> Batch:
        longest = max(len(example.encoder_ids) for example in examples)
        return Batch.of_rows([[e] for e in examples], encoder_length=longest, target_length=MAX_TARGET)

    def step(examples: Sequence[Example], number: int) -> float:
        return training_step(batch_of(examples), step=number, lr=LR).loss

    def held_out(examples: Sequence[Example]) -> float:
        sums = [training_step.evaluate(batch_of(few)) for few in in_parts(examples)]
        return float(sum(part.negative_log_likelihood_sum for part in sums) / sum(part.count for part in sums))

    return System(step, held_out)


def read_examples(data: Path, count: int) -> list[Example]:
    """Return a fixed sample of the file's rows as ids, cut to the lengths that are trained."""
    with gzip.open(data, "rt", encoding="utf-8") as lines:
        rows = [line.rstrip("\n").split("\t") for line in lines]
    tokenizer = load_tokenizer(FILES / "flan-t5-small")
    chosen = random.Random(0).sample(rows, count)

    def ids(text: str, limit: int) -> np.ndarray:
        return np.array([*tokenizer.encode(text, add_eos=False)[: limit - 1], tokenizer.eos_id], np.int32)

    return [Example.with_full_loss(ids(source, MAX_ENCODER), ids(target, MAX_TARGET)) for source, target in chosen]


def built_data() -> Path:
    """Return the training part of `synopsis`, rebuilt from Debian's package index where it is not there yet."""
    if not BUILT.exists():
        print(f"{BUILT} is not there; building it from Debian's package index.", file=sys.stderr)
        program = ROOT / "scripts" / "build_debian_tasks.py"
        subprocess.run([sys.executable, str(program), str(BUILT.parent)], check=True, stdout=sys.stderr)
    return BUILT


@dataclasses.dataclass(frozen=True)
class Timed:
    """One system's step on one batch."""

    loss: float
    seconds: float
    processor_seconds: float


def timed(step: Step, examples: Sequence[Example], number: int) -> Timed:
    clock, processor = time.perf_counter(), time.process_time()
    loss = step(examples, number)
    return Timed(loss, time.perf_counter() - clock, time.process_time() - processor)


def product_rates(size: int = 1536, repeats: int = 4) -> dict[str, float]:
    """Return GFLOP per second, and per processor second, of square matrix products in bfloat16 and float32."""
    rates = {}
    for dtype in (torch.bfloat16, torch.float32):
        left, right = (torch.randn(size, size, dtype=dtype) for _ in range(2))
        left @ right
        clocks, processors = [], []
        for _ in range(repeats):
            clock, processor = time.perf_counter(), time.process_time()
            left @ right
            clocks.append(time.perf_counter() - clock)
            processors.append(time.process_time() - processor)
        name, work = str(dtype).removeprefix("torch."), 2e-9 * size**3
        rates[name] = work / min(clocks)
        rates[f"{name}_processor"] = work / min(processors)
    return rates


def model_gflop(examples: Sequence[Example]) -> float:
    """Return the products that one step needs for its real tokens: linear maps, three times for forward and backward.

    Attention's own products are left out (a few percent at these lengths).
    """
    config = open_folder(FILES / "flan-t5-small").config
    num_encoder = sum(len(example.encoder_ids) for example in examples)
    num_target = sum(len(example.target_ids) for example in examples)
    projection = config.d_model * config.inner_width
    feed_forward = (3 if config.uses_gated_mlp else 2) * config.d_model * config.d_ff
    in_encoder = (
        config.num_encoder_layers * (4 * projection + feed_forward) + config.num_decoder_layers * 2 * projection
    )
    in_decoder = config.num_decoder_layers * (6 * projection + feed_forward) + config.vocab_size * config.d_model
    return 6e-9 * (num_encoder * in_encoder + num_target * in_decoder)


def shares(step: Step, examples: Sequence[Example], number: int) -> dict[str, float]:
    """Return the share of a step's time that each kind of work takes, by PyTorch's profiler."""
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        step(examples, number)
    events = profiled.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    by_kind = {
        kind: sum(event.self_cpu_time_total for event in events if event.key.removeprefix("aten::") in names.split())
        / total
        for kind, names in KINDS.items()
    }
    return {**by_kind, "element-wise and the rest": 1 - sum(by_kind.values())}


def emit(**result: object) -> None:
    print(json.dumps({"bench": "train", **result}), flush=True)


def measure(
    batches: Sequence[Sequence[Example]], systems: dict[str, System], num_warmup: int
) -> dict[str, list[Timed]]:
    """Run every batch on every system by turns; return all steps."""
    times: dict[str, list[Timed]] = {name: [] for name in systems}
    for number, examples in enumerate(batches):
        num_tokens = sum(len(e.encoder_ids) + len(e.target_ids) for e in examples)
        for name, system in systems.items():
            result = timed(system.step, examples, number)
            times[name].append(result)
            emit(system=name, step=number, tokens=num_tokens, is_warmup=number < num_warmup, **vars(result))
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=None, help="lines of input TAB target, gzipped")
    parser.add_argument("--steps", type=int, default=12, help="updates of each system, warm-up included")
    parser.add_argument("--batch-size", type=int, default=32, help="examples of an update")
    parser.add_argument("--threads", type=int, default=None, help="processor threads (PyTorch's choice)")
    parser.add_argument("--held-out", type=int, default=0, help="examples whose loss is taken before and after")
    parser.add_argument("--compiled", action="store_true", help="t5kit with compute.is_compiled")
    arguments = parser.parse_args()
    if not (FILES / "flan-t5-small" / "model.safetensors").exists():
        sys.exit(f"{FILES}/flan-t5-small is not there. Run `make weights`, or name its folder in T5KIT_TEST_FILES.")
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    num_warmup = min(2, arguments.steps - 1)
    size = arguments.batch_size
    examples = read_examples(arguments.data or built_data(), arguments.steps * size + arguments.held_out)
    held_out, examples = examples[: arguments.held_out], examples[arguments.held_out :]
    batches = [examples[first : first + size] for first in range(0, len(examples), size)]
    emit(machine=machine_with_torch(), batch_size=size, compiled=arguments.compiled)
    before = product_rates()
    systems = {"huggingface": open_huggingface(), "t5kit": open_t5kit(is_compiled=arguments.compiled)}
    losses = {name: [system.held_out(held_out)] for name, system in systems.items()} if held_out else {}
    times = measure(batches, systems, num_warmup)
    for name in losses:
        losses[name].append(systems[name].held_out(held_out))
        emit(system=name, held_out_loss_before=losses[name][0], held_out_loss_after=losses[name][1])
    rates = {name: max(rate, before[name]) for name, rate in product_rates().items()}
    emit(products_gflop_per_s=rates)
    kinds = shares(systems["t5kit"].step, batches[-1], len(batches))
    emit(system="t5kit", shares_of_a_step=kinds)
    tokens = [sum(len(e.encoder_ids) + len(e.target_ids) for e in batch) for batch in batches][num_warmup:]
    speed = {}
    for system in SYSTEMS:
        counted = times[system][num_warmup:]
        speed[system] = {
            "tokens_per_s": statistics.median(n / t.seconds for n, t in zip(tokens, counted, strict=True)),
            "tokens_per_processor_s": statistics.median(
                n / t.processor_seconds for n, t in zip(tokens, counted, strict=True)
            ),
            "share_of_bfloat16_products": statistics.median(
                model_gflop(batch) / t.processor_seconds / rates["bfloat16_processor"]
                for batch, t in zip(batches[num_warmup:], counted, strict=True)
            ),
            "mean_loss_of_last_half": statistics.mean(t.loss for t in times[system][len(batches) // 2 :]),
        }
        emit(system=system, **speed[system])
    real = sum(len(e.encoder_ids) for e in examples)
    filled = sum(len(batch) * max(len(e.encoder_ids) for e in batch) for batch in batches)
    emit(
        times_as_fast=speed["t5kit"]["tokens_per_s"] / speed["huggingface"]["tokens_per_s"],
        times_as_fast_by_processor=speed["t5kit"]["tokens_per_processor_s"]
        / speed["huggingface"]["tokens_per_processor_s"],
        share_of_huggingfaces_encoder_positions_that_is_real=real / filled,
    )
    print(table(speed, kinds, times), file=sys.stderr)
    for name, (first, last) in losses.items():
        print(
            f"{name}: loss of {len(held_out)} held-out examples {first:.4f} before, {last:.4f} after", file=sys.stderr
        )


def table(speed: dict[str, dict[str, float]], kinds: dict[str, float], times: dict[str, list[Timed]]) -> str:
    """Return the results as markdown."""
    lines = [
        "| | tokens/s | tokens/processor s | share of bfloat16 products | loss, last half |",
        "|---|---|---|---|---|",
    ]
    for system, found in speed.items():
        lines.append(
            f"| {system} | {found['tokens_per_s']:.0f} | {found['tokens_per_processor_s']:.0f} "
            f"| {found['share_of_bfloat16_products']:.0%} | {found['mean_loss_of_last_half']:.3f} |"
        )
    lines += ["", "| step | " + " | ".join(times) + " |", "|---|" + "---|" * len(times)]
    for number, pair in enumerate(zip(*times.values(), strict=True)):
        lines.append(f"| {number} | " + " | ".join(f"{one.loss:.3f}" for one in pair) + " |")
    lines += ["", *(f"{kind}: {share:.0%}" for kind, share in kinds.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
