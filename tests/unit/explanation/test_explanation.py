"""An explanation as data, as a page, as a picture, and as Model.explain makes it."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from t5kit import Model
from t5kit.api import explaining
from t5kit.checkpoint import open_folder
from t5kit.errors import DataError, DependencyError, RequestError
from t5kit.explanation import heat_map_png
from t5kit.explanation.explanation import Attribution, Explanation
from t5kit.runtime.native import unavailable_reason
from t5kit.testing.folders import write_tiny_folder
from t5kit.testing.pages import Page
from t5kit.text.words import Word

HOSTILE = '<script>alert("x")</script>'


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder = write_tiny_folder(tmp_path_factory.mktemp("models") / "tiny")
    with Model.from_pretrained(folder, engine="reference") as model:
        yield model


def made_up(**changes: object) -> Explanation:
    """Two output words of three tokens, three input words of four tokens."""
    rng = np.random.Generator(np.random.Philox(3))
    values = rng.normal(size=(3, 4))
    weights = rng.dirichlet(np.ones(4), size=(2, 2, 3)).astype(np.float32)
    facts: dict[str, object] = {
        "text": f"one {HOSTILE}",
        "answer": f"a {HOSTILE}",
        "engine": "reference, float32",
        "input_ids": (3, 4, 5, 1),
        "output_ids": (6, 7, 1),
        "input_tokens": ("o", "ne", f" {HOSTILE}", "</s>"),
        "output_tokens": ("a", f" {HOSTILE}", "</s>"),
        "input_words": (Word("one", 0, 2), Word(HOSTILE, 2, 3), Word("$</s>$", 3, 4)),
        "output_words": (Word("a", 0, 1), Word(HOSTILE, 1, 3)),
        "attribution": Attribution(
            values=values,
            scores=np.array([-1.0, -2.0, -0.5]),
            baseline_scores=np.array([-1.0, -2.0, -0.5]) - values.sum(axis=1) + [0.0, 0.04, 2.0],
            baseline="pad",
            num_steps=16,
            tolerance=0.05,
        ),
        "alignment": weights,
        "encoder_attention": rng.dirichlet(np.ones(4), size=(2, 2, 4)).astype(np.float32),
    }
    return Explanation(**{**facts, **changes})  # type: ignore[arg-type]


def test_a_long_text_is_cut_where_that_is_asked_for(model: Model) -> None:
    with pytest.raises(RequestError, match=r"1,501 tokens; an explanation takes at most 1,024.*--truncate"):
        model.explain("x" * 1500, "A", maps=["alignment"])
    found = model.explain("x" * 1500, maps=["alignment"], truncate=True, max_new_tokens=3)
    assert len(found.input_ids) == 1024 and found.input_ids[-1] == 1
    assert found.answer == model.generate("x" * 1023, max_new_tokens=3) and model.max_input_tokens == 4096


def test_words_add_up_what_their_tokens_got() -> None:
    found = made_up()
    assert found.attribution is not None
    values, words = found.attribution.values, found.word_matrix("attribution")
    assert words.shape == (2, 3)
    np.testing.assert_allclose(words[1, 0], values[1:, :2].sum())
    np.testing.assert_allclose(words.sum(), values.sum())
    for name in ("alignment", "encoder_attention"):
        np.testing.assert_allclose(found.word_matrix(name).sum(axis=1), 1.0, atol=1e-6)
    np.testing.assert_allclose(
        np.mean([found.matrix("alignment", layer=layer) for layer in (0, 1)], axis=0), found.matrix("alignment")
    )


def test_completeness_is_judged_token_by_token() -> None:
    found = made_up().attribution
    assert found is not None
    np.testing.assert_allclose(found.errors, [0.0, 0.04, 2.0], atol=1e-12)
    assert (found.errors <= found.bounds).tolist() == [True, True, False]
    assert not found.is_complete


def test_the_plain_form_is_json_and_holds_the_numbers() -> None:
    found = json.loads(json.dumps(made_up().to_json(), allow_nan=False))
    assert found["attribution"]["is_complete"] is False
    np.testing.assert_allclose(np.array(found["attribution"]["values"]).shape, (3, 4))
    np.testing.assert_allclose(np.mean(found["alignment"]["layers"], axis=0), found["alignment"]["mean"], atol=2e-6)
    assert found["input"]["words"][0] == {"text": "one", "start": 0, "end": 2}


def test_the_page_shows_texts_as_texts_and_every_number_in_a_table() -> None:
    text = made_up().to_html()
    page = Page(text)
    assert not {tag for tag, _ in page.found} & {"script", "link", "img", "iframe", "a"}
    assert page.text_of["h1"] == [f"a {HOSTILE}"] and HOSTILE in page.text_of["th"]
    assert page.text_of["h2"] == [
        "Input and answer",
        "What each input word adds",
        "Where the decoder looks",
        "Whom input words look at",
        "Tokens",
    ]
    assert "more steps" in " ".join(page.text_of["p"]), "an incomplete attribution says so"
    whole = made_up().word_matrix("attribution").sum(axis=0)
    cells = re.findall(r"<tr><th scope=\"row\">one</th><td[^>]*>([^<]*)", text)
    assert cells[0] == f"{whole[0]:+.2f}"
    figures = dict(zip(page.text_of["dt"], page.text_of["dd"], strict=True))
    assert figures["largest error of an output token"] == "2.0000"
    layers = [caption for caption in page.text_of["caption"] if "layer" in caption]
    assert layers == [f"{title}, layer {n}" for title in ("Cross-attention", "Self-attention") for n in (0, 1)]


def test_long_inputs_have_pictures_in_place_of_tables_and_then_words_alone() -> None:
    for size, num_pictures in ((80, 1), (450, 0)):
        weights = np.full((1, 1, size, size), 1 / size, np.float32)
        words = tuple(Word(f"w{n}", n, n + 1) for n in range(size))
        found = made_up(
            attribution=None, alignment=None, encoder_attention=weights, input_words=words,
            input_tokens=("w",) * size, input_ids=(3,) * size,
        )  # fmt: skip
        text = found.to_html()
        assert text.count('<svg class="chart heat"') == num_pictures, "6,400 cells are a picture"
        assert "too many to draw" in text or num_pictures
        assert len(text) < 200_000


def test_letters_without_a_font_are_told_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("matplotlib")
    monkeypatch.setattr(heat_map_png, "FONTS", ("DejaVu Sans",))
    path = tmp_path / "map.png"
    with pytest.warns(UserWarning, match="no installed font") as caught:
        heat_map_png.draw_heat_map(
            path, np.eye(2), row_names=["\u4f60\u597d", "a"], column_names=["\u4f60", "b"], title="t", is_signed=False
        )
    (warning,) = caught
    assert "no installed font has 2 of the letters (\u4f60\u597d)" in str(warning.message) and path.is_file()


def test_pictures_are_png_of_the_map_asked_for(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    found, path = made_up(), tmp_path / "map.png"
    seen = set()
    for name in found.maps():
        found.to_png(path, name)
        assert path.read_bytes().startswith(b"\x89PNG\r\n")
        seen.add(path.read_bytes())
    found.to_png(path, "alignment", layer=1)
    assert len(seen | {path.read_bytes()}) == 4
    with pytest.raises(DataError, match="cannot be written"):
        found.to_png(tmp_path / "none" / "map.png")
    assert [each.name for each in tmp_path.iterdir()] == ["map.png"]


def test_a_picture_without_matplotlib_names_what_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heat_map_png.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyError, match=r"A PNG heat map needs the package 'matplotlib'.*t5kit\[explain\]"):
        made_up().to_png(tmp_path / "map.png")


@pytest.mark.parametrize(
    ("map", "layer", "message"),
    [
        ("attention", None, "must be one of: attribution, alignment"),
        ("encoder_attention", None, "has no encoder_attention; it has: attribution, alignment. Because."),
        ("attribution", 1, "attribution has no layers"),
        ("alignment", 2, "layer = 2 must be an integer from 0 to 1"),
    ],
)
def test_what_is_not_there_is_said(map: str, layer: int | None, message: str) -> None:
    found = made_up(encoder_attention=None, notes=("Because.",))
    with pytest.raises(RequestError, match=re.escape(message)):
        found.matrix(map, layer=layer)  # type: ignore[arg-type]


def test_a_model_explains_its_own_answer_and_a_given_one(model: Model) -> None:
    pytest.importorskip("torch")
    found = model.explain("ab c", max_new_tokens=3, tolerance=0.5, max_steps=64)
    answer = model.generate("ab c", max_new_tokens=3, details=True)
    assert (found.answer, found.output_ids) == (answer.text, answer.token_ids)
    assert found.maps() == ("attribution", "alignment", "encoder_attention") and not found.notes
    assert found.attribution is not None
    np.testing.assert_allclose(found.attribution.scores, answer.token_scores, atol=1e-3)
    given = model.explain("ab c", "xy", maps=["alignment"])
    assert (given.answer, len(given.output_ids), given.maps()) == ("xy", 3, ("alignment",))
    assert given.alignment is not None
    np.testing.assert_allclose(given.alignment.sum(axis=-1), 1.0, atol=1e-5)


def test_an_int8_folder_is_explained_by_the_weights_it_stands_for(model: Model, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    model.save_pretrained(tmp_path / "int8", weights="int8")
    with Model.from_pretrained(tmp_path / "int8", engine="reference") as small:
        found = small.explain("ab", "c", tolerance=0.9, max_steps=16)
        assert found.attribution is not None
        assert found.attribution.scores.sum() == pytest.approx(small.score("ab", "c"), abs=1e-3)


def test_training_and_closing_forget_the_weights_of_before(tmp_path: Path) -> None:
    folder = write_tiny_folder(tmp_path / "a")
    with Model.from_pretrained(folder, engine="native" if unavailable_reason() is None else "reference") as model:
        before = model.explain("ab", "c", maps=["encoder_attention"]).encoder_attention
        model.folder = open_folder(write_tiny_folder(tmp_path / "b", seed=1))
        after = model.explain("ab", "c", maps=["encoder_attention"]).encoder_attention
        assert before is not None and after is not None
        if unavailable_reason() is None:
            assert np.abs(before - after).max() > 1e-3, "the folder's weights, as they are now"
    assert model._explaining is None


def test_without_torch_attribution_is_left_out_or_refused(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explaining.importlib.util, "find_spec", lambda name: None)
    found = model.explain("ab", "c")
    assert found.maps() == ("alignment", "encoder_attention")
    assert "needs PyTorch" in found.notes[0] and "needs PyTorch" in found.to_html()
    with pytest.raises(DependencyError, match=r"t5kit\[explain\]"):
        model.explain("ab", "c", maps=["attribution"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"maps": ["attention"]}, "must be a list of at least one of: attribution"),
        ({"maps": "alignment"}, "must be a list"),
        ({"baseline": "mask"}, "must be one of: pad, unknown, zero"),
        ({"num_beams": 2}, "num_beams has no effect on a given target"),
        ({"tolerance": 0}, "tolerance = 0 must be between 0 and 1"),
    ],
)
def test_wrong_words_are_refused(model: Model, words: dict[str, object], message: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(RequestError, match=re.escape(message)):
        model.explain("ab", "c", **words)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match="takes at most"):
        model.explain("a" * 1100, "c")
    with pytest.raises(RequestError, match="expected one text"):
        model.explain(["a"])  # type: ignore[arg-type]
