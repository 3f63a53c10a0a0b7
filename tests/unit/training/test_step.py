"""One update: what must not change it, and what must."""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import Tensor  # noqa: E402

from t5kit.data import Batch  # noqa: E402
from t5kit.errors import ConfigError, DataError  # noqa: E402
from t5kit.model.loading import fresh_model, load_model  # noqa: E402
from t5kit.model.t5 import T5  # noqa: E402
from t5kit.tasks.example import Example  # noqa: E402
from t5kit.testing.tiny import TINY_CONFIGS, random_tensors  # noqa: E402
from t5kit.training.config import ComputeConfig, LossConfig, OptimizerConfig, SgdConfig  # noqa: E402
from t5kit.training.optimizers import ModelOptimizer  # noqa: E402
from t5kit.training.parallel import Parallel  # noqa: E402
from t5kit.training.precision import ComputeCopies  # noqa: E402
from t5kit.training.step import StepReport, TrainingStep  # noqa: E402

SGD = OptimizerConfig(name="sgd")
FLOAT32 = ComputeConfig(precision="float32")
CONVENTIONS = ("length", "none")


def example(draw: np.random.Generator) -> Example:
    num_encoder, num_target = draw.integers(1, 14, 2)
    return Example.with_full_loss(draw.integers(3, 96, num_encoder), draw.integers(3, 96, num_target))


def examples(count: int, *, seed: int = 0) -> list[Example]:
    draw = np.random.default_rng(seed)
    return [example(draw) for _ in range(count)]


def batch_of(rows: Sequence[Sequence[Example]]) -> Batch:
    return Batch.of_rows(rows, encoder_length=40, target_length=40)


def alone(texts: Sequence[Example]) -> Batch:
    """Return a batch of one text a row."""
    return batch_of([[text] for text in texts])


def tiny(*, family: str = "t5_v1_1", dropout_rate: float = 0.0) -> T5:
    config = dataclasses.replace(TINY_CONFIGS[family], dropout_rate=dropout_rate)
    model = load_model(config, random_tensors(config))
    assert isinstance(model, T5)
    return model


def step_of(
    model: T5, *, compute: ComputeConfig = FLOAT32, optimizer: OptimizerConfig = SGD, seed: int = 0, clip: float = 0.0
) -> TrainingStep:
    return TrainingStep(
        model,
        ModelOptimizer(model.named_parameters(), optimizer),
        loss=LossConfig(),
        compute=compute,
        max_gradient_norm=clip,
        seed=seed,
    )


def updated(
    batch: Batch, *, compute: ComputeConfig = FLOAT32, step: int = 0, seed: int = 0, dropout_rate: float = 0.1
) -> tuple[StepReport, list[Tensor]]:
    """Return the report of one update from the same weights, and the weights after it."""
    model = tiny(dropout_rate=dropout_rate)
    report = step_of(model, compute=compute, seed=seed)(batch, step=step, lr=0.1)
    return report, [parameter.detach().clone() for parameter in model.parameters()]


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


@pytest.mark.parametrize("broadcast", CONVENTIONS)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_recomputing_layers_changes_nothing_to_the_bit(precision: str, broadcast: str) -> None:
    batch = batch_of([examples(3), examples(2, seed=1)])
    compute = ComputeConfig(precision=precision, dropout_broadcast=broadcast)  # type: ignore[arg-type]
    kept, kept_weights = updated(batch, compute=compute)
    again, again_weights = updated(batch, compute=dataclasses.replace(compute, recomputes_layers=True))
    assert kept == again
    assert same(kept_weights, again_weights)


