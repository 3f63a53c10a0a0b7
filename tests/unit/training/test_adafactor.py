"""Adafactor against its formulas in NumPy, and against Hugging Face's class where the two mean the same."""

import numpy as np
import pytest
import torch

from t5kit.errors import ConfigError
from t5kit.training.adafactor import Adafactor, adafactor_slots, factored_dims
from t5kit.training.config import AdafactorConfig

SHAPES = [
    (),
    (7,),
    (200,),
    (32, 8),
    (127, 300),
    (128, 130),
    (130, 128),
    (128, 128),
    (2, 129, 128),
    (128, 3, 140),
    (140, 128, 2),
]


def by_the_formulas(value, gradients, *, lr, config, weight_decay=0.0):
    """Every step's value in float64, with axes named by what they are: the longest and the next."""
    p = np.array(value, np.float64)
    order = np.argsort(p.shape, kind="stable")
    factors = config.is_factored and p.ndim > 1 and p.shape[order[-2]] >= config.min_dim_size_to_factor
    longest, next_longest = (int(order[-1]), int(order[-2])) if factors else (None, None)
    second_moment = mean_over_longest = mean_over_next = momentum = 0.0
    values = []
    for t, gradient in enumerate(gradients):
        g = np.array(gradient, np.float64)
        keep = 1 - (t - config.step_offset + 1.0) ** -config.decay_exponent
        g2 = g**2 + config.epsilon1
        if factors:
            mean_over_longest = keep * mean_over_longest + (1 - keep) * g2.mean(longest, keepdims=True)
            mean_over_next = keep * mean_over_next + (1 - keep) * g2.mean(next_longest, keepdims=True)
            whole = mean_over_longest.mean(next_longest, keepdims=True)
            second_moment = mean_over_longest * mean_over_next / whole
        else:
            second_moment = keep * second_moment + (1 - keep) * g2
        u = g / np.sqrt(second_moment)
        if config.clipping_threshold:
            u = u / max(1.0, np.sqrt(np.mean(u**2)) / config.clipping_threshold)
        step = lr * u
        if config.multiplies_by_parameter_scale:
            step = step * max(config.epsilon2, np.sqrt(np.mean(p**2)))
        momentum = config.beta1 * momentum + (1 - config.beta1) * step
        p = p * (1 - weight_decay * lr**config.weight_decay_lr_exponent) - momentum
        values.append(p.copy())
    return values


def run(value, gradients, *, lr, config, weight_decay=0.0, dtype=torch.float64):
    parameter = torch.nn.Parameter(torch.tensor(value, dtype=dtype))
    optimizer = Adafactor([parameter], lr=lr, config=config, weight_decay=weight_decay)
    values = []
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient, dtype=dtype)
        optimizer.step()
        values.append(parameter.detach().numpy().copy())
    return values, optimizer.state[parameter]


def problem(shape, *, steps=6, seed=0):
    draw = np.random.Generator(np.random.Philox(seed))
    scales = 10.0 ** draw.integers(-4, 4, steps)  # gradients of very unequal steps reach the clipping
    return 0.1 * draw.standard_normal(shape), [scale * draw.standard_normal(shape) for scale in scales]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(
    "config",
    [
        AdafactorConfig(),
        AdafactorConfig(multiplies_by_parameter_scale=False, clipping_threshold=0.0),
        AdafactorConfig(is_factored=False, beta1=0.9),
        AdafactorConfig(step_offset=-1000, min_dim_size_to_factor=2, clipping_threshold=0.5),
    ],
    ids=["t5", "unscaled", "umt5-xxl", "continued"],
)
def test_steps_equal_the_formulas(shape: tuple[int, ...], config: AdafactorConfig) -> None:
    value, gradients = problem(shape)
    expected = by_the_formulas(value, gradients, lr=0.01, config=config)
    np.testing.assert_allclose(run(value, gradients, lr=0.01, config=config)[0], expected, rtol=1e-11, atol=1e-13)
    single, _ = run(value, gradients, lr=0.01, config=config, dtype=torch.float32)
    # float32 rounds the value at every step and has sums of thousands of squares: a few parts in 10^7 of the largest
    np.testing.assert_allclose(single, expected, rtol=0, atol=2e-6 * np.abs(expected).max())


