"""What kind of answers a data set asks for, and what is strange about its labels."""

import random
import time

import hypothesis
import pytest
from hypothesis import strategies as st

from t5kit.metrics.error_rates import edit_distance
from t5kit.tasks.target_profile import TargetProfile, near_labels

LABELS = ["positive"] * 60 + ["negative"] * 55


@pytest.mark.parametrize(
    ("targets", "kind", "best"),
    [
        (LABELS, "labels", "accuracy"),
        (["no"] * 95 + ["yes"] * 5, "labels", "macro_f1"),
        (["1", "2", "3", "4", "5"] * 8, "labels", "accuracy"),
        (["0.0", "1.0"] * 20, "labels", "accuracy"),
        ([str(20 + number % 18) for number in range(60)], "numbers", "pearson"),  # too many for labels
        ([str(1 + number % 10) for number in range(39)], "numbers", "pearson"),
        (["3.8", "0.2", "4.4", "5.0"] * 9, "numbers", "pearson"),
        ([str(number * 7) for number in range(50)], "numbers", "pearson"),
        ([f"a whale {number}x" for number in range(40)], "answers", "exact_match"),
        (["Paris", "Rome", "Oslo"], "answers", "exact_match"),
        ([f"The ministry said on day {number} that it would not." for number in range(20)], "texts", "rougeL"),
        ([f"Министерство сообщило в день {number}, что не будет." for number in range(20)], "texts", "chrf"),
    ],
)
def test_the_kind_of_targets_decides_the_metric(targets: list[str], kind: str, best: str) -> None:
    profile = TargetProfile.of(targets)
    assert (profile.kind, profile.best_metric) == (kind, best)


def test_every_profile_s_best_metric_is_a_number_of_its_metrics() -> None:
    from t5kit.metrics.named import numbers_of

    for targets in (LABELS, ["0.5", "1.5", "2.5"], ["a", "b", "c"], ["a long text of many words " * 3] * 3, ["ы" * 90]):
        profile = TargetProfile.of(targets)
        assert profile.best_metric in [number for name in profile.metrics for number in numbers_of(name)]


@pytest.mark.parametrize(
    ("rare", "frequent"),
    [("positivve", "positive"), ("Positive", "positive"), ("posiitve", "positive"), ("very  good", "very good"),
     ("internationl relatins", "international relations")],
)  # fmt: skip
def test_a_rare_label_near_a_frequent_one_is_told(rare: str, frequent: str) -> None:
    assert near_labels({frequent: 50, "other": 40, rare: 2}) == [(rare, frequent)]


@pytest.mark.parametrize(
    ("labels"),
    [
        {"class 1": 50, "class 2": 2},
        {"related": 50, "unrelated": 3},
        {"male": 50, "female": 2},
        {"yes": 50, "no": 2},
        {"positive": 50, "positivve": 40},  # both frequent: somebody meant it
        {"1": 50, "0": 40, "-1": 40},
        {">50K": 50, "<=50K": 40},
        {"A": 50, "A+": 40, "A-": 45},
        {"C": 50, "C++": 40, "C#": 45},
        {"x>0": 50, "x<0": 40},
        {"1.5": 50, "15": 40},
    ],
)
def test_labels_that_are_meant_are_not_called_mistyped(labels: dict[str, int]) -> None:
    assert near_labels(labels) == []


def test_labels_that_differ_in_case_or_spaces_alone_are_told_however_frequent() -> None:
    assert near_labels({"good": 20, "bad": 22, "Good": 18, "b ad": 15}) == [("Good", "good"), ("b ad", "bad")]
    assert near_labels({"co-op": 20, "Coop.": 22, "U.S.": 9, "us": 8}) == [("co-op", "Coop."), ("us", "U.S.")]


def test_a_label_that_both_halves_of_the_data_write_otherwise_still_counts_among_the_others() -> None:
    said = " ".join(TargetProfile.of(["good"] * 400 + ["Good"] * 41 + ["bad"] * 500).findings())
    assert "looks like 'good'" in said and "unbalanced: 'bad' comes 500 times and 'Good' 41" in said


