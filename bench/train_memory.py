"""Peak memory of one training step at FLAN-T5-base's shapes, t5kit beside Hugging Face, each in a process of its own.

    python bench/train_memory.py [--batch-size N] [--encoder-length 512] [--target-length 114] [--preset t5_v1_1-base]
                                 [--growth-steps 400]

Random weights in float32, AdamW, bfloat16 products, dropout 0.1, rows that are full: two whole steps each, so that the
optimizer's memory is in it. Peaks are VmHWM, which a child does not inherit from its parent, unlike ru_maxrss.
The constant part is weights, gradients and two moments, 16 bytes a parameter, and t5kit's bfloat16 copies, 2 more.

Then how memory grows over many steps whose texts have other lengths each time: a model of 5.6M parameters and words
of 3 to 60 tokens, with what the loop does about freed memory (training/memory.py) and without.

One JSON line a result on stdout; tables at the end on stderr.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch

from t5kit.config import T5Config, preset
from t5kit.data import Batch
from t5kit.model.loading import fresh_model
from t5kit.model.t5 import T5
from t5kit.tasks.example import Example
from t5kit.testing.engine_worker import peak_bytes
from t5kit.training.config import ComputeConfig, LossConfig, OptimizerConfig
from t5kit.training.memory import HeapTrimmer, resident_bytes_now
from t5kit.training.optimizers import ModelOptimizer
from t5kit.training.step import TrainingStep

WAYS = {
    "huggingface": "Hugging Face",
    "huggingface_checkpointing": "Hugging Face, gradient_checkpointing_enable()",
    "whole_loss": "t5kit, all logits at once",
    "plain": "t5kit",
    "recomputes": "t5kit, recomputes_layers",
    "microbatches": "t5kit, recomputes_layers, microbatch_rows = 1",
}

NUM_STEPS = 2
GROWTH_WAYS = {"grows": "t5kit, freed memory kept", "trimmed": "t5kit, freed memory given back (the default)"}
GROWTH_WORDS, GROWTH_LENGTHS = 128, (3, 60)
"""Pairs of a batch, and the fewest and most tokens of their sides."""


def ids(shape: tuple[int, ...], vocab_size: int) -> np.ndarray:
    return np.random.default_rng(0).integers(3, vocab_size, shape)


def huggingface_step(config: T5Config, shape: tuple[int, int, int], *, checkpoints: bool) -> Callable[[int], None]:
    import transformers

    transformers.logging.set_verbosity_error()
    rows, encoder_length, target_length = shape
    theirs = transformers.T5Config(  # type: ignore[call-arg]  # its fields are made by a decorator
        vocab_size=config.vocab_size,
        d_model=config.d_model,
        d_kv=config.d_kv,
        d_ff=config.d_ff,
        num_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        num_heads=config.num_heads,
        dropout_rate=0.1,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    model = transformers.T5ForConditionalGeneration(theirs).train()
    # transformers 5 ties even untied models made from scratch; a tied one would be 99 MB lighter.
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    if checkpoints:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.config.use_cache = False
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    encoder_ids = torch.from_numpy(ids((rows, encoder_length), config.vocab_size))
    labels = torch.from_numpy(ids((rows, target_length), config.vocab_size))

    def step(_: int) -> None:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = model(input_ids=encoder_ids, labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def t5kit_training_step(config: T5Config, way: str) -> TrainingStep:
    model = fresh_model(config, generator=torch.Generator().manual_seed(0))
    assert isinstance(model, T5)
    return TrainingStep(
        model,
        ModelOptimizer(model.named_parameters(), OptimizerConfig(name="adamw")),
        loss=LossConfig(chunk_targets=10**9 if way == "whole_loss" else LossConfig().chunk_targets),
        compute=ComputeConfig(
            precision="bfloat16",
            recomputes_layers=way in ("recomputes", "microbatches"),
            microbatch_rows=int(way == "microbatches"),
        ),
        max_gradient_norm=1.0,
        seed=0,
    )


def t5kit_step(config: T5Config, shape: tuple[int, int, int], way: str) -> Callable[[int], None]:
    rows, encoder_length, target_length = shape
    training_step = t5kit_training_step(config, way)
    encoder_ids, labels = (ids((rows, length), config.vocab_size) for length in (encoder_length, target_length))
    texts = [[Example.with_full_loss(source, target)] for source, target in zip(encoder_ids, labels, strict=True)]
    batch = Batch.of_rows(texts, encoder_length=encoder_length, target_length=target_length)

    def step(number: int) -> None:
        training_step(batch, step=number, lr=1e-4)

    return step


def run_one(way: str, config: T5Config, shape: tuple[int, int, int]) -> None:
    """Make two steps one way and print what they took."""
    if way.startswith("huggingface"):
        step = huggingface_step(config, shape, checkpoints=way.endswith("checkpointing"))
    else:
        step = t5kit_step(config, shape, way)
    start = time.process_time()
    for number in range(NUM_STEPS):
        step(number)
    seconds = (time.process_time() - start) / NUM_STEPS
    print(json.dumps({"peak_mb": round(peak_bytes() / 2**20), "processor_seconds_a_step": round(seconds, 1)}))


def growth_config() -> T5Config:
    return dataclasses.replace(
        preset("t5_v1_1-small"), vocab_size=384, d_model=256, d_kv=64, d_ff=768, num_heads=4, num_encoder_layers=4,
        num_decoder_layers=2,
    )  # fmt: skip


def growth_batch(rng: np.random.Generator, vocab_size: int) -> Batch:
    """Return pairs of random lengths, one a row: what differs from batch to batch is the shape of everything."""
    least, most = GROWTH_LENGTHS
    longest = rng.integers(least + 1, most + 1, 2)  # of a batch: words of one task, say
    rows = [
        [Example.with_full_loss(*(rng.integers(3, vocab_size, rng.integers(least, each + 1)) for each in longest))]
        for _ in range(GROWTH_WORDS)
    ]
    return Batch.of_rows(rows, encoder_length=most, target_length=most)


def run_growth(way: str, num_steps: int) -> None:
    """Make many steps and print the memory held after a tenth of them and after all."""
    config, rng = growth_config(), np.random.default_rng(0)
    step = t5kit_training_step(config, "plain")
    heap = HeapTrimmer() if way == "trimmed" else None
    held, start = [], time.process_time()
    for number in range(num_steps):
        step(growth_batch(rng, config.vocab_size), step=number, lr=1e-4)
        if heap is not None:
            heap.after_step(number + 1)
        held.append(round(resident_bytes_now() / 2**20))
    print(
        json.dumps(
            {
                "early_mb": max(held[: max(1, num_steps // 10)]),
                "late_mb": max(held[-max(1, num_steps // 10) :]),
                "peak_mb": round(peak_bytes() / 2**20),
                "processor_seconds_a_step": round((time.process_time() - start) / num_steps, 2),
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--encoder-length", type=int, default=512)
    parser.add_argument("--target-length", type=int, default=114)
    parser.add_argument("--preset", default="t5_v1_1-base", help="FLAN-T5 has the shapes of T5 v1.1")
    parser.add_argument("--ways", default=",".join(WAYS))
    parser.add_argument("--threads", type=int, default=None, help="processor threads (PyTorch's choice)")
    parser.add_argument("--growth-steps", type=int, default=400, help="0 leaves the growth out")
    parser.add_argument("--one", choices=[*WAYS, *GROWTH_WAYS], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.threads is not None:
        torch.set_num_threads(arguments.threads)
    config, shape = preset(arguments.preset), (arguments.batch_size, arguments.encoder_length, arguments.target_length)
    if arguments.one in GROWTH_WAYS:
        run_growth(arguments.one, arguments.growth_steps)
        return
    if arguments.one:
        run_one(arguments.one, config, shape)
        return
    lines = ["| | peak MB | processor s a step |", "|---|---|---|"]
    command = [sys.executable, __file__, "--preset", arguments.preset, "--threads", str(torch.get_num_threads())]
    for name, size in zip(("batch-size", "encoder-length", "target-length"), shape, strict=True):
        command += [f"--{name}", str(size)]
    command += ["--growth-steps", str(arguments.growth_steps)]

    def found_by(way: str) -> dict[str, float]:
        out = subprocess.run([*command, "--one", way], check=True, capture_output=True, text=True).stdout
        found: dict[str, float] = json.loads(out)
        return found

    for way in filter(None, arguments.ways.split(",")):
        found = found_by(way)
        print(json.dumps({"bench": "train_memory", "way": way, "shape": shape, **found}), flush=True)
        lines.append(f"| {WAYS[way]} | {found['peak_mb']:,} | {found['processor_seconds_a_step']:.0f} |")
    if arguments.growth_steps:
        lines += [
            "",
            f"| {arguments.growth_steps} steps | MB, first tenth | MB, last tenth | peak MB | processor s a step |",
            "|---|---|---|---|---|",
        ]
        for way, name in GROWTH_WAYS.items():
            found = found_by(way)
            print(
                json.dumps({"bench": "train_memory", "way": way, "steps": arguments.growth_steps, **found}), flush=True
            )
            lines.append(
                f"| {name} | {found['early_mb']:,} | {found['late_mb']:,} | {found['peak_mb']:,} "
                f"| {found['processor_seconds_a_step']:.2f} |"
            )
    print("\n".join(lines), file=sys.stderr)


if __name__ == "__main__":
    main()