@pytest.mark.parametrize("exponent", [0.0, 1.0])
def test_weight_decay_is_taken_before_the_step(exponent: float) -> None:
    config = AdafactorConfig(weight_decay_lr_exponent=exponent)
    value, gradients = problem((130, 128))
    expected = by_the_formulas(value, gradients, lr=0.1, config=config, weight_decay=0.05)
    got, _ = run(value, gradients, lr=0.1, config=config, weight_decay=0.05)
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((512,), None),
        ((32, 8), None),
        ((127, 4096), None),
        ((128, 4096), (0, 1)),
        ((4096, 128), (1, 0)),
        ((512, 512), (0, 1)),
        ((2, 128, 256), (1, 2)),
        ((256, 2, 128), (2, 0)),
        ((300, 200, 100), (1, 0)),
    ],
)
def test_the_two_largest_dimensions_factor_from_128_on(shape: tuple[int, ...], expected: tuple | None) -> None:
    assert factored_dims(shape, AdafactorConfig()) == expected


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_slots_are_what_a_step_leaves(shape: tuple[int, ...]) -> None:
    config = AdafactorConfig(beta1=0.5)
    _, state = run(*problem(shape, steps=1), lr=0.1, config=config)
    assert {name: tuple(values.shape) for name, values in state.items()} == adafactor_slots(shape, config)


def test_the_first_update_has_the_parameters_scale() -> None:
    value, gradients = problem((64, 16), steps=1)
    (after,), _ = run(value, gradients, lr=0.01, config=AdafactorConfig())
    # the first second moment is g^2 itself: each element moves by lr * RMS(p), whatever the gradient's size
    np.testing.assert_allclose(np.abs(after - value), 0.01 * np.sqrt(np.mean(value**2)), rtol=1e-9)


def test_a_zero_parameter_moves_by_the_least_scale() -> None:
    (after,), _ = run(np.zeros(5), [np.full(5, 3.0)], lr=0.01, config=AdafactorConfig())
    np.testing.assert_allclose(after, -0.01 * 1e-3, rtol=1e-9)


def test_an_offset_above_the_steps_made_is_refused() -> None:
    with pytest.raises(ConfigError, match="step_offset"):
        run(*problem((3,), steps=1), lr=0.1, config=AdafactorConfig(step_offset=10))


@pytest.mark.parametrize(
    ("shape", "config"),
    [
        ((200,), AdafactorConfig()),  # neither factors one dimension
        ((130, 128), AdafactorConfig()),  # both factor two large ones
        ((32, 8), AdafactorConfig(min_dim_size_to_factor=1)),  # Hugging Face factors every matrix
        ((2, 129, 140), AdafactorConfig()),  # the last two are the largest
        ((130, 128), AdafactorConfig(beta1=0.9)),
    ],
    ids=str,
)
def test_steps_equal_hugging_faces_where_both_factor_alike(shape: tuple[int, ...], config: AdafactorConfig) -> None:
    transformers = pytest.importorskip("transformers")
    value, gradients = problem(shape)
    theirs = torch.nn.Parameter(torch.tensor(value, dtype=torch.float64))
    optimizer = transformers.optimization.Adafactor(
        [theirs], lr=0.01, scale_parameter=True, relative_step=False, warmup_init=False, beta1=config.beta1 or None
    )
    ours, _ = run(value, gradients, lr=0.01, config=config)
    for gradient, expected in zip(gradients, ours, strict=True):
        theirs.grad = torch.tensor(gradient)
        optimizer.step()
        np.testing.assert_allclose(theirs.detach().numpy(), expected, rtol=1e-10, atol=1e-12)
