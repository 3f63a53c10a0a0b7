"""The public face: one Model that joins the stages."""

from t5kit.api.completion import Completion
from t5kit.api.model import Model

__all__ = ["Completion", "Model"]