@pytest.mark.parametrize("broadcast", CONVENTIONS)
def test_dropout_follows_from_seed_step_and_microbatch_alone(broadcast: str) -> None:
    compute = ComputeConfig(precision="float32", dropout_broadcast=broadcast, microbatch_rows=1)  # type: ignore[arg-type]
    text = examples(1)
    batch = alone(text)
    first, weights = updated(batch, compute=compute)
    torch.manual_seed(99)  # whatever else draws numbers
    torch.rand(3)
    again, weights_again = updated(batch, compute=compute)
    assert first == again
    assert same(weights, weights_again)
    others = [
        updated(batch, compute=compute, step=1),
        updated(batch, compute=compute, seed=1),
        updated(alone(text + text), compute=compute),  # its second microbatch draws anew
    ]
    assert len({report.loss for report, _ in [(first, weights), *others]}) == 4


def test_a_step_leaves_the_generators_of_pytorch_alone() -> None:
    compute = ComputeConfig(precision="float32", dropout_broadcast="none")
    before = torch.random.get_rng_state()
    updated(alone(examples(2)), compute=compute)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("broadcast", CONVENTIONS)
def test_evaluation_drops_nothing_and_changes_nothing(broadcast: str) -> None:
    batch = alone(examples(4))
    compute = ComputeConfig(precision="float32", dropout_broadcast=broadcast)  # type: ignore[arg-type]
    model = tiny(dropout_rate=0.5)
    step = step_of(model, compute=compute)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    loss = float(step.evaluate(batch).mean())
    assert same(before, [parameter.detach() for parameter in model.parameters()])
    assert all(parameter.grad is None for parameter in model.parameters())
    report, _ = updated(batch, dropout_rate=0.0)
    assert loss == pytest.approx(report.loss, abs=1e-6)


def test_evaluation_sees_the_weights_of_the_moment_in_bfloat16() -> None:
    batch, model = alone(examples(4)), tiny()
    step = step_of(model, compute=ComputeConfig(precision="bfloat16"))
    first = float(step.evaluate(batch).mean())
    with torch.no_grad():
        model.lm_head.weight.zero_()
    flat = float(step.evaluate(batch).mean())
    assert first != pytest.approx(flat, abs=0.1)
    assert flat == pytest.approx(np.log(96) + 1e-4 * np.log(96) ** 2, abs=1e-3)


