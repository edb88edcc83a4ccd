"""Pages in a real browser: Chromium, headless, without a network."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, sync_playwright

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium, which `apt-get install chromium` gives")


@dataclass
class Seen:
    """What a browser saw of a page."""

    page: Page
    requests: list[str] = field(default_factory=list)
    console: list[str] = field(default_factory=list)  # warnings and errors

    def violations(self) -> list[str]:
        """What axe-core finds against the rules of WCAG and its own of good practice."""
        found: list[dict[str, Any]] = Axe().run(self.page).response["violations"]
        return [f"{one['id']}: {one['help']}: {node['html'][:200]}" for one in found for node in one["nodes"]]

    def overflow(self) -> int:
        """By how many pixels the page is wider than its window."""
        return self.page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")


@contextmanager
def opened(file: Path, *, width: int, scheme: Any = "light", touch: bool = False) -> Iterator[Seen]:
    """A page that is drawn, in a browser without a network.

    Args:
        file: of the page.
        width: of the window, in pixels.
        scheme: light or dark.
        touch: whether a finger is all there is to point with.
    """
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        context = browser.new_context(
            viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, has_touch=touch,
            bypass_csp=True,  # for axe, which is put into the page
        )  # fmt: skip
        seen = Seen(context.new_page())
        seen.page.on("request", lambda request: seen.requests.append(request.url))
        seen.page.on("console", lambda message: seen.console.append(f"{message.type}: {message.text}"))
        seen.page.on("pageerror", lambda error: seen.console.append(str(error)))
        seen.page.goto(file.resolve().as_uri())
        seen.page.wait_for_selector("html[data-drawn]", state="attached", timeout=60_000)
        yield seen
        browser.close()
