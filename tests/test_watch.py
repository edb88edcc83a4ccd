"""`fedpipe watch` shows what runs, and what became of it: real stages, real processes, a real server."""

import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from http.client import HTTPConnection
from io import StringIO
from pathlib import Path
from typing import Literal

import pandas as pd
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from fedpipe.data.datasets import Dataset, save
from fedpipe.results.report import page as page_of
from fedpipe.results.run import read_run
from fedpipe.results.source import Workspace
from fedpipe.system import live
from fedpipe.system.errors import UserError
from fedpipe.system.lifetime import began
from fedpipe.system.live import Status
from fedpipe.watch import terminal
from fedpipe.watch.served import live_page
from fedpipe.watch.state import Stage, State, counted, look
from tests.conftest import ROOT, SMALL, checkout, hashes, run, set_params

ENVIRONMENT = os.environ | {
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    "PYTHONPATH": str(ROOT),
}
COLOURS: tuple[Literal["truecolor"] | None, ...] = ("truecolor", None)
NOW = 1_700_000_000.0
ROUND = Status("federated", "round", 5, 1234, "77", "here", NOW - 20, changed=NOW)


@pytest.fixture
def project(folder: Path, sample: Dataset, tmp_path: Path) -> Path:
    """A folder in which stages can run: the sample, and five clients."""
    (tmp_path / "data").mkdir()
    save(sample, tmp_path / "data/dataset")
    (tmp_path / "data/shards").symlink_to(folder)
    (tmp_path / "params.yaml").write_bytes((ROOT / "params.yaml").read_bytes())
    small = {"model.name": "logistic", "federated.clients_per_round": 2, "partition.clients": 5, "compute.workers": 1}
    set_params(tmp_path, {**small, "compute.engine": "threads"})
    return tmp_path


