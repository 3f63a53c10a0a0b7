"""Many steps as one, and back."""

import dataclasses
import itertools

import numpy as np
import pytest

from t5kit.runtime import LogitEdits, Need, Runtime, StepInput, StepOutput
from t5kit.scheduling.merging import merge_steps, split_output
from t5kit.testing.answers import random_prompts

NEEDS = [
    Need(),
    Need(top_k=7),
    Need(top_k=2, logits=True),
    Need(top_k=3, all_positions=True),
    Need(hidden=True, cross_attention=True),
]
PIECES = [[[0], [0]], [[0, 5, 6], [0]], [[0, 9]]]


def step_of(runtime: Runtime, pieces: list[list[int]], need: Need) -> StepInput:
    prompts = random_prompts(runtime.config, [4 + i for i in range(len(pieces))])
    handles = runtime.encode(prompts)
    slots = runtime.open_slots(handles)
    runtime.release(handles)
    num_outputs = sum(map(len, pieces)) if need.all_positions else len(pieces)
    return StepInput(
        slots=slots,
        tokens=np.array(list(itertools.chain(*pieces)), np.int32),
        lengths=np.array([len(piece) for piece in pieces], np.int32),
        edits={row: LogitEdits(suppressed_ids=np.array([20 + row], np.int32)) for row in range(0, num_outputs, 2)},
        need=need,
    )


def assert_same(actual: StepOutput, expected: StepOutput) -> None:
    for field in dataclasses.fields(StepOutput):
        one, other = getattr(actual, field.name), getattr(expected, field.name)
        assert (one is None) == (other is None), field.name
        if field.name == "cross_attention":
            for mine, theirs in zip(one or (), other or (), strict=True):
                np.testing.assert_allclose(mine, theirs, atol=1e-5)
        elif one is not None:
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("needs", list(itertools.product(NEEDS, repeat=2)))
def test_each_gets_what_it_would_have_got_alone(reference: Runtime, needs: tuple[Need, Need]) -> None:
    all_needs = [*needs, Need()]
    steps = [step_of(reference, pieces, need) for pieces, need in zip(PIECES, all_needs, strict=True)]
    parts = split_output(reference.step(merge_steps(steps)), steps)
    for part, pieces, need in zip(parts, PIECES, all_needs, strict=True):
        assert_same(part, reference.step(step_of(reference, pieces, need)))


def test_a_single_step_is_not_copied(reference: Runtime) -> None:
    step = step_of(reference, [[0], [0, 5]], Need(top_k=3))
    assert merge_steps([step]) is step
    output = reference.step(step)
    assert split_output(output, [step])[0] is output