def test_a_gradient_that_is_not_finite_changes_nothing_and_is_reported() -> None:
    batch, model = alone(examples(2)), tiny()
    with torch.no_grad():
        model.get_parameter("decoder.block.0.layer.2.DenseReluDense.wo.weight")[0, 0] = float("inf")
    step = step_of(model, optimizer=OptimizerConfig(name="adamw"))
    before = [parameter.detach().clone() for parameter in model.parameters()]
    report = step(batch, step=0, lr=0.1)
    assert report.is_skipped
    assert not np.isfinite(report.global_norm)
    assert same(before, [parameter.detach() for parameter in model.parameters()])
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_update_is_that_of_the_mean_loss() -> None:
    """One step of plain descent, by hand through the model's own padded path."""
    batch, model, twin = alone(examples(3)), tiny(), tiny()
    report = step_of(model, clip=0.5)(batch, step=0, lr=0.1)
    logits = twin(
        encoder_input_ids=torch.from_numpy(batch.encoder_input_ids),
        decoder_input_ids=torch.from_numpy(batch.decoder_input_ids),
        encoder_segment_ids=torch.from_numpy(batch.encoder_segment_ids),
        decoder_segment_ids=torch.from_numpy(batch.decoder_segment_ids),
    )[torch.from_numpy(batch.loss_weights) > 0]
    labels = torch.from_numpy(batch.labels[batch.loss_weights > 0]).long()
    log_z = logits.logsumexp(-1)
    likelihood = torch.nn.functional.cross_entropy(logits, labels)
    loss = likelihood + 1e-4 * log_z.square().mean()
    loss.backward()
    loss, likelihood = loss.detach(), likelihood.detach()
    gradients = [p.grad for p in twin.parameters() if p.grad is not None]
    norm = float(torch.linalg.vector_norm(torch.stack([gradient.norm() for gradient in gradients])))
    assert report.loss == pytest.approx(float(loss), abs=1e-5)
    assert report.negative_log_likelihood == pytest.approx(float(likelihood), abs=1e-5)
    assert report.z_loss == pytest.approx(float(loss - likelihood), abs=1e-5)
    assert report.accuracy == pytest.approx(float((logits.argmax(-1) == labels).float().mean()))
    assert report.num_targets == len(labels) == report.num_target_tokens
    assert report.num_encoder_tokens == np.count_nonzero(batch.encoder_segment_ids)
    assert report.global_norm == pytest.approx(norm, rel=1e-4)
    assert norm > 0.5, "the clip is part of this test"
    assert report.clip_factor == pytest.approx(0.5 / norm, rel=1e-4)
    for parameter, other, gradient in zip(model.parameters(), twin.parameters(), gradients, strict=True):
        expected = other - 0.1 * (0.5 / norm) * gradient
        torch.testing.assert_close(parameter, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("broadcast", CONVENTIONS)
def test_a_batch_of_8_and_8_times_1_give_the_same_gradients_to_1e_6(broadcast: str) -> None:
    gradients = []
    for microbatch_rows in (0, 1):
        model = fresh_model(TINY_CONFIGS["t5_v1_1"], generator=torch.Generator().manual_seed(0))
        assert isinstance(model, T5)
        optimizer = ModelOptimizer(model.named_parameters(), OptimizerConfig(name="adam"))
        step = TrainingStep(
            model,
            optimizer,
            loss=LossConfig(),
            compute=ComputeConfig(
                precision="float32",
                dropout_broadcast=broadcast,  # type: ignore[arg-type]
                microbatch_rows=microbatch_rows,
            ),
            max_gradient_norm=0.0,
            seed=0,
        )
        step(alone(examples(8)), step=0, lr=0.0)
        # After one step Adam remembers a tenth of the gradient.
        gradients.append([10 * m for name, m in optimizer.state_dict().items() if name.endswith("exp_avg")])
    for whole, summed in zip(*gradients, strict=True):
        torch.testing.assert_close(summed, whole, rtol=0, atol=1e-6)


def test_copies_hand_float32_gradients_to_their_masters() -> None:
    model = tiny()
    copies, name = ComputeCopies(model, torch.bfloat16), "encoder.block.0.layer.1.DenseReluDense.wo.weight"
    weight = model.get_parameter(name)
    copied = copies.model.get_parameter(name)
    assert copied.dtype == torch.bfloat16
    assert {id(parameter) for parameter in model.parameters()}.isdisjoint(map(id, copies.model.parameters()))
    (copied.float().sum() * 256).backward()
    (copied.float().sum()).backward()
    assert copied.grad is None
    assert weight.grad is not None
    assert weight.grad.dtype == torch.float32
    assert weight.grad.unique().tolist() == [257.0]  # in bfloat16 256 + 1 is 256
    with torch.no_grad():
        weight.fill_(3.0)
    copies.refresh()
    assert copied.unique().tolist() == [3.0]


def test_frozen_parameters_stay_and_have_no_gradient() -> None:
    model = tiny(dropout_rate=0.1)
    model.encoder.requires_grad_(False)
    frozen = [parameter.clone() for parameter in model.encoder.parameters()]
    report = step_of(model, compute=ComputeConfig(precision="bfloat16"))(alone(examples(3)), step=0, lr=0.1)
    assert not report.is_skipped
    assert same(frozen, list(model.encoder.parameters()))


@pytest.mark.parametrize("broadcast", CONVENTIONS)
def test_bfloat16_learns_what_float32_learns(broadcast: str) -> None:
    batch = alone(examples(8))
    losses = {}
    for precision in ("float32", "bfloat16"):
        compute = ComputeConfig(precision=precision, dropout_broadcast=broadcast)  # type: ignore[arg-type]
        step = step_of(tiny(), compute=compute, optimizer=OptimizerConfig(name="adamw"))
        losses[precision] = [step(batch, step=number, lr=3e-3).loss for number in range(12)]
    assert losses["float32"][-1] < 0.5 * losses["float32"][0]
    # bfloat16 keeps 8 bits, and twelve large steps of Adam amplify what they lose.
    assert losses["bfloat16"][0] == pytest.approx(losses["float32"][0], rel=0.02)
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.2)


