"""Pages draw in a browser without a network, wide and narrow, light and dark, and are accessible."""

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from fedpipe.results import changes
from fedpipe.results.report import page
from fedpipe.results.run import Run, read_run
from fedpipe.results.source import Workspace
from fedpipe.studies import outputs
from fedpipe.studies.commands import recorded
from tests.browser import needs_browser, opened
from tests.test_report import CASES, attacked, having, private, using, with_rounds

pytestmark = [pytest.mark.slow, needs_browser]


def study(name: str) -> str:
    state, records, _ = recorded(f"studies/{name}.yaml", say=lambda line: None)
    return outputs.page(state.study, records, name)


def diverged(run: Run) -> Run:
    lost = with_rounds(run, test_loss=None, train_loss=None, update_norm=None, aggregate_norm=None, update_cosine=None)
    return having(lost, federated={"diverged": True, "loss": None}, comparison={"gap_points": None})


PAGES: dict[str, Callable[[Run], str]] = {
    "the default run": page,
    "a private run": lambda run: page(private(run)),
    "a run under attack": lambda run: page(attacked(run)),
    "a run that diverged": lambda run: page(diverged(run)),
    "a run with lost updates": lambda run: page(CASES["not_all_counted"][0](run)),
    "two runs": lambda run: changes.page(run, replace(using(run, federated__rounds=7), name="other")),
    "a study with figures": lambda run: study("privacy"),
    "a study of many runs": lambda run: study("strategies"),
}


@pytest.fixture(scope="module")
def run() -> Run:
    return read_run(Workspace())


@pytest.fixture(scope="module")
def file(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default run's page."""
    file = tmp_path_factory.mktemp("pages") / "page.html"
    file.write_text(page(run), encoding="utf-8")
    return file


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize(("width", "scheme"), [(1400, "light"), (390, "dark")])
def test_a_page_is_drawn_and_accessible_and_asks_for_nothing(
    name: str, width: int, scheme: str, run: Run, tmp_path: Path
):
    file = tmp_path / "page.html"
    file.write_text(PAGES[name](run), encoding="utf-8")
    with opened(file, width=width, scheme=scheme, touch=width < 500) as seen:
        assert seen.requests == [file.resolve().as_uri()]
        assert [line for line in seen.console if not line.startswith("log:")] == []
        assert seen.violations() == []
        assert seen.overflow() == 0
        charts = seen.page.locator(".chart")
        assert charts.count() == seen.page.locator(".chart svg").count() > 0


class TestTheFigures:
    def test_a_click_in_the_legend_hides_and_shows_a_line(self, file: Path):
        with opened(file, width=1400) as seen:
            figure = seen.page.locator("#learning_curves")
            lines = figure.locator(".mark-line path")

            def opacities() -> list[str]:
                return [lines.nth(place).get_attribute("opacity") or "1" for place in range(lines.count())]

            assert set(opacities()) == {"1"}
            figure.locator(".role-legend-label text", has_text="Centralised").click()
            assert sorted(opacities()) == ["0.05", "0.05", "1"]
            figure.locator(".role-legend-label text", has_text="Centralised").click()
            assert set(opacities()) == {"1"}

    def test_a_point_tells_its_numbers_under_the_pointer(self, file: Path):
        with opened(file, width=1400) as seen:
            seen.page.locator("#learning_curves .mark-symbol.role-mark path").nth(2).hover(force=True)
            told = seen.page.locator("#vg-tooltip-element.visible").inner_text()
            assert re.search(r"accuracy\s+\d\d\.\d\d%", told)

    def test_the_wheel_zooms_with_shift_and_scrolls_without(self, file: Path):
        with opened(file, width=1400) as seen:
            figure = seen.page.locator("#accuracy")
            figure.scroll_into_view_if_needed()

            def ticks() -> str:
                return " ".join(figure.locator(".role-axis-label text").all_text_contents())

            before = ticks()
            box = figure.locator("svg").bounding_box()
            assert box
            seen.page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
            seen.page.mouse.wheel(0, 200)
            seen.page.wait_for_timeout(300)
            assert ticks() == before
            assert seen.page.evaluate("scrollY") > 0
            box = figure.locator("svg").bounding_box()
            assert box
            seen.page.mouse.move(box["x"] + box["width"] / 3, box["y"] + box["height"] / 2)
            seen.page.keyboard.down("Shift")
            seen.page.mouse.wheel(0, -300)
            seen.page.wait_for_timeout(300)
            assert ticks() != before

    def test_it_prints_on_paper_in_ink_also_from_a_dark_window(self, file: Path, tmp_path: Path):
        with opened(file, width=1400, scheme="dark") as seen:
            assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 21, 30)"
            seen.page.emulate_media(media="print")
            assert seen.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
            seen.page.pdf(path=tmp_path / "page.pdf", format="A4")
            assert (tmp_path / "page.pdf").read_bytes().startswith(b"%PDF")
