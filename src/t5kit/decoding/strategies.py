"""From options to the search that serves them."""

import dataclasses
from typing import Literal

from t5kit.decoding.beam import BeamSearch
from t5kit.decoding.grammar import ConstraintFactory
from t5kit.decoding.greedy import GreedyChooser
from t5kit.decoding.options import DecodingOptions
from t5kit.decoding.paths import PathSearch
from t5kit.decoding.sampling import SamplingChooser
from t5kit.decoding.search import Search
from t5kit.decoding.stops import DetokenizerFactory
from t5kit.runtime import Runtime


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Strategy:
    """What requests must have in common to be advanced by one search."""

    kind: Literal["greedy", "sampling", "beam"]
    num_beams: int = 1
    num_beam_groups: int = 1
    needs_logits: bool = False
    """Samples from the whole vocabulary. Such rows are fed apart from others: a step that gives dense logits may round
    the log-sum-exp in another way than one that does not, and no answer may depend on its company."""


def strategy_of(options: DecodingOptions) -> Strategy:
    """Return the strategy that these options ask for."""
    if options.does_sample:
        return Strategy(kind="sampling", needs_logits=options.top_k == 0)
    if options.num_beams == 1:
        return Strategy(kind="greedy")
    return Strategy(kind="beam", num_beams=options.num_beams, num_beam_groups=options.num_beam_groups)


def num_rows(options: DecodingOptions) -> int:
    """Return how many rows of a step a request of these options takes at most."""
    return options.num_return_sequences if options.does_sample else options.num_beams


def make_search(
    strategy: Strategy,
    runtime: Runtime,
    *,
    detokenizer_factory: DetokenizerFactory | None = None,
    constraint_factory: ConstraintFactory | None = None,
) -> Search:
    """Return a new search over `runtime` for requests of `strategy`; stop strings and grammars need their factories."""
    match strategy.kind:
        case "greedy":
            return PathSearch(
                runtime,
                GreedyChooser(),
                detokenizer_factory=detokenizer_factory,
                constraint_factory=constraint_factory,
            )
        case "sampling":
            chooser = SamplingChooser(vocab_size=runtime.config.vocab_size)
            return PathSearch(
                runtime, chooser, detokenizer_factory=detokenizer_factory, constraint_factory=constraint_factory
            )
        case "beam":
            return BeamSearch(
                runtime,
                num_beams=strategy.num_beams,
                num_groups=strategy.num_beam_groups,
                detokenizer_factory=detokenizer_factory,
                constraint_factory=constraint_factory,
            )
