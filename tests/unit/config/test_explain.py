"""Every setting can be asked for, with type, default and sentence."""

import pytest

from t5kit.config.explain import explain, settings_of
from t5kit.errors import ConfigError
from t5kit.recipe import RunConfig


def test_every_setting_of_a_run_has_a_sentence() -> None:
    assert [setting.path for setting in settings_of(RunConfig) if not setting.doc] == []


def test_type_default_and_sentence_are_shown() -> None:
    text = explain(RunConfig, "schedule.peak_lr")
    assert text.startswith("schedule.peak_lr = 0.001    (a number)\n    Highest learning rate; > 0.")
    assert explain(RunConfig, "training.num_steps").startswith("training.num_steps = (must be given)    (an integer)")
    assert explain(RunConfig, "model.d_model").startswith("model.d_model = (absent)    (an integer)")
    assert "one of: adafactor, adamw, adamw_rms, adam, sgd, muon" in explain(RunConfig, "optimizer.name")


def test_a_beginning_gives_all_below_it_and_names_are_free() -> None:
    lines = explain(RunConfig, "optimizer.sgd").splitlines()
    assert [line.split(" = ")[0] for line in lines if not line.startswith(" ")] == [
        "optimizer.sgd.momentum",
        "optimizer.sgd.uses_nesterov",
    ]
    assert explain(RunConfig, "data.tasks.g2p.train").startswith("data.tasks.NAME.train = []")


def test_an_unknown_path_names_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"no setting 'training.num_step'. Nearest: training.num_steps"):
        explain(RunConfig, "training.num_step")