def by_whole_distances(labels: dict[str, int]) -> list[tuple[str, str]]:
    """Return what near_labels says, by edit distances to their end."""

    def is_near(left: str, right: str) -> bool:
        left, right = (" ".join(label.split()).casefold() for label in (left, right))
        letters = [[letter for letter in label if letter.isalnum()] for label in (left, right)]
        if letters[0] == letters[1]:
            return bool(letters[0])
        digits = [[letter for letter in label if letter.isdigit()] for label in (left, right)]
        if digits[0] != digits[1] or left.endswith(right) or right.endswith(left):
            return False
        longest = max(len(left), len(right))
        distance = edit_distance(left, right)
        is_swap = distance == 2 and sorted(left) == sorted(right)
        return distance - is_swap <= (2 if longest >= 12 else 1 if longest >= 4 else 0)

    def without_marks(text: str) -> str:
        between = [text[n - 1 : n].isdigit() and text[n + 1 : n + 2].isdigit() for n in range(len(text))]
        is_point = [sign == "." and not inside for sign, inside in zip(text, between, strict=True)]
        return "".join(sign for sign, is_mark in zip(text, is_point, strict=True) if sign != " " and not is_mark)

    def is_compared(rare: str, name: str) -> bool:
        plain = [without_marks(" ".join(label.split()).casefold()) for label in (rare, name)]
        return labels[rare] <= max(1, 0.1 * labels[name]) < labels[name] or (plain[0] == plain[1] != "")

    names = sorted(labels, key=lambda label: (-labels[label], label))
    near = []
    for place, rare in enumerate(names):
        frequent = [name for name in names[:place] if is_compared(rare, name)]
        near += [(rare, name) for name in frequent if is_near(rare, name)][:1]
    return near


TIMES = st.sampled_from([1, 2, 30, 40])


def mistyped(stem: str) -> st.SearchStrategy[str]:
    """Draw texts that differ from a text in a few letters."""
    return st.builds(
        lambda place, cut, new: stem[:place] + new + stem[place + cut :],
        st.integers(0, 16), st.integers(0, 3), st.text("abB1 .", max_size=3),
    )  # fmt: skip


@hypothesis.given(
    st.dictionaries(st.text("abc", min_size=4, max_size=5), TIMES, min_size=2, max_size=8)
    | st.text("abB1 .", max_size=16).flatmap(lambda stem: st.dictionaries(mistyped(stem), TIMES, max_size=8))
)
def test_near_labels_are_those_of_whole_edit_distances(labels: dict[str, int]) -> None:
    assert near_labels(labels) == by_whole_distances(labels)


def test_many_long_labels_are_held_against_each_other_at_once() -> None:
    rng = random.Random(0)
    stem = "".join(rng.choices("abcdefgh ", k=60))
    labels = {stem + "".join(rng.choices("abcdefgh", k=18)): 100 if n % 2 else 1 for n in range(500)}
    begun = time.process_time()
    near_labels(labels)
    assert time.process_time() - begun < 10.0  # about 1 s; by whole distances a minute


def test_findings_name_one_class_imbalance_and_labels_seen_once() -> None:
    assert "every target is 'x'" in TargetProfile.of(["x"] * 10).findings()[0]
    found = TargetProfile.of(["no"] * 200 + ["yes"] * 6 + ["maybe", "nox"]).findings()
    assert [word for word in found if "'nox' (once) looks like 'no'" in word] == []  # too short to tell
    assert any("unbalanced: 'no' comes 200 times and" in words and "96.2%" in words for words in found)
    assert any("2 label(s) come once only ('maybe', 'nox')" in words for words in found)
    assert TargetProfile.of(LABELS).findings() == []


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ([*(f"{n / 7:.2f}" for n in range(500)), "n/a"], "500 of 501 targets are numbers, and 1 is not ('n/a')"),
        (["good", "bad"] * 250 + ["x" * 100], "500 of 501 targets are labels, and 1 is not ('xxx"),
        ([*(f"{n / 7:.2f}" for n in range(95)), *["n/a"] * 5], "95 of 100 targets are numbers, and 5 are not ('n/a')"),
        ([*(f"{n / 7:.2f}" for n in range(500)), *["none"] * 40], "500 of 540 targets are numbers, and 40 are not"),
        ([*(f"{n / 7:.2f}" for n in range(500)), *["none"] * 140], ""),
        (
            [f"{n * 997:,}.5" for n in range(500)],
            "500 of 500 targets are numbers, but 498 of them are written such as '1,",
        ),
        ([f"{n * 997:,}" for n in range(95)] + ["n/a"] * 5, "95 of 100 targets are numbers, but 93 of them are"),
        ([f"{n / 7:.2f}".replace(".", ",") for n in range(100)], "written such as '0,00', which is not read as one"),
        ([f"{n} %" for n in range(100)], "written such as '0 %', which is not read as one"),
        ([f"192.168.0.{n}" for n in range(100)], ""),
        ([f"2020-01-{n}" for n in range(100)], ""),
        ([f"a text of some words, the {n}th" for n in range(100)], ""),
        (["good", "bad"] * 250, ""),
    ],
)
def test_few_targets_that_decide_the_kind_of_all_are_told(targets: list[str], said: str) -> None:
    findings = " ".join(TargetProfile.of(targets).findings())
    assert said in findings if said else "targets are" not in findings
