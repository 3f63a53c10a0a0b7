"""The run report, parsed: well formed, whole, self-contained, and true to the metrics file."""

import dataclasses
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace

import pytest

from t5kit.errors import DataError
from t5kit.testing.pages import Page
from t5kit.training.html_report import RunReport, write_report
from t5kit.training.run_history import read_run

SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A finished run of 40 steps with evaluations every 10; the best rougeL is at step 30."""
    run = tmp_path / "a <run> & more"
    run.mkdir()
    lines = []
    for step in range(2, 41, 2):
        line = {"kind": "train", "step": step, "loss": 5 / step, "accuracy": step / 50, "lr": 1e-3, "global_norm": 1.5}
        line |= {"z_loss": 0.0, "clip_factor": 1.0, "num_skipped": int(step == 8), "encoder_tokens": 900}
        lines.append({**line, "target_tokens": 100, "seconds": 0.5, "tokens_per_second": 2000.0})
        if step % 10 == 0:
            lines.append({"kind": "evaluation", "step": step, "loss": 6 / step, "rougeL": 30 - abs(30 - step)})
    (run / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (run / "recipe.toml").write_text('# what </pre><script>alert("x")</script> it is\n[training]\nnum_steps = 40\n')
    training = '[training]\nnum_steps = 40\nbest_metric = "rougeL"\nbest_is = "highest"\n'
    (run / "resolved.toml").write_text(training + "[optimizer.adafactor]\nbeta1 = 0.0\n")
    starts = [{"torch": "2.0", "num_threads": 1}, {"torch": "2.13.0", "num_threads": 2}]
    (run / "environment.json").write_text(json.dumps(starts))
    (run / "result.json").write_text(json.dumps({"num_steps": 40, "stopped_early": False}))
    (run / "data.json").write_text(json.dumps({"synopsis": {"records": 52105}}))
    sample = {"prompt": "summarize: <img src=https://example.org/x.png>", "target": "t", "prediction": "p & q"}
    (run / "samples.jsonl").write_text(json.dumps(sample) + "\n")
    return run


def page_of(folder: Path) -> tuple[str, Page]:
    text = write_report(folder).read_text(encoding="utf-8")
    return text, Page(text)


def test_the_report_is_one_page_that_asks_for_nothing_else(folder: Path) -> None:
    text, page = page_of(folder)
    tags = {tag for tag, _ in page.found}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "image", "use", "a"}
    assert not any(name in ("src", "href", "xlink:href", "style") for _, found in page.found for name in found)
    assert "url(" not in text and "@import" not in text
    assert set(re.findall(r'https?://[^"<>& ]+', text)) == {"http://www.w3.org/2000/svg", "https://example.org/x.png"}
    policy = next(found["content"] for tag, found in page.found if found.get("http-equiv"))
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"


def test_every_text_of_the_run_is_shown_as_text(folder: Path) -> None:
    _, page = page_of(folder)
    assert page.text_of["h1"] == ["a <run> & more"]
    assert page.text_of["pre"][0].startswith('# what </pre><script>alert("x")</script>')
    assert "summarize: <img src=https://example.org/x.png>" in page.text_of["th"]


def test_the_curves_are_drawn_with_titles_and_the_numbers_behind_them(folder: Path) -> None:
    text, page = page_of(folder)
    titles = page.text_of["figcaption"]
    assert titles == ["Loss", "Dev rougeL", "Accuracy", "Gradient norm", "Learning rate", "Tokens per second"]
    charts = [ElementTree.fromstring(svg) for svg in re.findall(r'<svg class="chart" .*?</svg>', text, re.DOTALL)]
    assert [chart.findtext(f"{SVG}title") for chart in charts] == titles
    assert charts[0].findtext(f"{SVG}desc").startswith("train: from 2.5 at step 2 to 0.125 at step 40; dev: from 0.6")
    assert all(len(chart.get("aria-labelledby").split()) == 2 for chart in charts)
    identities = [found["id"] for _, found in page.found if "id" in found]
    assert len(set(identities)) == len(identities), "names that labels refer to are used once"
    assert page.text_of["summary"].count("Numbers") == len(charts)
    assert sum(len(chart.findall(f"{SVG}path")) for chart in charts) == 7, "loss has two curves"
    captions = page.text_of["caption"]
    assert "Loss, train" in captions and "Loss, dev" in captions and "Metrics on the dev data" in captions


def test_the_key_figures_are_the_runs(folder: Path) -> None:
    _, page = page_of(folder)
    figures = dict(zip(page.text_of["dt"], page.text_of["dd"], strict=True))
    assert figures == {
        "best dev rougeL, step 30": "30",
        "last dev rougeL": "20",
        "last train loss": "0.125",
        "last train accuracy": "0.8",
        "spent in training steps": "10 s",
        "tokens, padding aside": "20,000",
        "tokens per second": "2,000",
        "updates skipped": "1",
    }
    assert page.text_of["p"] == ["40 of 40 steps. Started 2 times."]
    assert "30 (best)" in page.text_of["th"]
    cells = page.text_of["td"]
    assert {"2.13.0", "52105", "0"} <= set(cells), "environment of the last start, data, settings"


def test_an_unfinished_run_with_a_torn_line_has_a_report(folder: Path) -> None:
    metrics = folder / "metrics.jsonl"
    metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:7]) + '{"kind": "tra')
    for name in ("result.json", "environment.json", "data.json", "samples.jsonl", "recipe.toml"):
        (folder / name).unlink()
    _, page = page_of(folder)
    assert page.text_of["p"] == ["12 of 40 steps, not finished. 1 metric line(s) could not be read."]
    assert page.text_of["h2"] == ["Curves", "Evaluations", "Recipe"]


def test_values_that_are_not_finite_are_gaps_and_said(folder: Path) -> None:
    lines = [{"kind": "train", "step": n, "loss": None if n == 3 else float(n)} for n in range(1, 6)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    text, page = page_of(folder)
    assert "not finite" in page.text_of["td"]
    (path,) = re.findall(r'<path class="curve s0" d="([^"]*)"', re.sub(r'<ul class="legend">.*?</ul>', "", text))
    assert path.count("M") == 2, "two stretches"


def test_the_last_line_of_a_step_counts(folder: Path) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"kind": "train", "step": 40, "loss": 7.0}) + "\n")
    run = read_run(folder)
    assert run.train[-1]["loss"] == 7.0
    assert [line["step"] for line in run.train] == list(range(2, 41, 2))


def test_a_folder_without_metrics_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"is no run folder: it has no metrics\.jsonl"):
        write_report(tmp_path)


@pytest.mark.parametrize(("name", "content"), [("resolved.toml", "= 3"), ("data.json", "[1]"), ("result.json", "{")])
def test_a_broken_file_is_named(folder: Path, name: str, content: str) -> None:
    (folder / name).write_text(content)
    with pytest.raises(DataError, match=re.escape(name)):
        write_report(folder)


def test_a_report_that_cannot_be_written_leaves_the_old_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write_report(folder).read_bytes()

    def fail(self: Path, *_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(DataError, match="cannot be written \\(No space left"):
        write_report(folder)
    assert (folder / "report.html").read_bytes() == before
    assert not list(folder.glob(".*partial"))


def test_the_hook_writes_the_report_at_the_end_whichever_way(folder: Path) -> None:
    for end in (lambda hook: hook.finished(None), lambda hook: hook.stopped("a signal")):
        hook = RunReport()
        hook.started(SimpleNamespace(folder=SimpleNamespace(path=folder)), 0)
        end(hook)
        assert (folder / "report.html").is_file()
        (folder / "report.html").unlink()


def test_the_hook_of_a_run_that_stopped_before_its_first_metrics_writes_nothing(tmp_path: Path) -> None:
    hook = RunReport()
    hook.started(SimpleNamespace(folder=SimpleNamespace(path=tmp_path)), 0)
    hook.stopped("a signal")
    assert not list(tmp_path.iterdir())


def test_a_report_is_made_without_torch(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path\nfrom t5kit.training.html_report import write_report\n"
        "write_report(Path(sys.argv[1])); assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_findings_choices_and_scores_are_shown_as_text(folder: Path) -> None:
    choice = {"what": "metric", "value": "<b>accuracy</b>", "reason": "it fits"}
    (folder / "data.json").write_text(json.dumps({"findings": ["label <i> & 'b'"], "choices": [choice], "n": 3}))
    label = {"label": "<script>", "f1": 81.5, "precision": 80.0, "recall": 83.0, "support": 1200}
    scores = {"accuracy": {"value": 83.5, "low": 80.0, "high": 87.0, "confidence": 0.95}}
    report = {"scores": scores, "num_examples": 1400, "classification": {"labels": [label]}}
    (folder / "scores.json").write_text(json.dumps({"engine": "native", "command": "t5kit <x>", "test": report}))
    text, page = page_of(folder)
    for shown in (
        "label &lt;i&gt; &amp; &#x27;b&#x27;",
        "&lt;b&gt;accuracy",
        "80 … 87",
        "81.50",
        "1,200",
        "t5kit &lt;x&gt;",
    ):
        assert shown in text, shown
    assert {"Scores", "Findings", "Choices"} <= set(page.text_of["h2"]) and "<script>" not in text


def test_a_percentage_of_right_answers_is_not_drawn_over_a_share_of_right_tokens(folder: Path) -> None:
    lines = [{"kind": "train", "step": step, "loss": 1.0, "accuracy": 0.5} for step in range(1, 5)]
    lines.append({"kind": "evaluation", "step": 4, "loss": 1.0, "token_accuracy": 0.75, "accuracy": 62.5})  # type: ignore[dict-item]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, page = page_of(folder)
    titles = page.text_of["figcaption"]
    assert "Dev accuracy" in titles and "Accuracy" in titles and "Dev token_accuracy" not in titles
    described = " ".join(page.text_of["desc"])
    assert "train: from 0.5 at step 1 to 0.5 at step 4; dev: from 0.75" in described


def test_of_equal_evaluations_the_one_of_lower_loss_is_the_best(folder: Path) -> None:
    from t5kit.training.config import TrainingConfig
    from t5kit.training.state import TrainingState

    config = TrainingConfig(num_steps=40, evaluate_every=10, best_metric="rougeL", best_is="highest")
    state = TrainingState()
    losses = {10: 3.0, 20: 2.0, 30: 2.5, 40: 2.0}
    lines = []
    for step, loss in losses.items():
        metrics = {"loss": loss, "rougeL": 50.0}
        state = dataclasses.replace(state, step=step).after_evaluation(metrics, config)
        lines.append(json.dumps({"kind": "evaluation", "step": step, **metrics}))
    assert state.best is not None and state.best.step == 20 and state.num_without_best == 2
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")
    best = read_run(folder).best()
    assert best is not None and best.step == 20
