"""UL2's mixture of denoisers: each text goes through one of several objectives, named to the model by a mode prefix."""

import contextlib
import dataclasses

import numpy as np

from t5kit.errors import ConfigError, DataError
from t5kit.tasks.example import Example, IntArray
from t5kit.tasks.objectives.denoising import DenoisingIds, Objective
from t5kit.tasks.objectives.language_modeling import PrefixLanguageModeling
from t5kit.tasks.objectives.span_corruption import SpanCorruption

R_MODE, S_MODE, X_MODE = "[NLU]", "[S2S]", "[NLG]"
"""The mode prefixes of the released UL2 20B for regular, sequential and extreme denoising."""


@dataclasses.dataclass(frozen=True, slots=True)
class Denoiser:
    """One objective of the mixture."""

    objective: Objective
    mode: str
    """The prefix that names it; the same mode may name several objectives."""
    rate: float
    """Relative weight, above 0."""


UL2_DENOISERS = (
    Denoiser(SpanCorruption(0.15, 3.0), R_MODE, 1.0),
    Denoiser(SpanCorruption(0.15, 8.0), R_MODE, 1.0),
    Denoiser(SpanCorruption(0.50, 3.0), X_MODE, 1.0),
    Denoiser(SpanCorruption(0.50, 8.0), X_MODE, 1.0),
    Denoiser(SpanCorruption(0.15, 64.0), X_MODE, 1.0),
    Denoiser(SpanCorruption(0.50, 64.0), X_MODE, 1.0),
    Denoiser(PrefixLanguageModeling(), S_MODE, 1.0),
)
"""The seven denoisers of Tay et al. 2022 (UL2), table 1, mixed evenly."""


@dataclasses.dataclass(frozen=True, eq=False)
class MixtureOfDenoisers:
    """Draw one denoiser for each text and put the ids of its mode in front of the encoder's.

    At 50 % noise in spans of 3, a text of N tokens makes N / 6 spans: with 100 sentinels N may be at most about 600.
    """

    mode_ids: dict[str, IntArray]
    """The token ids of every mode prefix, without EOS; an empty array for a mode without prefix."""
    denoisers: tuple[Denoiser, ...] = UL2_DENOISERS

    def __post_init__(self) -> None:
        if not self.denoisers or not all(denoiser.rate > 0.0 for denoiser in self.denoisers):
            raise ConfigError("mixture_of_denoisers.denoisers must be at least one, each with a rate above 0.")
        missing = sorted({denoiser.mode for denoiser in self.denoisers} - self.mode_ids.keys())
        if missing:
            raise ConfigError(f"mixture_of_denoisers.mode_ids has no ids for the modes {', '.join(missing)}.")

    def corrupt(self, ids: IntArray, *, denoising_ids: DenoisingIds, rng: np.random.Generator) -> Example:
        """Return the pair for ids [N], N >= 2, by one drawn denoiser."""
        upper = np.cumsum([denoiser.rate for denoiser in self.denoisers])
        drawn = self.denoisers[int(np.searchsorted(upper[:-1], rng.random() * upper[-1], side="right"))]
        example = drawn.objective.corrupt(ids, denoising_ids=denoising_ids, rng=rng)
        encoder_ids = np.concatenate([self.mode_ids[drawn.mode], example.encoder_ids]).astype(np.int32)
        return dataclasses.replace(example, encoder_ids=encoder_ids)

    def restore(self, example: Example, denoising_ids: DenoisingIds) -> IntArray:
        """Return the text that `corrupt` took, by the mode whose ids the encoder's begin with.

        Raises: DataError if they begin with none, or the mode's denoisers restore different texts or none at all.
        """
        names = {denoiser.mode for denoiser in self.denoisers}
        by_length = sorted(names, key=lambda name: (-len(self.mode_ids[name]), name))
        mode = next((name for name in by_length if _begins(example.encoder_ids, self.mode_ids[name])), None)
        if mode is None:
            raise DataError(f"the encoder's ids begin with no mode of {', '.join(sorted(names))}.")
        bare = dataclasses.replace(example, encoder_ids=example.encoder_ids[len(self.mode_ids[mode]) :])
        texts: dict[bytes, IntArray] = {}
        for denoiser in self.denoisers:
            if np.array_equal(self.mode_ids[denoiser.mode], self.mode_ids[mode]):
                with contextlib.suppress(DataError):  # of another denoiser of this mode
                    text = denoiser.objective.restore(bare, denoising_ids)
                    texts[text.tobytes()] = text
        if len(texts) != 1:
            raise DataError(f"the denoisers of the mode {mode} restore {len(texts)} different texts; expected one.")
        return next(iter(texts.values()))


def _begins(ids: IntArray, first: IntArray) -> bool:
    return len(ids) >= len(first) and np.array_equal(ids[: len(first)], first)
