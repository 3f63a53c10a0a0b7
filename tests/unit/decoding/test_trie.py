"""The tree of permitted outputs."""

from hypothesis import given
from hypothesis import strategies as st

from t5kit.decoding.trie import Trie

OUTPUTS = st.lists(st.lists(st.integers(2, 5), max_size=4).map(lambda ids: (*ids, 1)), min_size=1, max_size=8)


@given(outputs=OUTPUTS, prefix=st.lists(st.integers(2, 5), max_size=4))
def test_next_ids_are_those_that_lead_on_to_an_output(outputs: list[tuple[int, ...]], prefix: list[int]) -> None:
    continuing = [output for output in outputs if list(output[: len(prefix)]) == prefix]
    expected = sorted({output[len(prefix)] for output in continuing if len(output) > len(prefix)})
    assert Trie(outputs).next_ids(prefix).tolist() == expected
