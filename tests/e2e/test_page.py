"""The page at /, used as a visitor uses it, in a headless Chromium."""

import json
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Error, Page, expect, sync_playwright

import t5kit
from t5kit.testing.folders import write_tiny_folder
from t5kit.testing.server_process import ServerProcess

ROOT = Path(__file__).parents[2]
AXE = ROOT / ".cache" / "axe-core" / "axe.min.js"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    path = os.environ.get("T5KIT_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if path is None:
        pytest.skip("Chromium is not installed (apt-get install chromium, or name it in T5KIT_CHROMIUM)")
    with sync_playwright() as playwright:
        try:
            launched = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        except Error as error:
            pytest.skip(f"{path} cannot be started here: {str(error).splitlines()[0]}")
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_folder(tmp_path_factory.mktemp("page") / "tiny")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[ServerProcess]:
    """Two models: one whose folder names no tasks, one whose does."""
    named = shutil.copytree(folder, folder.parent / "named")
    config = json.loads((named / "config.json").read_text())
    config["task_specific_params"] = {"count the words": {"prefix": "count: "}}
    (named / "config.json").write_text(json.dumps(config))
    models = ["-m", f"tiny={folder}", "-m", f"named={named}"]
    with ServerProcess([*models, "--threads", "1", "--weights", "float32"]) as running:
        yield running


@pytest.fixture
def page(browser: Browser, server: ServerProcess) -> Iterator[Page]:
    """The page, fresh; no request may leave the server it came from, and no script may fail."""
    context = browser.new_context()
    opened = context.new_page()
    opened.set_default_timeout(20_000)
    outside: list[str] = []
    faults: list[str] = []
    opened.on("request", lambda request: None if request.url.startswith(server.url) else outside.append(request.url))
    opened.on("pageerror", lambda error: faults.append(str(error)))
    opened.goto(server.url)
    expect(opened.locator("#status")).to_contain_text("ready", timeout=20_000)
    yield opened
    context.close()
    assert not outside and not faults


def ask(page: Page, text: str, **options: str) -> None:
    if options:
        page.locator("#options").evaluate("each => { each.open = true; }")
    for name, value in options.items():
        page.locator(f"#{name}").fill(value)
    page.locator("#text").fill(text)
    page.locator("#ask").click()


def is_answered(page: Page) -> None:
    expect(page.locator("#timing")).to_contain_text("tokens in")
    expect(page.locator("#ask")).to_be_enabled()


def test_an_answer_streams_and_is_the_models(page: Page, folder: Path) -> None:
    page.locator("#task").select_option("Summarize")
    ask(page, "one two", max_new_tokens="20")
    is_answered(page)
    with t5kit.Model.from_pretrained(folder, weights="float32", threads=1) as model:
        right = model.generate("summarize: one two", max_new_tokens=20)
    assert page.locator("#answer").evaluate("each => each.textContent") == right


def test_tasks_are_those_that_the_models_folder_names(page: Page) -> None:
    usual = page.locator("#task option").all_text_contents()
    assert usual[0] == "As written" and "Summarize" in usual
    page.locator("#model").select_option("named")
    expect(page.locator("#task option")).to_have_text(["As written", "count the words", "Prefix of your own"])
    page.locator("#task").select_option("count the words")
    expect(page.locator("#prefix")).to_have_value("count: ")
    page.locator("#model").select_option("tiny")
    expect(page.locator("#task option")).to_have_text(usual)
    expect(page.locator("#task")).to_have_value("custom")  # what stands in the prefix stays


def test_words_tell_their_alternatives_and_where_the_model_looked(page: Page) -> None:
    ask(page, "one two three", max_new_tokens="8")
    is_answered(page)
    word = page.locator("#answer button").first
    word.focus()
    expect(word).to_have_attribute("aria-pressed", "true")
    expect(page.locator("#alternatives table").first.locator("tbody tr.chosen")).to_have_count(1)
    assert page.locator("#alternatives table").first.locator("tbody tr").count() >= 6
    weights = page.locator("#read span").evaluate_all(
        "all => all.map(each => Number(each.style.getPropertyValue('--weight')))"
    )
    assert page.locator("#read").inner_text().split() == ["one", "two", "three"]
    assert max(weights) == 1 and all(0 <= weight <= 1 for weight in weights)


def test_escape_and_the_button_stop_an_answer(page: Page, server: ServerProcess) -> None:
    for is_by_key in (True, False):
        ask(page, "one", max_new_tokens="2048", min_new_tokens="2048")
        expect(page.locator("#answer")).not_to_be_empty()
        if is_by_key:
            page.keyboard.press("Escape")
        else:
            page.locator("#stop").click()
        expect(page.locator("#timing")).to_have_text("stopped")
        expect(page.locator("#stop")).to_be_hidden()
        assert server.wait_for(lambda: server.metric("t5kit_running") == 0)
    assert page.locator("#error").is_hidden()


def test_what_the_server_refuses_is_shown_and_goes_away(page: Page) -> None:
    ask(page, "one", num_return_sequences="3")
    expect(page.locator("#error")).to_contain_text("num_return_sequences = 3 needs as many beams")
    expect(page.locator("#error")).to_have_attribute("role", "alert")
    ask(page, "one", num_return_sequences="3", num_beams="4", max_new_tokens="6")
    expect(page.locator("#best-list li")).to_have_count(3)
    expect(page.locator("#error")).to_be_hidden()
    expect(page.locator("#best-list li").first).to_contain_text("score")


def test_everything_is_done_by_keyboard(page: Page) -> None:
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.type("one two")
    page.keyboard.press("Control+Enter")
    is_answered(page)
    reached = set()
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.parentElement?.id"))
    assert {"task", "prefix", "text", "ask", "copy", "answer", "forget", "theme", "model"} <= reached


def test_history_comes_back_and_can_be_cleared(page: Page) -> None:
    ask(page, "one", max_new_tokens="5", num_beams="2")
    is_answered(page)
    answer = page.locator("#answer").evaluate("each => each.textContent")
    page.reload()
    expect(page.locator("#past-list button")).to_have_count(1)
    page.locator("#past-list button").click()
    assert page.locator("#text").input_value() == "one" and page.locator("#num_beams").input_value() == "2"
    assert page.locator("#answer").evaluate("each => each.textContent") == answer
    page.locator("#forget").click()
    expect(page.locator("#past")).to_be_hidden()


def test_a_text_with_markup_is_shown_as_text(page: Page) -> None:
    ask(page, "<img src=x onerror=alert(1)><b>bold</b>", max_new_tokens="3")
    is_answered(page)
    expect(page.locator("#past-list button")).to_contain_text("<b>bold</b>")
    assert page.locator("#past-list img, #past-list b, #read b, #answer b").count() == 0


def test_the_theme_follows_the_system_and_then_the_visitor(browser: Browser, server: ServerProcess) -> None:
    context = browser.new_context(color_scheme="dark")
    page = context.new_page()
    page.goto(server.url)
    assert page.locator("html").get_attribute("data-theme") == "dark"
    page.locator("#theme").click()
    page.reload()
    assert page.locator("html").get_attribute("data-theme") == "light"
    context.close()


@pytest.mark.parametrize(("scheme", "width"), [("light", 1200), ("dark", 1200), ("light", 360)])
def test_axe_finds_nothing_serious(browser: Browser, server: ServerProcess, scheme: str, width: int) -> None:
    if not AXE.is_file():
        pytest.skip("axe-core is not here: run `make page-tools` (needs npm)")
    context = browser.new_context(
        color_scheme="dark" if scheme == "dark" else "light", viewport={"width": width, "height": 800}
    )
    page = context.new_page()
    page.goto(server.url)
    expect(page.locator("#status")).to_contain_text("ready")
    ask(page, "one two three", max_new_tokens="8", num_beams="3", num_return_sequences="2")
    is_answered(page)
    page.locator("#answer button").first.focus()
    page.evaluate(AXE.read_text(encoding="utf-8"))
    found = page.evaluate("axe.run().then(({violations}) => violations.map(v => [v.impact, v.id, v.nodes[0].html]))")
    assert not [each for each in found if each[0] in ("serious", "critical")], found
    overflow = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
    assert overflow <= 0  # nothing to scroll sideways, on a phone either
    context.close()


def test_the_page_waits_for_a_server_that_went_away(browser: Browser, folder: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    arguments = ["-m", f"tiny={folder}", "--threads", "1", "--port", port]
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(40_000)
    with ServerProcess(arguments) as server:
        page.goto(server.url)
        expect(page.locator("#status")).to_contain_text("ready")
    ask(page, "one")
    expect(page.locator("#error")).to_contain_text("cannot be reached")
    expect(page.locator("#status")).to_contain_text("not reachable")
    with ServerProcess(arguments):
        expect(page.locator("#status")).to_contain_text("ready", timeout=20_000)
        ask(page, "one", max_new_tokens="5")
        is_answered(page)
        expect(page.locator("#error")).to_be_hidden()
    context.close()


def test_a_key_is_asked_for_and_used(browser: Browser, folder: Path) -> None:
    arguments = ["-m", f"tiny={folder}", "--threads", "1"]
    with ServerProcess(arguments, environment={"T5KIT_API_KEYS": "visitor=key-of-visitor"}) as server:
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.url)
        expect(page.locator("#key-dialog")).to_be_visible()
        page.locator("#key").fill("key-of-visitor")
        page.keyboard.press("Enter")
        expect(page.locator("#model option")).to_have_count(1)
        ask(page, "one", max_new_tokens="5")
        is_answered(page)
        context.close()


@pytest.mark.weights
def test_screenshots_with_real_weights(browser: Browser, test_files: Path) -> None:
    """With T5KIT_SCREENSHOTS the pictures of docs/how-to/serve.md are written to the folder it names."""
    folder = os.environ.get("T5KIT_SCREENSHOTS")
    if not folder:
        pytest.skip("T5KIT_SCREENSHOTS names no folder for the pictures")
    with ServerProcess(["-m", str(test_files / "flan-t5-small"), "--threads", "1"]) as server:
        for scheme, width, height in (("light", 1100, 980), ("dark", 400, 860)):
            context = browser.new_context(
                color_scheme="dark" if scheme == "dark" else "light", viewport={"width": width, "height": height}
            )
            page = context.new_page()
            page.goto(server.url)
            page.locator("#task").select_option("Translate to German")
            ask(page, "The house is wonderful, and the garden is small.", num_beams="3", num_return_sequences="3")
            is_answered(page)
            page.locator("#options").evaluate("each => { each.open = false; }")
            page.locator("#answer button").nth(1).focus()
            page.screenshot(path=Path(folder) / f"page-{scheme}.png")
            context.close()