@contextmanager
def started(*command: str | Path, folder: Path, unheard: bool = False) -> Iterator[subprocess.Popen[str]]:
    """A process of Python, which is killed in the end if it still runs."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command], cwd=folder, env=ENVIRONMENT, text=True,
        stdout=subprocess.DEVNULL if unheard else subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stdout:
            process.stdout.close()


def training(folder: Path) -> AbstractContextManager[subprocess.Popen[str]]:
    """A federated training that takes its time."""
    set_params(folder, {"federated.rounds": 100_000})
    return started("stages.federated", folder=folder, unheard=True)


def ended(*command: str | Path, folder: Path, status: int = 0) -> str:
    """What a process of Python printed that ended so."""
    with started(*command, folder=folder) as process:
        output, _ = process.communicate()
        assert process.returncode == status, output
        return output


def watched(folder: Path) -> str:
    """What `fedpipe watch --once` prints."""
    done = subprocess.run(
        [sys.executable, "-m", "fedpipe", "watch", "--once", folder], env=ENVIRONMENT, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def until(told: Callable[[], bool], seconds: float = 60) -> None:
    """Wait until it is so."""
    end = time.monotonic() + seconds
    while not told():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


def trains(folder: Path, steps: int = 1) -> bool:
    """Whether a stage has told of so many steps."""
    stage = look(folder).running
    return stage is not None and stage.steps_done >= steps


def stage(*, now: float = NOW, rows: int = 0, lives: bool = True, **changes: object) -> Stage:
    """A stage, with a table of so many rows, whose accuracies rise to a half."""
    table = [{"round": f"{n}", "test_accuracy": f"{n / rows / 2}", "test_loss": "1", "train_loss": "2"}
             for n in range(1, rows + 1)]  # fmt: skip
    return Stage(replace(ROUND, **changes), tuple(table), True, lives, now)


class TestWatchedStages:
    """What is shown of stages that run."""

    def test_of_a_running_stage_it_tells_steps_accuracy_time_left_and_clients(self, project: Path):
        with training(project) as process:
            until(lambda: trains(project, 3) and bool(look(project).running.curve))  # pyright: ignore
            shown = watched(project)
            first, pace, result, missing = shown.splitlines()
            assert re.fullmatch(
                rf"federated, since \d\d:\d\d:\d\d, process {process.pid}: [\d,]+ of 100,000 rounds \(\d%\)", first
            )
            assert re.fullmatch(r"about [\d.]+ (s|min|hours) left; [\d,]+ examples a second", pace)
            assert re.fullmatch(r"test accuracy \d\d\.\d\d%, loss \d\.\d{4}", result)
            assert missing == "updates refused: none; updates lost: none"
            table = pd.read_csv(project / "reports/federated/rounds.csv")
            seen = look(project).running
            assert seen
            assert seen.curve[: len(table)] == list(zip(table["round"], table["test_accuracy"], strict=True))
            process.send_signal(signal.SIGINT)
            process.wait()
        assert re.fullmatch(
            r"nothing runs here\nlast: federated was interrupted after [\d,]+ of 100,000 rounds; "
            r"it goes on when it is run again\n",
            watched(project),
        )

    @pytest.mark.parametrize(("name", "unit"), [("federated", "round"), ("baseline", "epoch"), ("local", "client")])
    def test_of_a_stage_that_ended_it_tells_the_last_accuracy(self, name: str, unit: str, project: Path):
        set_params(project, {"federated.rounds": 2, "federated.local.epochs": 1, "baseline.epochs": 2})
        ended(f"stages.{name}", folder=project)
        metric = {"federated": "accuracy", "baseline": "centralised", "local": "local"}[name]
        accuracy = json.loads((project / f"reports/{name}/metrics.json").read_text())[metric]
        steps = 5 if name == "local" else 2
        told = f"last: {name} ended after {steps} of {steps} {unit}s: test accuracy {accuracy:.2%}, loss "
        assert watched(project).startswith(f"nothing runs here\n{told}")
        assert (project / ".fedpipe/stages/.gitignore").read_text() == "*\n"

    def test_of_a_stage_that_was_killed_it_says_so_and_that_it_can_go_on(self, project: Path):
        with training(project) as process:
            until(lambda: trains(project))
            process.kill()
            process.wait()
        assert re.fullmatch(
            rf"nothing runs here\nlast: federated died after [\d,]+ of 100,000 rounds: process {process.pid} is gone; "
            r"it goes on when it is run again\n",
            watched(project),
        )

    def test_a_run_that_goes_on_counts_what_was_done_before_and_times_what_it_does_itself(self, project: Path):
        set_params(project, {"compute.checkpoint_every": 0.0})
        with training(project) as process:
            until(lambda: trains(project, 3))
            process.kill()
            process.wait()
        with training(project):
            until(lambda: trains(project) and look(project).stages[0].status.rate is not None)
            status = look(project).stages[0].status
        assert 2 <= status.resumed < status.done
        assert status.seconds < time.time() - status.began

    def test_of_a_stage_that_failed_it_tells_why(self, project: Path):
        set_params(project, {"federated.local.lr": 1e30, "federated.local.optimizer": "sgd",
                             "federated.on_bad_update": "stop"})  # fmt: skip
        output = ended("stages.federated", folder=project, status=1)
        assert f"last: federated failed after 0 of 5 rounds: {output.splitlines()[-1]}" in watched(project)

    def test_refused_clients_are_counted(self, project: Path):
        set_params(project, {"federated.local.lr": 1e30, "federated.local.optimizer": "sgd",
                             "federated.on_bad_update": "refuse", "federated.rounds": 3})  # fmt: skip
        ended("stages.federated", folder=project)
        refused = look(project).stages[0].status.refused
        table = pd.read_csv(project / "reports/federated/rounds.csv")
        told = [client for clients in table["refused"] for client in str(clients).split()]
        assert refused == {client: told.count(client) for client in set(told)}
        assert told

    def test_of_clients_that_are_promised_privacy_nothing_is_kept(self, project: Path):
        set_params(project, {"federated.privacy": "gaussian", "federated.sampling": "poisson",
                             "federated.objective": "clients", "federated.evaluate_clients": False,
                             "federated.rounds": 2})  # fmt: skip
        ended("stages.federated", folder=project)
        status = look(project).stages[0].status
        assert (status.refused, status.lost) == (None, None)

    def test_what_an_earlier_run_left_is_not_taken_for_this_ones(self, project: Path):
        """Neither its table nor its process, whose number another may have now."""
        table = project / "reports/federated/rounds.csv"
        table.parent.mkdir(parents=True)
        table.write_text("round,test_accuracy\n1,0.5\n")
        tell(project, ROUND, process=os.getpid(), process_began=began(os.getpid()), table=None)
        seen = look(project).running
        assert seen
        assert seen.curve == []
        tell(project, ROUND, process=os.getpid(), process_began="1")
        assert look(project).running is None

    def test_a_run_has_the_same_bits_whether_or_not_it_can_tell(self, project: Path):
        """As where .fedpipe/stages cannot be written."""
        set_params(project, {"federated.rounds": 2, "federated.local.epochs": 1})
        made = []
        for name in ("told", "untold"):
            if name == "untold":
                subprocess.run(["rm", "-r", ".fedpipe/stages"], cwd=project, check=True)
                (project / ".fedpipe/stages").write_text("a file, where a folder should be")
            ended("stages.federated", folder=project)
            made.append((project / "models/federated.safetensors").read_bytes())
        assert made[0] == made[1]


class TestWords:
    """What is said of a state."""

    def test_the_time_left_is_what_the_steps_of_this_run_took_times_those_that_are_left(self):
        assert stage(done=2.0, seconds=10.0).seconds_left == 15.0
        assert stage(done=2.0, resumed=1, seconds=10.0).seconds_left == 30.0
        assert stage(done=2.5, seconds=10.0).seconds_left == 10.0  # parts of steps count
        assert stage(done=2.0, seconds=10.0, now=NOW + 6).seconds_left == 9.0  # time goes on while a step runs
        assert stage(done=2.0, seconds=10.0, now=NOW + 60).seconds_left == 0.0

    def test_of_a_time_left_that_nobody_can_know_it_says_so(self):
        for unknown in (stage(), stage(done=1.0, steps=None), stage(done=2.0, resumed=2), stage(done=0.1, seconds=9.0)):
            assert unknown.seconds_left is None
            assert unknown.pace.startswith("time left: not known yet")

    def test_clients_are_named_those_first_of_which_most_updates_are_missing(self):
        assert counted({}) == "none"
        assert counted({"7": 1}) == "1, of client 7"
        assert counted({"12": 1, "7": 3, "2": 1}) == "5, of clients 7 (3 times), 2, 12"
        assert counted({f"{n}": 1 for n in range(30)}).endswith(", 18, 19, 10 more")

    def test_the_curve_is_of_validation_data_where_there_are_any(self):
        table = ({"round": "1", "validation_accuracy": "0.5", "test_accuracy": ""},
                 {"round": "2", "validation_accuracy": "", "test_accuracy": ""},
                 {"round": "3", "validation_accuracy": "0.7", "test_accuracy": "0.6"})  # fmt: skip
        seen = replace(stage(), rows=table)
        assert (seen.data, seen.curve) == ("validation", [(1, 0.5), (3, 0.7)])

    def test_of_another_machines_process_it_does_not_claim_to_know_whether_it_lives(self, tmp_path: Path):
        tell(tmp_path, ROUND, machine="elsewhere")
        assert "process 1234 on elsewhere" in watched(tmp_path)
        assert "this machine cannot tell whether it runs" in watched(tmp_path)

    def test_a_file_that_cannot_be_read_is_nothing_that_runs(self, tmp_path: Path):
        tell(tmp_path, ROUND, process=os.getpid(), process_began=began(os.getpid()))
        file = tmp_path / live.FOLDER / "federated.json"
        for damaged in (b"", b"{", b"[]", b'{"stage": "federated"}', b"\xff"):
            file.write_bytes(damaged)
            assert look(tmp_path).stages == ()

    def test_a_folder_that_is_not_there_is_one_line(self, tmp_path: Path):
        with pytest.raises(UserError, match="nowhere: no folder is there; "):
            look(tmp_path / "nowhere")


class TestTerminals:
    """How it is drawn."""

    @pytest.mark.parametrize(("width", "height"), [(80, 24), (120, 40), (50, 15), (40, 12)])
    def test_a_state_fits_its_terminal(self, width: int, height: int):
        seen = stage(rows=100, done=100.0, steps=200, seconds=30.0, accuracy=0.5, loss=1.0, data="test",
                     refused={f"{n}": 2 for n in range(3)}, lost={})  # fmt: skip
        shown = drawn(State(Path(), (seen,), ()), width, height)
        assert len(shown) < height
        assert max(map(len, shown)) <= width
        assert ("test accuracy by round" in shown) == (height > 12)  # where there is room

    def test_colour_says_nothing_that_words_do_not(self):
        seen = State(Path(), (stage(rows=9, done=3.0, seconds=3.0),), ())
        with_colour, without = (drawn(seen, 80, 24, colour) for colour in COLOURS)
        assert [re.sub("\x1b\\[[0-9;]*m", "", line).rstrip() for line in with_colour] == without

    @given(st.lists(st.floats(0, 1), min_size=1, max_size=300), st.integers(20, 120), st.integers(4, 40))
    def test_a_curve_has_its_size_and_its_ends(self, values: list[float], width: int, height: int):
        lines = terminal.plot(list(enumerate(values, start=1)), width, height)
        assert len(lines) == height
        assert max(map(len, lines)) <= width
        assert lines[0].strip().startswith(f"{max(values):.2%} ┤")
        if min(values) < max(values):
            assert lines[-3].strip().startswith(f"{min(values):.2%} ┤")

    @given(st.lists(st.floats(0, 1), min_size=2, max_size=30).filter(lambda values: max(values) > min(values)))
    def test_a_curves_dots_are_where_its_points_are(self, values: list[float]):
        """The highest and the lowest, and the first and the last, touch the edges; no column is empty."""
        rows = [line.split("┤" if "┤" in line else "│")[1] for line in terminal.plot([*enumerate(values)], 60, 12)[:-2]]
        dots = {
            (2 * column + dot // 4, 4 * row + dot % 4)
            for row, line in enumerate(rows)
            for column, letter in enumerate(line)
            for dot, bit in enumerate((0x01, 0x02, 0x04, 0x40, 0x08, 0x10, 0x20, 0x80))
            if letter != " " and (ord(letter) - 0x2800) & bit
        }
        xs, ys = {x for x, _ in dots}, {y for _, y in dots}
        assert xs == set(range(max(xs) + 1))
        assert (min(ys), max(ys)) == (0, 39)
        height = lambda value: (max(values) - value) / (max(values) - min(values)) * 39  # noqa: E731
        assert min(abs(y - height(values[0])) for x, y in dots if x == 0) <= 0.5
        assert min(abs(y - height(values[-1])) for x, y in dots if x == max(xs)) <= 0.5


class TestPipes:
    """Where output is no terminal."""

    def test_a_line_tells_each_change_from_stage_to_stage_until_ctrl_c(self, project: Path):
        set_params(project, {"federated.rounds": 9, "federated.local.epochs": 300, "baseline.epochs": 1})
        with started("fedpipe", "watch", folder=project) as watcher:
            assert watcher.stdout
            assert watcher.stdout.readline() == "nothing runs here; waiting for a stage; Ctrl-C ends this\n"
            for name in ("federated", "baseline"):
                ended(f"stages.{name}", folder=project)
                time.sleep(1.5)
            watcher.send_signal(signal.SIGINT)
            output, _ = watcher.communicate()
            assert watcher.returncode == 130
        assert "\x1b" not in output
        assert re.search(r"^federated: [1-9] of 9 rounds; test accuracy .*; about \d+ s left; ", output, re.MULTILINE)
        assert re.findall(r"^[\d:]{8} (.*) ended after (.*): ", output, re.MULTILINE) == [
            ("federated", "9 of 9 rounds"), ("baseline", "1 of 1 epochs")
        ]  # fmt: skip

    def test_once_and_html_do_not_go_together(self, tmp_path: Path):
        assert len(ended("fedpipe", "watch", "--once", "--html", folder=tmp_path, status=1).splitlines()) == 1


@pytest.fixture
def served(tmp_path: Path) -> Iterator[str]:
    """The address of a server of a folder with reports and a secret."""
    for name in ("reports", "studies/one"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "report.html").write_text(f"<!doctype html><body><h1>{name}</h1></body>")
    (tmp_path / "studies/one/secret.html").write_text("secret")
    (tmp_path / "params.yaml").write_text("secret: true")
    with started("fedpipe", "watch", "--html", "--port", "0", folder=tmp_path) as process:
        assert process.stdout
        line = process.stdout.readline()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/ shows what runs in .*; Ctrl-C ends this\n", line)
        yield line.split("/ ")[0]
        process.send_signal(signal.SIGINT)
        process.communicate()
        assert process.returncode == 130


def get(address: str, path: str) -> tuple[int, str]:
    """What a server answers to a path as it is, which no client tidies up."""
    connection = HTTPConnection(urllib.parse.urlsplit(address).netloc)
    connection.putrequest("GET", path, skip_host=False)
    connection.endheaders()
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


class TestPages:
    """`fedpipe watch --html`."""

    def test_it_listens_to_this_machine_alone(self, served: str):
        port = int(served.rpartition(":")[2])
        sockets = [one for one in psutil.net_connections("tcp") if one.status == psutil.CONN_LISTEN and one.laddr]
        assert [one.laddr.ip for one in sockets if one.laddr.port == port] == ["127.0.0.1"]  # pyright: ignore

    def test_the_page_leads_to_all_reports_and_they_are_what_is_there_with_a_script(self, served: str, tmp_path: Path):
        _, page = get(served, "/")
        found = [link for link in re.findall(r'<a href="(.*?)"', page) if not link.startswith("#")]
        assert found == ["/reports/report.html", "/studies/one/report.html"]
        for path in found:
            status, text = get(served, path)
            assert status == 200
            assert re.sub("\n<script>.*</script>\n", "", text, flags=re.DOTALL) == (tmp_path / path[1:]).read_text()

    def test_a_page_that_forbids_requests_may_ask_whether_it_has_changed(self, served: str, tmp_path: Path):
        (tmp_path / "reports/report.html").write_text(page_of(read_run(Workspace())), encoding="utf-8")
        _, text = get(served, "/reports/report.html")
        assert "default-src 'none'; connect-src 'self'; style-src" in text

    def test_a_version_changes_with_its_page_and_no_other(self, served: str, tmp_path: Path):
        def versions() -> list[str]:
            paths = "/", "/reports/report.html", "/studies/one/report.html"
            return [get(served, f"/version?path={urllib.parse.quote(path, safe='')}")[1] for path in paths]

        before = versions()
        assert versions() == before
        (tmp_path / "reports/report.html").write_text("<p>another")
        assert [a == b for a, b in zip(before, versions(), strict=True)] == [True, False, True]
        tell(tmp_path, ROUND, process=os.getpid(), process_began=began(os.getpid()))
        assert versions()[0] != before[0]
        (tmp_path / "reports/report.html").unlink()  # as DVC does before it is made anew: a reader keeps what is shown
        assert get(served, "/version?path=/reports/report.html")[0] == 404

    @pytest.mark.parametrize("path", [
        "/params.yaml", "/../params.yaml", "/reports/../params.yaml", "/reports/..%2f..%2fparams.yaml", "/version",
        "/studies/..%2f..%2freports/report.html", "/studies/one/secret.html", "/studies/%2e%2e/params.yaml",
        "/studies/one/report.html/../secret.html", "/reports/", "/studies/one/report.html%00", "//etc/passwd",
        "/version?path=../params.yaml", "/version?path=/reports/../params.yaml", "/version?path=/etc/passwd",
    ])  # fmt: skip
    def test_nothing_else_is_served(self, path: str, served: str):
        status, text = get(served, path)
        assert status in (400, 404)
        assert "secret" not in text

    def test_a_port_in_use_is_one_line(self, served: str, tmp_path: Path):
        port = served.rpartition(":")[2]
        output = ended("fedpipe", "watch", "--html", "--port", port, folder=tmp_path, status=1)
        assert re.fullmatch(rf"127\.0\.0\.1, port {port}: .*; another --port might do, and 0 takes .*\n", output)

    def test_the_page_tells_what_the_terminal_does(self, tmp_path: Path):
        seen = stage(rows=30, done=30.0, steps=50, seconds=10.0, accuracy=0.5, loss=None, data="test",
                     refused={"7": 2}, lost={"3": 1})  # fmt: skip
        page = live_page(State(tmp_path, (seen,), ()))
        for said in ("30 of 50 rounds", "test accuracy 50.00%", 'value="0.6"', "client 7, 2 times", "client 3<"):
            assert said in page
        assert re.findall('<th scope="row">(\\d+)', page) == [f"{n}" for n in range(30, 10, -1)]
        for needed in ('<html lang="en">', '<main id="main">', "<title>", '<label for="progress">', 'id="progress"'):
            assert needed in page
        assert not re.findall("<[^>]*(src|href)=[\"']?(https?:)?//", page)
        assert "Accuracy by round" in page

    def test_what_a_file_says_is_text_and_no_html(self, tmp_path: Path):
        page = live_page(State(tmp_path, (stage(outcome="failed: <script>alert(1)</script>"),), ()))
        assert "&lt;script&gt;" in page
        assert "<script>alert" not in page


@pytest.mark.slow
def test_a_pipeline_is_watched_from_its_first_training_to_its_last(tmp_path: Path):
    """With the results that it has when nobody watches, and nothing that git or DVC would notice."""
    folder = checkout(tmp_path / "project")
    set_params(folder, SMALL | {"model.name": "reference-cnn"})
    with started("fedpipe", "watch", folder, folder=ROOT) as watcher:
        run("dvc repro", folder)
        time.sleep(1.5)
        watcher.send_signal(signal.SIGINT)
        output, _ = watcher.communicate()
    told = re.findall(r"^[\d:]{8} (\w+) ended after (\d+) of \2 (\w+):", output, re.MULTILINE)
    assert sorted(told) == [("baseline", "2", "epochs"), ("federated", "2", "rounds"), ("local", "8", "clients")]
    assert re.search(r"^no training at the moment; DVC runs `dvc repro` \(process \d+\); ", output, re.MULTILINE)
    assert ".fedpipe" not in run("git status --porcelain", folder)
    watched_hashes = hashes(folder)
    run("dvc repro -f federated baseline local", folder)
    assert hashes(folder) == watched_hashes


def tell(folder: Path, status: Status, **changes: object) -> None:
    """Write what a stage of this machine tells."""
    (folder / live.FOLDER).mkdir(parents=True, exist_ok=True)
    told = {**asdict(status), "machine": platform.node(), **changes}
    (folder / live.FOLDER / f"{status.stage}.json").write_text(json.dumps(told))


def drawn(state: State, width: int, height: int, colour: Literal["truecolor"] | None = None) -> list[str]:
    """The lines that a terminal shows."""
    screen = StringIO()
    console = Console(width=width, height=height, force_terminal=True, color_system=colour, file=screen)
    console.print(terminal.view(state, width, height))
    return screen.getvalue().splitlines()
