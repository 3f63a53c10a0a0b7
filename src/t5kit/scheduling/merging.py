"""Many searches, one step: their rows are fed together, so that the weights are read once for all."""

from collections.abc import Sequence

import numpy as np

from t5kit.runtime import LogitEdits, Need, StepInput, StepOutput


def merge_steps(steps: Sequence[StepInput]) -> StepInput:
    """Return one step with the rows of all, in order, that gives what any of them needs; a single one is passed on."""
    if len(steps) == 1:
        return steps[0]
    need = Need(
        top_k=max(step.need.top_k for step in steps),
        logits=any(step.need.logits for step in steps),
        all_positions=any(step.need.all_positions for step in steps),
        cross_attention=any(step.need.cross_attention for step in steps),
        hidden=any(step.need.hidden for step in steps),
    )
    edits: dict[int, LogitEdits] = {}
    start = 0
    for step in steps:
        places = _output_rows(step, is_every_position=need.all_positions)
        edits |= {start + int(places[row]): row_edits for row, row_edits in step.edits.items()}
        start += len(step.tokens) if need.all_positions else len(step.slots)
    return StepInput(
        slots=np.concatenate([step.slots for step in steps]),
        tokens=np.concatenate([step.tokens for step in steps]),
        lengths=np.concatenate([step.lengths for step in steps]),
        edits=edits,
        need=need,
    )


def split_output(output: StepOutput, steps: Sequence[StepInput]) -> list[StepOutput]:
    """Return what each of `steps` asked for from the output of `merge_steps(steps)`."""
    if len(steps) == 1:
        return [output]
    is_every_position = any(step.need.all_positions for step in steps)
    parts = []
    start = first_slot = 0
    for step in steps:
        rows = start + _output_rows(step, is_every_position=is_every_position)
        end_slot = first_slot + len(step.slots)
        parts.append(
            StepOutput(
                top_ids=output.top_ids[rows, : step.need.top_k],
                top_logits=output.top_logits[rows, : step.need.top_k],
                log_sum_exp=output.log_sum_exp[rows],
                logits=output.logits[rows] if step.need.logits and output.logits is not None else None,
                hidden=output.hidden[rows] if step.need.hidden and output.hidden is not None else None,
                cross_attention=output.cross_attention[first_slot:end_slot]
                if step.need.cross_attention and output.cross_attention is not None
                else None,
            )
        )
        start += len(step.tokens) if is_every_position else len(step.slots)
        first_slot = end_slot
    return parts


def _output_rows(step: StepInput, *, is_every_position: bool) -> np.ndarray:
    """Return where the output rows that a step asks for stand among those it gets, [Q] int."""
    if step.need.all_positions:
        return np.arange(len(step.tokens))
    if is_every_position:
        return np.cumsum(step.lengths) - 1
    return np.arange(len(step.slots))
