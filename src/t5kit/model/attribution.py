"""Integrated gradients: what every input token adds to the log-probability of every output token.

By hand and not by captum: its IntegratedGradients takes one scalar target a call, so that T output tokens cost T
forward passes over one path; its number of steps is fixed beforehand, so that more of them begin anew; and it weighs
the steps in float32 whatever the model is. Here one path serves all output tokens, and steps are put where they are
missing. A test holds both against each other.

The path's steps are chosen by what T5 makes easy to know: between any two points of the path the attributions must sum
to the difference of the scores at these points, exactly. So each stretch of the path has an error of its own, and those
with the largest are halved.

Letters: S encoder length, T output length, D d_model, P points of the path.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from t5kit.checkpoint.tensors import TensorView
from t5kit.config import T5Config
from t5kit.errors import EngineError, RequestError
from t5kit.model.loading import load_model
from t5kit.model.t5 import T5

NODES_A_STRETCH = 4
"""Points of the Gauss-Legendre rule on each stretch: exact for polynomials of degree 7."""
FIRST_STRETCHES = 4
TOKENS_AT_ONCE = 4096
"""Encoder and decoder tokens of all points computed together; only memory and speed depend on it."""


@dataclasses.dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class PathAttribution:
    """Attributions along the straight path from a baseline to the input's embeddings."""

    values: npt.NDArray[np.float64]
    """[T, S]: what input token s adds to the log-probability of output token t, in nats."""
    scores: npt.NDArray[np.float64]
    """[T]: log-probabilities of the output tokens after the input."""
    baseline_scores: npt.NDArray[np.float64]
    """[T]: the same after the baseline."""
    num_steps: int
    """Points of the path at which gradients were taken."""

    @property
    def errors(self) -> npt.NDArray[np.float64]:
        """[T]: how far the attributions of an output token are from summing to its difference of scores."""
        return np.abs(self.values.sum(axis=1) - (self.scores - self.baseline_scores))


@dataclasses.dataclass(frozen=True, slots=True, eq=False)
class _Stretch:
    """A part of the path. Shapes: the scores at its ends [T], the attributions along it [T, S]."""

    start: float
    end: float
    score_at_start: npt.NDArray[np.float64]
    score_at_end: npt.NDArray[np.float64]
    values: npt.NDArray[np.float64]

    def errors(self) -> npt.NDArray[np.float64]:
        """Return [T]: how much more the attributions sum to than the difference of the scores."""
        return self.values.sum(axis=1) - (self.score_at_end - self.score_at_start)


