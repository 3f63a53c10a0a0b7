"""A whole training run in miniature: a tiny ByT5 with dropout, forty pairs of texts, seconds long."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from t5kit.data import BatchConfig, BatchLoader, BlockMaker, MixedStream
from t5kit.sources import table_of
from t5kit.tasks import PairExamples, TaskForm, Template
from t5kit.testing.tiny import TINY_CONFIGS
from t5kit.text import ByteTokenizer
from t5kit.training.config import ComputeConfig, LossConfig, OptimizerConfig, ScheduleConfig, TrainingConfig

if TYPE_CHECKING:
    from t5kit.training.hooks import Hook, TrainingRun

TINY_COMPUTE = ComputeConfig(precision="float32", num_threads=1, device="cpu")
"""What `tiny_run` computes with where nothing else is said."""


def tiny_loader(*, seed: int, num_epochs: int | None = None) -> BatchLoader:
    """Return packed batches of 4 rows over 40 pairs of short byte texts, without end if num_epochs is None."""
    rng = np.random.default_rng(0)
    words = ["".join(map(chr, rng.integers(97, 123, int(rng.integers(2, 12))))) for _ in range(40)]
    table = table_of([{"source": word, "target": word[::-1]} for word in words])
    pairs = PairExamples(TaskForm((Template("{source}"),)), table, ByteTokenizer(), block_size=8)
    maker = BlockMaker([pairs], seed=seed, is_shuffled=True, num_workers=0)
    config = BatchConfig(batch_rows=4, encoder_length=32, target_length=32, window_batches=2)
    return BatchLoader(MixedStream(maker, [1.0], seed=seed, num_epochs=num_epochs), config, seed=seed)


def tiny_run(
    path: Path,
    config: TrainingConfig,
    *,
    compute: ComputeConfig = TINY_COMPUTE,
    optimizer: OptimizerConfig | None = None,
    schedule: ScheduleConfig | None = None,
    num_epochs: int | None = None,
    hooks: Sequence["Hook"] = (),
    evaluates: bool = True,
) -> "TrainingRun":
    """Return a run in the folder `path`: a fresh one, or the one that stands there, resumed. Close its folder.

    It does what a recipe's run does, with everything small: the model has some fifty thousand parameters.
    """
    import torch

    from t5kit.model.loading import fresh_model
    from t5kit.model.t5 import T5
    from t5kit.training.environment import precision_of, this_environment
    from t5kit.training.hooks import TrainingRun
    from t5kit.training.optimizers import ModelOptimizer
    from t5kit.training.parallel import Parallel
    from t5kit.training.run_folder import RESOLVED, RunFolder
    from t5kit.training.schedules import make_schedule
    from t5kit.training.step import TrainingStep

    optimizer, schedule = optimizer or OptimizerConfig(), schedule or ScheduleConfig()
    if compute.num_threads:
        torch.set_num_threads(compute.num_threads)
    parallel = Parallel.from_environment()
    architecture = dataclasses.replace(TINY_CONFIGS["byt5"], dropout_rate=0.1)
    model = fresh_model(architecture, generator=torch.Generator().manual_seed(config.seed))
    assert isinstance(model, T5)
    parallel.shard(model, compute=compute)
    updates = ModelOptimizer(model.named_parameters(), optimizer, precision=precision_of(compute))
    step = TrainingStep(
        model,
        updates,
        loss=LossConfig(),
        compute=compute,
        max_gradient_norm=optimizer.max_gradient_norm,
        seed=config.seed,
        parallel=parallel,
    )
    held_out = next(tiny_loader(seed=config.seed + 1))

    def evaluate(num_updates: int) -> Mapping[str, float]:
        sums = step.evaluate(held_out)
        return {"loss": float(sums.mean()), "accuracy": float(sums.correct_sum / sums.count)}

    sections: dict[str, Any] = {"training": config, "compute": compute, "optimizer": optimizer, "schedule": schedule}
    resolved = "".join(_toml(name, dataclasses.asdict(section)) for name, section in sections.items())
    environment = this_environment(seed=config.seed)
    if (path / RESOLVED).exists():
        folder = RunFolder.resume(path, resolved=resolved, environment=environment)
    else:
        folder = RunFolder.create(path, recipe="# a tiny run\n", resolved=resolved, environment=environment)
    return TrainingRun(
        model=model,
        optimizer=updates,
        step=step,
        loader=tiny_loader(seed=config.seed, num_epochs=num_epochs),
        schedule=make_schedule(schedule, total_steps=config.num_steps),
        config=config,
        folder=folder,
        evaluate=evaluate if evaluates else None,
        hooks=hooks,
        save_tokenizer=ByteTokenizer().save,
    )


def _toml(name: str, values: Mapping[str, object]) -> str:
    """Return a TOML section of numbers, texts and booleans, which TOML writes as JSON does, with its subsections."""
    plain = "".join(f"{key} = {json.dumps(value)}\n" for key, value in values.items() if not isinstance(value, dict))
    inner = "".join(_toml(f"{name}.{key}", value) for key, value in values.items() if isinstance(value, dict))
    return f"[{name}]\n{plain}{inner}"
