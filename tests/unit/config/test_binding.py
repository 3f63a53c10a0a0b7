"""Plain values become frozen configs, or a complaint that names key, place and remedy."""

import dataclasses
import enum
from collections.abc import Mapping
from typing import Literal

import pytest

from t5kit.config.binding import bind, dotted, unbind
from t5kit.errors import ConfigError


class Shade(enum.StrEnum):
    LIGHT = "light"
    DARK = "dark"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inner:
    rate: float = 0.5
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rate > 1:
            raise ConfigError(f"inner.rate = {self.rate} must be at most 1.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outer:
    count: int
    """How many."""
    name: str = "x"
    is_on: bool = False
    word: Literal["left", "right"] = "left"
    shade: Shade = Shade.LIGHT
    maybe: int | None = None
    inner: Inner = dataclasses.field(default_factory=Inner)
    many: tuple[Inner, ...] = ()
    rates: Mapping[str, float] = dataclasses.field(default_factory=dict)
    named: Mapping[str, Inner] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class NeedsNothing:
    inner: Inner


WHOLE = {
    "count": 3,
    "name": "y",
    "is_on": True,
    "word": "right",
    "shade": "dark",
    "maybe": 7,
    "inner": {"rate": 1, "names": ["a", "b"]},
    "many": [{}, {"rate": 0.25}],
    "rates": {"a": 1},
    "named": {"glue/cola": {"rate": 0.1}},
}


def test_every_kind_of_field_is_bound() -> None:
    bound = bind(Outer, WHOLE)
    assert bound == Outer(
        count=3, name="y", is_on=True, word="right", shade=Shade.DARK, maybe=7, inner=Inner(rate=1.0, names=("a", "b")),
        many=(Inner(), Inner(rate=0.25)), rates={"a": 1.0}, named={"glue/cola": Inner(rate=0.1)},
    )  # fmt: skip
    assert type(bound.inner.rate) is float and type(bound.rates["a"]) is float


@pytest.mark.parametrize("config", [bind(Outer, WHOLE), bind(Outer, {"count": 0})])
def test_unbind_is_the_inverse_of_bind(config: Outer) -> None:
    assert bind(Outer, unbind(config)) == config


def test_defaults_are_written_out_and_none_is_left_out() -> None:
    values = unbind(Outer(count=1))
    assert values["inner"] == {"rate": 0.5, "names": []}
    assert values["shade"] == "light" and type(values["shade"]) is str
    assert "maybe" not in values


def test_a_section_in_which_nothing_must_be_said_may_be_left_out() -> None:
    assert bind(NeedsNothing, {}) == NeedsNothing(inner=Inner())


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"count": 1.0}, "count = 1.0 must be an integer. Write 1."),
        ({"count": 1.5}, "count = 1.5 must be an integer."),
        ({"count": True}, "count = true must be an integer."),
        ({"count": "3"}, 'count = "3" must be an integer. Numbers and truth values stand without quotes.'),
        ({"count": "1e3"}, 'count = "1e3" must be an integer. Numbers and truth values stand without quotes.'),
        ({"count": None}, "count = None must be an integer."),
        ({"count": 1, "name": 3}, 'name = 3 must be text. Write "3".'),
        ({"count": 1, "is_on": 1}, "is_on = 1 must be true or false."),
        ({"count": 1, "inner": {"rate": "1e-3"}}, 'inner.rate = "1e-3" must be a number. Numbers'),
        ({"count": 1, "inner": {"rate": True}}, "inner.rate = true must be a number."),
        ({"count": 1, "inner": {"rate": 10**400}}, "must be a number."),
        ({"count": 1, "inner": 3}, "inner = 3 must be a table of settings."),
        ({"count": 1, "inner": {"names": "a"}}, 'inner.names = "a" must be a list of texts. Write ["a"].'),
        ({"count": 1, "inner": {"names": ["a", 2]}}, "inner.names.1 = 2 must be text."),
        ({"count": 1, "word": "leftside"}, "word = \"leftside\" must be one of: left, right. Did you mean 'left'?"),
        ({"count": 1, "shade": "LIGHT"}, "must be one of: light, dark."),
        ({"count": 1, "many": {"rate": 1}}, "many = {rate} must be a list of tables."),
        ({"count": 1, "many": [{"rate": "x"}]}, 'many.0.rate = "x" must be a number.'),
        ({"count": 1, "rates": [1]}, "rates = [1] must be a table of numbers by name."),
        ({"count": 1, "named": {"a b": {"rat": 1}}}, 'named."a b".rat is no setting. Did you mean rate?'),
        ({"name": "x"}, "count is missing; expected an integer. How many."),
        ({"count": 1, "namee": "x"}, "namee is no setting. Did you mean name"),
        ({"count": 1, "rate": 1}, "rate is no setting. There is inner.rate."),
        ({"count": 1, "qqq": 1}, "qqq is no setting. Known here: count, name,"),
        ([], "the whole = [] must be a table of settings."),
    ],
)
def test_what_is_wrong_is_said(values: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as error:
        bind(Outer, values)
    assert said in str(error.value)


def test_complaints_carry_the_place_of_their_key() -> None:
    places = {("inner", "rate"): "r.toml:4", ("inner",): "r.toml:3", (): "r.toml"}

    def place(path: tuple[str, ...]) -> str:
        return places.get(path, "")

    for values, said in (
        ({"count": 1, "inner": {"rate": "x"}}, 'r.toml:4: inner.rate = "x" must be'),
        ({"count": 1, "inner": {"rate": 2.0}}, "r.toml:4: inner.rate = 2.0 must be at most 1."),
        ({"count": 1, "inner": {"namez": 2.0}}, "r.toml:3: inner.namez is no setting"),
        ({"inner": {}}, "r.toml: count is missing"),
    ):
        with pytest.raises(ConfigError) as error:
            bind(Outer, values, place=place)
        assert str(error.value).startswith(said)


def test_paths_are_written_as_toml_writes_them() -> None:
    assert dotted(("data", "tasks", "glue/cola", "train")) == 'data.tasks."glue/cola".train'
    assert dotted(("a-b_1",)) == "a-b_1"
