"""What runs in a folder, and the reports in it, as pages that refresh when they have changed."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
from aiohttp import web

from fedpipe.results.charts import MOST_POINTS, Chart
from fedpipe.results.figures import specification
from fedpipe.results.page import render
from fedpipe.results.wording import NOTHING, Table, number, percent, thinned
from fedpipe.system.console import say
from fedpipe.system.errors import UserError
from fedpipe.watch.state import Row, Stage, State, clock, look, ordered

SHOWN = 20  # of the latest steps
LIVE = "/"  # the path of the page of what runs
HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

REFRESH = """
<script>
(() => {
  const key = "scroll " + location.pathname, title = document.title
  const kept = sessionStorage.getItem(key)
  if (kept !== null) { sessionStorage.removeItem(key); scrollTo(0, Number(kept)) }
  setInterval(async () => {
    try {
      const answer = await fetch("/version?path=" + encodeURIComponent(decodeURIComponent(location.pathname)))
      document.title = title
      if (!answer.ok || await answer.text() === VERSION) return
      sessionStorage.setItem(key, String(scrollY))
      location.reload()
    } catch { document.title = "(not connected) " + title }
  }, 2000)
})()
</script>
"""

Page = Callable[[], tuple[str, str]]  # its text, and what differs whenever it has changed


def serve(folder: Path, host: str, port: int) -> None:
    """Serve the pages of a folder, until Ctrl-C.

    Args:
        folder: see `fedpipe.watch.state.look`.
        host: the address at which it listens.
        port: likewise; 0 takes a free one.

    Raises:
        UserError: there is no such folder, or the address cannot be taken.
    """
    look(folder)
    asyncio.run(_serve(folder, host, port))


def live_page(state: State) -> str:
    """Return the HTML of the page of what runs."""
    reports = [path for path in pages(state.folder) if path != LIVE]
    stage = state.running
    return render(
        "live.html.jinja",
        state=state,
        reports=reports,
        clock=clock,
        ordered=ordered,
        chart=_chart(stage) if stage and stage.curve else None,
        latest=_latest(stage) if stage else None,
    )


def _chart(stage: Stage) -> Chart:
    """Return the curve of a stage."""
    unit = stage.status.unit
    table = pd.DataFrame(stage.curve, columns=["round", "value"]).assign(what=f"{stage.data} accuracy")
    spec = specification("series", "", thinned(table, MOST_POINTS), lines="what", y_label=f"{stage.data} accuracy")
    axes = spec["encoding"]
    axes["x"]["title"], axes["y"]["axis"]["format"], axes["y"]["scale"]["zero"] = unit, ".3~%", False
    return Chart("curve", f"Accuracy by {unit}", f"{stage.result}, after {stage.progress}.", spec, Table("", [], []))


def _latest(stage: Stage) -> Table:
    """Return the latest steps of a stage, the last one first."""
    unit, data = stage.status.unit, stage.data
    return Table(
        f"Accuracy and loss on {data} data, the latest first",
        [unit, "accuracy", "loss", "training loss"],
        [
            [row[unit], _shown(row, f"{data}_accuracy", percent), _shown(row, f"{data}_loss", _loss),
             _shown(row, "train_loss", _loss)]
            for row in reversed(stage.rows[-SHOWN:])
        ],
    )  # fmt: skip


def _shown(row: Row, column: str, show: Callable[[float], str]) -> str:
    return show(float(row[column])) if row.get(column) else NOTHING


def _loss(value: float) -> str:
    return number(value, 4)


def pages(folder: Path) -> dict[str, Page]:
    """Return all that is served of a folder, by path: nothing else is, whatever is asked for."""
    files = [folder / "reports/report.html", *sorted(folder.glob("studies/*/report.html"))]
    reports = {f"/{file.relative_to(folder).as_posix()}": _report(file) for file in files if file.is_file()}
    return {LIVE: lambda: _live(folder), **reports}


def application(folder: Path) -> web.Application:
    """Return what answers requests."""

    async def answer(request: web.Request) -> web.Response:
        asks_version = request.path == "/version"
        page = pages(folder).get(request.query.get("path", "") if asks_version else request.path)
        if page is None:
            raise web.HTTPNotFound(text="no such page; / leads to all there are\n")
        try:
            text, version = page()
        except (OSError, UnicodeDecodeError, UserError):  # it has gone meanwhile
            raise web.HTTPNotFound(text="this page is not there at the moment\n") from None
        if asks_version:
            return web.Response(text=version, headers=HEADERS)
        return web.Response(text=_refreshing(text, version), content_type="text/html", headers=HEADERS)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    return app


async def _serve(folder: Path, host: str, port: int) -> None:
    runner = web.AppRunner(application(folder), access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        listening = runner.addresses[0]
        name = f"[{listening[0]}]" if ":" in listening[0] else listening[0]
        say(f"http://{name}:{listening[1]}/ shows what runs in {folder.resolve()}; Ctrl-C ends this")
        await asyncio.Event().wait()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{host}, port {port}: {reason}; another --port might do, and 0 takes a free one") from None
    finally:
        await runner.cleanup()


def _live(folder: Path) -> tuple[str, str]:
    state = look(folder)
    still = replace(state, stages=tuple(replace(stage, now=stage.status.changed) for stage in state.stages))
    return live_page(state), _digest(repr((still, sorted(pages(folder)))))


def _report(file: Path) -> Page:
    def page() -> tuple[str, str]:
        text = file.read_text(encoding="utf-8")
        return text, _digest(text)

    return page


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _refreshing(text: str, version: str) -> str:
    """Return a page with the script that reloads it when it has changed, at the end of its body.

    A page forbids all requests, and here it must be able to ask whether it has changed.
    """
    script = REFRESH.replace("VERSION", json.dumps(version))
    text = text.replace("default-src 'none'", "default-src 'none'; connect-src 'self'", 1)
    body, end, rest = text.rpartition("</body>")
    return f"{body}{script}{end}{rest}" if end else f"{text}{script}"