def integrated_gradients(
    model: T5,
    encoder_input_ids: Sequence[int] | npt.NDArray[np.integer],
    target_ids: Sequence[int] | npt.NDArray[np.integer],
    baseline_SD: Tensor,
    *,
    tolerance: float = 0.05,
    max_steps: int = 512,
    progress: Callable[[int], None] = lambda number: None,
) -> PathAttribution:
    """Return the attributions of every output token, teacher-forced, to every input token.

    Shapes: encoder_input_ids [S], target_ids [T] with EOS and without the start token; baseline_SD is where the path
    begins. tolerance: steps are added until the attributions of every output token miss its difference of scores by at
    most so many nats, or by this share of the difference where that is above 1 nat; max_steps ends it
    anyway. progress: is told how many more points are done. The model's parameters get no gradients.
    Raises: RequestError for lengths or limits out of range; EngineError for numbers that are not finite.
    Source: Sundararajan, Taly, Yan 2017, "Axiomatic attribution for deep networks".
    """
    if not len(encoder_input_ids) or not len(target_ids):
        raise RequestError("integrated gradients need at least one input token and one output token.")
    if not 0.0 < tolerance < 1.0:
        raise RequestError(f"tolerance = {tolerance!r} must be between 0 and 1, such as 0.01.")
    first_steps = FIRST_STRETCHES * NODES_A_STRETCH
    if not isinstance(max_steps, int) or max_steps < first_steps:
        raise RequestError(f"max_steps = {max_steps!r} must be an integer of at least {first_steps}.")
    path = _Path(model, encoder_input_ids, target_ids, baseline_SD, progress)
    ends = [number / FIRST_STRETCHES for number in range(FIRST_STRETCHES + 1)]
    scores_PT = path.scores(ends)
    stretches = path.stretches(list(itertools.pairwise(ends)), list(itertools.pairwise(scores_PT)))
    num_steps = first_steps
    bound_T = tolerance * np.maximum(1.0, np.abs(scores_PT[-1] - scores_PT[0]))
    while True:
        errors_CT = np.stack([stretch.errors() for stretch in stretches])
        shares_C = np.abs(errors_CT / bound_T).max(axis=1)
        # Numerics: errors of many stretches cancel, which they must not do by luck: two deviations of their sum, were
        # their signs drawn at random, must be within the bound too.
        spread_T = 2.0 * np.sqrt(np.square(errors_CT).sum(axis=0))
        if (np.maximum(spread_T, np.abs(errors_CT.sum(axis=0))) <= bound_T).all():
            break
        halved = _worst(shares_C, at_most=(max_steps - num_steps) // (2 * NODES_A_STRETCH))
        if not halved:
            break
        stretches = path.halved(stretches, halved)
        num_steps += 2 * NODES_A_STRETCH * len(halved)
    values_TS = np.sum([stretch.values for stretch in stretches], axis=0)
    return PathAttribution(values=values_TS, scores=scores_PT[-1], baseline_scores=scores_PT[0], num_steps=num_steps)


class Attributor:
    """A model's weights in float32 (int8 ones for what they stand for), ready to attribute one answer after another.

    Raises: EngineError for a model without a language-model head; CheckpointError as `load_model`.
    """

    def __init__(self, config: T5Config, tensors: Iterable[TensorView]) -> None:
        model = load_model(config, tensors)
        if not isinstance(model, T5):
            raise EngineError(f"A model with the head {config.head.value!r} writes nothing that could be attributed.")
        self._model = model

    def attribute(
        self,
        encoder_input_ids: npt.NDArray[np.int32],
        target_ids: npt.NDArray[np.int32],
        *,
        baseline_id: int | None,
        kept_id: int,
        tolerance: float,
        max_steps: int,
        progress: Callable[[int], None],
    ) -> PathAttribution:
        """Return `integrated_gradients` from a baseline of one token.

        baseline_id: the token that stands everywhere in the baseline, None for embeddings of zero; kept_id (EOS) stays.
        """
        embedding_VD = self._model.shared.weight.detach()
        baseline_SD = embedding_VD[torch.as_tensor(encoder_input_ids, dtype=torch.int64)].clone()
        baseline_SD[torch.as_tensor(encoder_input_ids != kept_id)] = (
            torch.zeros_like(embedding_VD[0]) if baseline_id is None else embedding_VD[baseline_id]
        )
        return integrated_gradients(
            self._model,
            encoder_input_ids,
            target_ids,
            baseline_SD,
            tolerance=tolerance,
            max_steps=max_steps,
            progress=progress,
        )


def _worst(shares_C: npt.NDArray[np.float64], *, at_most: int) -> list[int]:
    """Return the stretches that hold nine tenths of the error, the worst first."""
    order = np.argsort(-shares_C, kind="stable")
    below = np.cumsum(shares_C[order]) < 0.9 * shares_C.sum()
    return [int(place) for place in order[: max(0, min(at_most, int(below.sum()) + 1))]]


class _Path:
    """The straight path, and the model seen from it."""

    def __init__(
        self,
        model: T5,
        encoder_input_ids: Sequence[int] | npt.NDArray[np.integer],
        target_ids: Sequence[int] | npt.NDArray[np.integer],
        baseline_SD: Tensor,
        progress: Callable[[int], None],
    ) -> None:
        self._model, self._progress = model, progress
        device = model.shared.weight.device
        with torch.no_grad():
            embedded_SD = model.shared(torch.as_tensor(np.asarray(encoder_input_ids, np.int64), device=device))
        if baseline_SD.shape != embedded_SD.shape:
            raise RequestError(
                f"the baseline is {list(baseline_SD.shape)}; expected the input's {list(embedded_SD.shape)}."
            )
        self._baseline_SD = baseline_SD.detach().to(embedded_SD)
        self._difference_SD = embedded_SD.detach() - self._baseline_SD
        self._targets_T = torch.as_tensor(np.asarray(target_ids, np.int64), device=device)
        start = self._targets_T.new_tensor([model.config.decoder_start_id])
        self._decoder_input_ids = torch.cat([start, self._targets_T[:-1]])
        self._points_at_once = max(1, TOKENS_AT_ONCE // (len(embedded_SD) + len(self._targets_T)))

    def scores(self, points: Sequence[float]) -> npt.NDArray[np.float64]:
        """Return the log-probabilities of the output tokens at points of the path, [P, T]."""
        with torch.no_grad():
            found = [
                self._log_probs(self._hidden(self._embeddings(chunk))).double().cpu().numpy()
                for chunk in self._chunks(points)
            ]
        scores_PT = np.concatenate(found)
        if not np.isfinite(scores_PT).all():
            raise EngineError("The model gave log-probabilities that are not finite; its weights may be damaged.")
        return scores_PT

    def stretches(
        self,
        ends: Sequence[tuple[float, float]],
        scores: Sequence[tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]],
    ) -> list[_Stretch]:
        """Return stretches with their attributions; scores are those at their ends, each [T]."""
        nodes, weights = np.polynomial.legendre.leggauss(NODES_A_STRETCH)
        points = [start + (end - start) * (node + 1) / 2 for start, end in ends for node in nodes]
        slopes_PTS = np.concatenate([self._slopes(chunk) for chunk in self._chunks(points)])
        found = []
        for number, ((start, end), (at_start, at_end)) in enumerate(zip(ends, scores, strict=True)):
            slopes = slopes_PTS[number * NODES_A_STRETCH : (number + 1) * NODES_A_STRETCH]
            values_TS = np.tensordot(weights / 2 * (end - start), slopes, axes=1)
            found.append(_Stretch(start, end, at_start, at_end, values_TS))
        return found

    def halved(self, stretches: Sequence[_Stretch], places: Sequence[int]) -> list[_Stretch]:
        """Return the stretches with those at some places cut in two."""
        middles = [(stretches[place].start + stretches[place].end) / 2 for place in places]
        scores_PT = self.scores(middles)
        ends, scores = [], []
        for place, middle, score_T in zip(places, middles, scores_PT, strict=True):
            old = stretches[place]
            ends += [(old.start, middle), (middle, old.end)]
            scores += [(old.score_at_start, score_T), (score_T, old.score_at_end)]
        kept = [stretch for place, stretch in enumerate(stretches) if place not in set(places)]
        return kept + self.stretches(ends, scores)

    def _slopes(self, points: Sequence[float]) -> npt.NDArray[np.float64]:
        """Return how fast each score changes along the path by each input token, [P, T, S]."""
        with torch.enable_grad():
            x_PSD = self._embeddings(points).requires_grad_()
            hidden_PTD = self._hidden(x_PSD)
            # Speed: a score sees its own place's hidden state alone, so the head is passed back once for all of them.
            head_in = hidden_PTD.detach().requires_grad_()
            (from_head_PTD,) = torch.autograd.grad(self._log_probs(head_in).sum(), head_in)
            slopes = []
            num_places = hidden_PTD.shape[1]
            for place in range(num_places):
                from_place_PTD = torch.zeros_like(from_head_PTD)
                from_place_PTD[:, place] = from_head_PTD[:, place]
                # The points do not meet: one pass back gives each one's own gradient.
                (gradient_PSD,) = torch.autograd.grad(
                    hidden_PTD, x_PSD, from_place_PTD, retain_graph=place + 1 < num_places
                )
                slopes.append((gradient_PSD.double() * self._difference_SD.double()).sum(dim=-1))
        self._progress(len(points))
        return torch.stack(slopes, dim=1).cpu().numpy()

    def _embeddings(self, points: Sequence[float]) -> Tensor:
        """Return the encoder's input at points of the path, [P, S, D]."""
        shares_P = torch.as_tensor(points, dtype=self._difference_SD.dtype, device=self._difference_SD.device)
        return self._baseline_SD + shares_P[:, None, None] * self._difference_SD

    def _hidden(self, x_PSD: Tensor) -> Tensor:
        """Return the decoder's hidden states over the output tokens, [P, T, D]."""
        return self._model.decode(self._decoder_input_ids.expand(len(x_PSD), -1), self._model.encoder(x_PSD, None))

    def _log_probs(self, hidden_PTD: Tensor) -> Tensor:
        """Return the log-probability of every output token, [P, T], float32 or the model's wider dtype."""
        logits_PTV = self._model.logits(hidden_PTD)
        log_probs_PTV = logits_PTV.to(torch.promote_types(logits_PTV.dtype, torch.float32)).log_softmax(-1)
        return log_probs_PTV.gather(-1, self._targets_T.expand(len(hidden_PTD), -1)[..., None]).squeeze(-1)

    def _chunks(self, points: Sequence[float]) -> list[Sequence[float]]:
        return [points[at : at + self._points_at_once] for at in range(0, len(points), self._points_at_once)]
