"""Options that no search over this model can take."""

import numpy as np
import pytest

from t5kit.config import T5Config
from t5kit.decoding import DecodingOptions, check_options
from t5kit.errors import RequestError


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (DecodingOptions(suppressed_ids=(5, 96)), "suppressed_ids holds 96"),
        (DecodingOptions(suppressed_ids=(-1,)), "suppressed_ids holds -1"),
        (DecodingOptions(suppressed_ids=("a",)), "suppressed_ids holds 'a'"),  # type: ignore[arg-type]
        (DecodingOptions(forced_prefix_ids=(5, True)), "forced_prefix_ids holds True"),
        (DecodingOptions(forced_prefix_ids=(5, 1, 6)), "EOS"),
        (DecodingOptions(logit_bias=((96, 1.0),)), "logit_bias holds 96"),
        (DecodingOptions(logit_bias=((5, float("nan")),)), "delta nan"),
        (DecodingOptions(logit_bias=((5, float("inf")),)), "delta inf"),
        (DecodingOptions(logit_bias=((5, 1e39),)), "suppressed_ids"),
        (DecodingOptions(logit_bias=((5, "1"),)), "delta '1'"),  # type: ignore[arg-type]
        (DecodingOptions(logit_bias=((5, 1.0), (5, 2.0))), "twice"),
        (DecodingOptions(allowed_outputs=((5, 1), (5, 6))), r"allowed_outputs\[1\] must hold EOS"),
        (DecodingOptions(allowed_outputs=((5, 1, 1),)), r"allowed_outputs\[0\] must hold EOS"),
        (DecodingOptions(allowed_outputs=((500, 1),)), r"allowed_outputs\[0\] holds 500"),
        (DecodingOptions(allowed_outputs=((5, 6, 7, 1),), max_new_tokens=3), "output of 4 tokens"),
        (DecodingOptions(allowed_outputs=((5, 1),), forced_prefix_ids=(6,)), "begins with forced_prefix_ids"),
    ],
)
def test_a_wrong_option_is_named(config: T5Config, options: DecodingOptions, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        check_options(options, config)


def test_what_the_caller_lacks_is_named(config: T5Config) -> None:
    with pytest.raises(RequestError, match="detokenizer"):
        check_options(DecodingOptions(stop_strings=("x",)), config, has_detokenizer=False)
    with pytest.raises(RequestError, match="forbidden_texts need a detokenizer"):
        check_options(DecodingOptions(forbidden_texts=("x",)), config, has_detokenizer=False)
    for more in ({"num_beams": 2}, {"does_sample": True, "num_return_sequences": 2}):
        with pytest.raises(RequestError, match="one path"):
            check_options(DecodingOptions(**more), config, is_streamed=True)  # type: ignore[arg-type]


def test_ordinary_options_pass(config: T5Config) -> None:
    check_options(DecodingOptions(), config, has_detokenizer=False, is_streamed=True)
    check_options(DecodingOptions(allowed_outputs=((5, 1), (5, 6, 1)), forced_prefix_ids=(5, 6)), config)
    check_options(DecodingOptions(stop_strings=("x",), logit_bias=((5, -3),), num_beams=4), config)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"repetition_penalty": 1e-38}, r"repetition_penalty = 1e-38 must be a number in \[1e-06, 1e\+06\]"),
        ({"repetition_penalty": 1e-300}, r"repetition_penalty = 1e-300"),
        ({"temperature": 10**400}, "temperature = 1000"),
        ({"length_penalty": float("nan")}, "length_penalty = nan"),
    ],
)
def test_a_number_that_would_leave_the_floats_is_refused(options: dict[str, float], said: str) -> None:
    with pytest.raises(RequestError, match=said):
        DecodingOptions(**options)  # type: ignore[arg-type]


def test_numbers_of_numpy_are_taken_everywhere(config: T5Config) -> None:
    options = DecodingOptions(
        max_new_tokens=np.int64(4),  # type: ignore[arg-type]
        logit_bias=((np.int64(5), np.float32(1)),),  # type: ignore[arg-type]
        allowed_outputs=((np.int64(5), np.int32(1)),),  # type: ignore[arg-type]
    )
    check_options(options, config)
    assert options == DecodingOptions(max_new_tokens=4, logit_bias=((5, 1.0),), allowed_outputs=((5, 1),))
