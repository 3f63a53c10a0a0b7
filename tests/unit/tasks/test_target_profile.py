"""What kind of answers a data set asks for, and what is strange about its labels."""

import pytest

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
    ],
)
def test_labels_that_are_meant_are_not_called_mistyped(labels: dict[str, int]) -> None:
    assert near_labels(labels) == []


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
        ([*(f"{n / 7:.2f}" for n in range(500)), *["none"] * 40], ""),
        ([f"a text of some words, the {n}th" for n in range(100)], ""),
        (["good", "bad"] * 250, ""),
    ],
)
def test_few_targets_that_decide_the_kind_of_all_are_told(targets: list[str], said: str) -> None:
    findings = " ".join(TargetProfile.of(targets).findings())
    assert said in findings if said else "targets are" not in findings
