"""Search over a runtime: greedy, sampling and beams, with everything that may steer or end them. NumPy only."""

from t5kit.decoding.checks import check_options
from t5kit.decoding.grammar import Constraint, ConstraintFactory, Grammar, GrammarCompiler
from t5kit.decoding.options import DecodingOptions
from t5kit.decoding.search import Failed, FinishReason, Found, Hypothesis, NewTokens, Search, SearchRequest
from t5kit.decoding.stops import Detokenizer, DetokenizerFactory, StopTextStream, answer_text
from t5kit.decoding.strategies import Strategy, make_search, num_rows, strategy_of

__all__ = [
    "Constraint",
    "ConstraintFactory",
    "DecodingOptions",
    "Detokenizer",
    "DetokenizerFactory",
    "Failed",
    "FinishReason",
    "Found",
    "Grammar",
    "GrammarCompiler",
    "Hypothesis",
    "NewTokens",
    "Search",
    "SearchRequest",
    "StopTextStream",
    "Strategy",
    "answer_text",
    "check_options",
    "make_search",
    "num_rows",
    "strategy_of",
]
