"""Self-supervised objectives: token ids of running text -> Example, by one passed random generator."""

from t5kit.tasks.objectives.denoising import DenoisingIds, Objective
from t5kit.tasks.objectives.deshuffling import Deshuffling
from t5kit.tasks.objectives.language_modeling import FullLanguageModeling, PrefixLanguageModeling
from t5kit.tasks.objectives.masking import Masking
from t5kit.tasks.objectives.mixture_of_denoisers import Denoiser, MixtureOfDenoisers
from t5kit.tasks.objectives.span_corruption import IidDenoising, SpanCorruption

__all__ = [
    "Denoiser",
    "DenoisingIds",
    "Deshuffling",
    "FullLanguageModeling",
    "IidDenoising",
    "Masking",
    "MixtureOfDenoisers",
    "Objective",
    "PrefixLanguageModeling",
    "SpanCorruption",
]