def test_batches_without_targets_or_rows_are_refused() -> None:
    step = step_of(tiny())
    with pytest.raises(DataError, match="targets"):
        step(batch_of([[]]), step=0, lr=0.1)
    with pytest.raises(DataError, match="no rows"):
        step(batch_of([]), step=0, lr=0.1)


def test_ids_outside_the_vocabulary_are_refused_by_name() -> None:
    step, batch = step_of(tiny()), alone(examples(2))
    batch.encoder_input_ids[1, 0] = 96
    with pytest.raises(DataError, match=r"encoder_input_ids reach from 0 to 96; .* 0 to 95"):
        step(batch, step=0, lr=0.1)
    with pytest.raises(DataError, match="encoder_input_ids"):
        step.evaluate(batch)


def test_a_step_that_was_broken_off_leaves_nothing_behind() -> None:
    batch, broken = alone(examples(3)), alone(examples(3, seed=1))
    broken.labels[2, 0] = 1000  # found when two microbatches have left their gradients
    compute = ComputeConfig(precision="float32", microbatch_rows=1)
    model = tiny(dropout_rate=0.1)
    step = step_of(model, compute=compute)
    with pytest.raises(DataError, match="labels"):
        step(broken, step=0, lr=0.1)
    report = step(batch, step=0, lr=0.1)
    expected, weights = updated(batch, compute=compute)
    assert report == expected
    assert same(weights, [parameter.detach() for parameter in model.parameters()])


def test_rows_are_dealt_out_evenly_or_refused() -> None:
    batch = alone(examples(6))
    parts = [Parallel(rank=rank, world_size=3).rows_of(batch) for rank in range(3)]
    assert np.array_equal(np.concatenate([part.labels for part in parts]), batch.labels)
    assert [len(part.labels) for part in parts] == [2, 2, 2]
    with pytest.raises(ConfigError, match=r"6 .*4 processes"):
        Parallel(rank=0, world_size=4).rows_of(batch)


def test_reports_are_plain_numbers() -> None:
    report, _ = updated(alone(examples(2)))
    assert isinstance(report, StepReport)
    kinds = {type(value) for value in dataclasses.asdict(report).values()}
    assert kinds == {float, int, bool}


@pytest.mark.parametrize("name", ["adafactor", "adamw", "adamw_rms", "sgd", "muon"])
def test_every_optimizer_lowers_the_loss(name: str) -> None:
    config = OptimizerConfig(name=name, sgd=SgdConfig(momentum=0.9 if name == "sgd" else 0.0))  # type: ignore[arg-type]
    batch = alone(examples(6))
    step = step_of(tiny(), compute=ComputeConfig(), optimizer=config, clip=1.0)
    losses = [step(batch, step=number, lr=0.02).loss for number in range(8)]
    assert losses[-1] < losses[0]
    assert all(np.isfinite(losses)), list(itertools.pairwise(losses))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_bfloat16_gradients_stay_near_float32s_in_a_large_batch(convention: str) -> None:
    """Sums over thousands of tokens must not be made in bfloat16; an embedding's row is such a sum."""
    frequent = [Example.with_full_loss(np.full(13, 5), np.full(9, 5)) for _ in range(200)]
    gradients = []
    for precision in ("float32", "bfloat16"):
        model = fresh_model(TINY_CONFIGS["t5_v1_1"], generator=torch.Generator().manual_seed(0))
        assert isinstance(model, T5)
        compute = ComputeConfig(precision=precision, dropout_broadcast=convention)  # type: ignore[arg-type]
        before = model.shared.weight.detach().clone()
        step_of(model.eval(), compute=compute)(alone(frequent + examples(20)), step=0, lr=1.0)
        gradients.append(before - model.shared.weight.detach())
    assert float((gradients[1] - gradients[0]).norm() / gradients[0].norm()) < 0.05
