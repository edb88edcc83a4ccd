"""The page of a run says what the run's files say, and what they do not let one conclude."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from fedpipe.pages import draw_figure, figures, of_run
from fedpipe.pages import repeats_of as repeats
from fedpipe.results import changes
from fedpipe.results.charts import charts
from fedpipe.results.figures import Format
from fedpipe.results.limits import RULES, limits
from fedpipe.results.report import answer, page
from fedpipe.results.run import Repeats, Run, read_run
from fedpipe.results.source import Revision, Workspace, source_of
from fedpipe.studies import summary
from fedpipe.system.errors import UserError
from tests.conftest import ROOT
from tests.conftest import run as shell

PLAIN = re.compile(r"<(script|style).*?</\1>|<[^>]+>", re.DOTALL)


@pytest.fixture(scope="module")
def run() -> Run:
    """The committed run: MNIST, 8 IID clients, 5 rounds."""
    return read_run(Workspace())


def text(html: str) -> str:
    """What a reader sees of a page."""
    return unescape(re.sub(r"\s+", " ", PLAIN.sub(" ", html)))


def having(run: Run, **figures: Mapping[str, Any]) -> Run:
    """The run with other figures, by section of comparison.json."""
    sections = {name: {**run.figures[name], **changed} for name, changed in figures.items()}
    return replace(run, figures={**run.figures, **sections})


def using(run: Run, **parameters: Any) -> Run:
    """The run with other parameters; of dotted names, the dots are double underscores."""
    named = {name.replace("__", "."): value for name, value in parameters.items()}
    return replace(run, parameters={**run.parameters, **named})


def with_rounds(run: Run, **columns: Any) -> Run:
    """The run with other columns of rounds.csv."""
    return replace(run, rounds=run.rounds.assign(**columns))


def private(run: Run) -> Run:
    """The run as one with a promise of privacy, whose cohorts nobody is told."""
    steps = np.linspace(0.4, 2.0, len(run.rounds))
    hidden = with_rounds(run, cohort="", epsilon_rdp=steps * 1.1, epsilon_pld=steps, update_norm=None)
    promise = {"epsilon": 2.0, "epsilon_rdp": 2.2, "epsilon_pld": 2.0, "delta": 1e-4, "noise_multiplier": 1.0}
    return using(having(hidden, federated=promise), federated__privacy="gaussian")


def attacked(run: Run) -> Run:
    """The run as one with two hostile clients and a backdoor."""
    fought = with_rounds(run, hostile="4", honest_accuracy=0.97, backdoor_success=0.25)
    figures = {"attackers": 2, "honest_accuracy": 0.96, "backdoor_success": 0.25}
    return using(
        having(fought, federated=figures), federated__attack="backdoor", federated__aggregation="multi-krum"
    )  # fmt: skip


# What it does not show: for each rule a run that it is about, and one that it is not.
CASES: dict[str, tuple[Callable[[Run], Run], Callable[[Run], Run], str]] = {
    "few_seeds": (
        lambda run: run,
        lambda run: replace(run, repeats={"federated": Repeats(5, 0.99, 0.98, 1.0)}),
        "one run, with seed 42",
    ),
    "sample": (lambda run: replace(run, is_sample=True), lambda run: run, "sample stood in"),
    "diverged": (
        lambda run: having(run, federated={"diverged": True}),
        lambda run: run,
        "loss of federated training diverged",
    ),
    "test_set_decides": (
        lambda run: using(run, federated__patience=3),
        lambda run: using(having(run, comparison={"evaluated_on": "validation"}), federated__patience=3),
        "federated.patience stopped training by the accuracy on the test set",
    ),
    "test_set_seen": (
        lambda run: run,
        lambda run: having(run, comparison={"evaluated_on": "validation"}),
        "no validation data",
    ),
    "small_difference": (
        lambda run: run,
        lambda run: having(run, federated={"accuracy": 0.9}),
        "differ by 0.14 points",
    ),
    "unequal_cost": (
        lambda run: run,
        lambda run: having(run, centralised={"examples_processed": 750_000}),
        "processed 750,000 examples, centralised training 900,000",
    ),
    "few_clients": (
        lambda run: run,
        lambda run: having(run, partition={"clients": 100}),
        "There are 8 clients",
    ),
    "iid_only": (
        lambda run: run,
        lambda run: using(run, partition__scheme="dirichlet"),
        "random part of the whole",
    ),
    "never_drawn": (
        lambda run: with_rounds(run, cohort="1 2 3 4"),
        lambda run: run,
        "4 clients of 8 were never drawn in 5 rounds",
    ),
    "not_all_counted": (
        lambda run: with_rounds(run, refused=["2", "", "", "", ""], lost=["", "1 6", "", "", ""]),
        lambda run: run,
        "1 update refused, 2 updates lost",
    ),
    "few_alone": (
        lambda run: having(run, partition={"clients": 100}),
        lambda run: run,
        "8 of 100 clients, drawn at random, trained alone",
    ),
    "no_holdout": (
        lambda run: run,
        lambda run: having(run, partition={"held_out": 1000}),
        "No client holds examples out",
    ),
    "attackers_known": (attacked, lambda run: run, "one known attack"),
    "promise_conditions": (private, lambda run: run, "the seed that the noise is drawn from"),
    "simulated": (lambda run: run, lambda run: run, "Clients were simulated"),
}


class TestWhatIsNotShown:
    def test_each_rule_has_a_case(self):
        assert [rule.__name__ for _, rule in RULES] == list(CASES)

    @pytest.mark.parametrize("name", CASES)
    def test_a_run_that_a_rule_is_about_is_told_so_on_its_page(self, name: str, run: Run):
        about, _, sentence = CASES[name]
        found = {limit.name: limit.sentence for limit in limits(about(run))}
        assert sentence in found[name]
        assert found[name] in text(page(about(run)))

    @pytest.mark.parametrize("name", [name for name in CASES if name != "simulated"])
    def test_a_run_that_it_is_not_about_is_not(self, name: str, run: Run):
        assert name not in {limit.name for limit in limits(CASES[name][1](run))}

    def test_who_took_part_is_no_matter_of_a_private_run(self, run: Run):
        """Its cohorts are not told, which must not read as if nobody had been drawn."""
        assert not {"never_drawn", "not_all_counted"} & {limit.name for limit in limits(private(run))}

    def test_two_seeds_are_said_to_be_too_few(self, run: Run):
        twice = replace(run, repeats={"federated": Repeats(2, 0.99, None, None)})
        assert "2 seeds, too few" in limits(twice)[0].sentence


class TestTheAnswer:
    def test_it_is_two_sentences_of_the_numbers(self, run: Run):
        said = answer(run)
        assert said == (
            "Federated training for 5 rounds reaches 99.02% on the 10,000 test images of MNIST, 0.14 points less than "
            "centralised training with 99.16%. Clients alone reach 97.99% in the mean; on their own labels, 8 of 8 "
            "gain from federation, and the mean gain is +1.03 points."
        )

    def test_repeats_give_intervals(self, run: Run):
        over = {"federated": Repeats(5, 0.99, 0.985, 0.995), "local": Repeats(5, 0.98, 0.97, 0.99)}
        said = answer(replace(run, repeats=over))
        assert "reaches 99.00% [98.50, 99.50] (over 5 seeds)" in said
        assert "0.16 points less" in said
        assert "Clients alone reach 98.00% [97.00, 99.00] (over 5 seeds)" in said

    def test_training_that_diverged_is_not_compared(self, run: Run):
        lost = answer(having(run, federated={"diverged": True, "accuracy": 0.1, "loss": None}))
        assert lost.startswith("Federated training diverged after 5 rounds, so that there is nothing to compare.")
        assert "gain" not in lost
        other = answer(having(run, centralised={"diverged": True}))
        assert "centralised training, to which it would be compared, diverged" in other

    def test_no_difference_is_said_to_be_none(self, run: Run):
        assert "as does centralised training (99.16%)" in answer(having(run, federated={"accuracy": 0.9916}))


class TestThePage:
    def test_nothing_leaves_it(self, run: Run):
        html = page(run)
        markup = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
        assert not re.findall(r"<[^>]*\b(?:src|action|srcset|poster)\s*=", markup)
        assert {link for link in re.findall(r'href="([^"]*)"', markup) if not link.startswith("#")} == set()
        assert "default-src 'none'" in markup
        assert "url(" not in markup

    def test_equal_runs_make_equal_bytes(self, run: Run):
        assert page(run) == page(read_run(Workspace()))

    def test_it_has_a_section_for_each_thing_that_there_was_and_none_for_others(self, run: Run):
        always = ["Learning curves", "Each client", "Labels", "Ledger"]
        ends = ["Parameters", "Provenance", "What this does not show"]

        def sections(of: Run) -> list[str]:
            return re.findall(r"<h2 id[^>]*>(.*?)</h2>", page(of))

        assert sections(run) == [*always, *ends]
        assert sections(private(run)) == [*always, "Privacy", *ends]
        assert sections(attacked(run)) == [*always, "Robustness", *ends]
        assert sections(using(run, federated__compression="qsgd")) == [*always, "Communication", *ends]

    def test_every_link_within_it_leads_somewhere(self, run: Run):
        for of in (run, private(run), attacked(run)):
            html = page(of)
            ids = re.findall(r'\bid="([^"]+)"', html)
            assert len(ids) == len(set(ids))
            assert set(re.findall(r'href="#([^"]+)"', html)) <= set(ids)
            assert set(re.findall(r'aria-(?:labelledby|describedby)="([^"]+)"', html)) <= set(ids)

    def test_every_figure_has_its_description_and_its_numbers_and_valid_data(self, run: Run):
        for of in (run, private(run), attacked(run), CASES["not_all_counted"][0](run)):
            html = page(of)
            drawn = re.findall(r'<script type="application/json" id="(.*?)-spec">(.*?)</script>', html)
            assert len(drawn) >= 9
            for name, data in drawn:
                json.loads(data, parse_constant=pytest.fail)
                assert re.search(rf'<figcaption id="{name}-says">.+?</figcaption>', html, re.DOTALL)
                assert f'<h3 id="{name}-title">' in html

    def test_names_are_text_whatever_they_contain(self, run: Run):
        evil = "</script><script>alert(1)</script>"
        html = page(having(run, federated={"dataset": evil}))
        assert evil not in html
        labelled = replace(run, labels=run.labels.assign(dataset=evil), rounds=run.rounds.assign(dataset=evil))
        assert evil not in page(labelled)

    def test_parameters_that_differ_come_first_with_their_defaults(self, run: Run):
        shown = text(
            page(replace(using(run, federated__rounds=7, federated__fedprox__mu=0.5), defaults=run.parameters))
        )
        assert "2 parameters differ from their defaults" in shown
        assert "federated.rounds 7 5" in shown
        assert "federated.fedprox.mu 0.5 –" in shown

    def test_provenance_is_told_of_these_results_and_not_of_others(self, run: Run):
        results = run.lock["federated"]["outs"]
        digest = next(out["md5"] for out in results if out["path"].endswith("SHA256SUMS"))
        made = {"commit": "abc1234", "changed": [], "made": "2026-01-02T03:04:05+00:00", "results": digest}
        known = text(page(replace(run, provenance={"federated": made})))
        assert "abc1234" in known
        assert "nothing: the tree was clean" in known
        assert "2026-01-02T03:04:05+00:00" in known
        assert "abc1234" not in text(page(replace(run, provenance={"federated": {**made, "results": "of others"}})))
        changed = {**made, "changed": ["params.yaml", "own/mine.py"]}
        assert "params.yaml, own/mine.py" in text(page(replace(run, provenance={"federated": changed})))

    def test_epsilon_comes_with_its_meaning_and_what_an_attack_found(self, run: Run):
        shown = text(page(private(run)))
        assert "epsilon 2.00 at delta 0.0001" in shown
        assert "at most 88.1% of guesses right" in shown  # e² / (1 + e²) = 0.8808
        assert "No attack was made on this training" in shown
        found = {"canaries": 100, "guesses": 50, "correct": 30, "lower_bound": 0.3, "confidence": 0.95}
        assert "epsilon is at least 0.30, with a confidence of 95%" in text(page(replace(private(run), audit=found)))

    def test_an_audit_of_other_parameters_is_not_of_this_run(self, tmp_path: Path):
        class Elsewhere(Workspace):
            def bytes_of(self, path: str) -> bytes | None:
                if path == "reports/audit.json":
                    return json.dumps({"of": "others", "correct": 3}).encode()
                return super().bytes_of(path)

        assert read_run(Elsewhere()).audit == {}

    def test_updates_that_did_not_count_are_named_by_round(self, run: Run):
        shown = text(page(CASES["not_all_counted"][0](run)))
        assert "Of 20 updates asked for, 17 counted; 1 were refused, 2 lost, 0 dropped; 0 rounds skipped." in shown
        assert "lost: 1, 6" in shown

    def test_a_run_that_diverged_has_a_page(self, run: Run):
        lost = with_rounds(
            run, test_loss=None, train_loss=None, update_norm=None, aggregate_norm=None, update_cosine=None
        )
        lost = having(lost, federated={"diverged": True, "loss": None}, comparison={"gap_points": None})
        assert "loss no number, diverged" in text(page(lost))

    def test_its_size_does_not_grow_with_clients_and_rounds(self, run: Run):
        large = at_scale(run, clients=10_000, rounds=500)
        html = page(large)
        assert len(html.encode()) < 3_000_000
        assert "100 of 10,000 are drawn, evenly spaced" in text(html)


def at_scale(run: Run, clients: int, rounds: int) -> Run:
    """The run with so many clients and rounds."""
    rng = np.random.default_rng(0)
    step = np.arange(1, rounds + 1)
    accuracy = 0.99 - 0.5 / step
    of_rounds = pd.concat([run.rounds.head(1)] * rounds, ignore_index=True).assign(
        round=step, test_accuracy=accuracy, test_loss=1 / step, train_loss=0.9 / step, bytes_total=step * 934_464,
        examples_processed=step * 6000,
        cohort=[" ".join(map(str, sorted(rng.choice(clients, 100, replace=False)))) for _ in step],
    )  # fmt: skip
    curves = pd.DataFrame(
        {"dataset": "MNIST", "method": "federated", "step": step, "examples_processed": step * 6000,
         "evaluated_on": "test", "loss": 1 / step, "accuracy": accuracy, "test_loss": 1 / step,
         "test_accuracy": accuracy}
    )  # fmt: skip
    others = run.curves[run.curves["method"] != "federated"]
    local, federated = rng.uniform(0.7, 0.9, clients), rng.uniform(0.8, 1.0, clients)
    of_clients = pd.concat([run.clients.head(1)] * clients, ignore_index=True).assign(
        client=range(clients), federated=federated, local=local, gain=federated - local,
        federated_own_labels_accuracy=federated, local_own_labels_accuracy=local,
    )  # fmt: skip
    labels = pd.DataFrame(
        [(client, label, 6) for client in range(0, clients, clients // 100) for label in range(10)],
        columns=["client", "label", "examples"],
    ).assign(dataset="MNIST")
    return replace(
        having(run, partition={"clients": clients}), rounds=of_rounds, curves=pd.concat([curves, others]),
        clients=of_clients, labels=labels,
    )  # fmt: skip


class TestRepeats:
    def test_runs_that_differ_in_their_seed_alone_are_counted_each_seed_once(self, run: Run):
        def other(seed: int, accuracy: float | None, **changed: Any) -> summary.Run:
            metrics = {"accuracy": accuracy, "centralised": 0.99, "local": 0.98, "sample": False}
            parameters = {**run.parameters, "seed": seed, "sample": False, **changed}
            return summary.Run(f"exp-{seed}", parameters, frozenset(), metrics, "2026", experiment=True)

        others = [
            other(1, 0.98), other(1, 0.5), other(2, 0.97), other(3, None),
            other(4, 0.1, **{"federated.rounds": 9}), other(42, 0.2),
        ]  # fmt: skip
        found = repeats(run, others)
        assert found["federated"].seeds == 3  # 42 itself, 1 and 2; that of seed 3 diverged
        assert found["federated"].mean == pytest.approx((0.9902 + 0.98 + 0.97) / 3)
        assert found["centralised"].seeds == 4
        low, high = found["federated"].low, found["federated"].high
        assert low is not None
        assert high is not None
        assert low < 0.98 < high

    def test_a_run_on_the_sample_is_no_repeat_of_one_on_mnist(self, run: Run):
        metrics = {"accuracy": 0.9, "centralised": 0.9, "local": 0.9, "sample": True}
        other = summary.Run("exp", {**run.parameters, "seed": 1}, frozenset(), metrics, "2026", experiment=True)
        assert repeats(run, [other])["federated"].seeds == 1


class TestSideBySide:
    def test_a_run_beside_itself_differs_in_nothing(self, run: Run):
        parameters, metrics, clients = changes.tables(run, replace(run, name="again"))
        assert parameters.rows == []
        assert {row[-1] for row in metrics.rows} <= {"0", "+0.00 points", "+0.00"}
        assert all(row[2:4] == ["0", "0"] for row in clients.rows)

    def test_parameters_metrics_and_clients_that_differ_are_told(self, run: Run):
        better = run.clients.assign(
            federated_own_labels_accuracy=run.clients["federated_own_labels_accuracy"] + [-0.02, *[0.005] * 7]
        )
        after = having(using(run, federated__rounds=7), federated={"accuracy": 0.9932})
        after = replace(after, name="after", clients=better)
        parameters, metrics, clients = changes.tables(run, after)
        assert parameters.rows == [["federated.rounds", "5", "7"]]
        assert ["federated accuracy", "99.02%", "99.32%", "+0.30 points"] in metrics.rows
        assert ["their own labels", "8", "7", "1", "+0.19", "-2.00", "+0.50"] in clients.rows
        shown = text(changes.page(run, after))
        assert "99.02% in workspace and 99.32% in after: +0.30 points. 1 parameter that counts differs." in shown
        assert "7 clients gained, 1 client lost" in shown
        assert "two runs, with a seed each" in shown

    def test_other_clients_are_not_compared_one_by_one(self, run: Run):
        after = replace(using(run, partition__scheme="shards"), name="after")
        assert changes.tables(run, after)[2].rows == []
        assert "The partitions differ" in text(changes.page(run, after))

    def test_a_small_difference_is_said_to_be_within_chance(self, run: Run):
        near = replace(having(run, federated={"accuracy": 0.9905}), name="near")
        assert "points may be chance" in text(changes.page(run, near))
        far = replace(having(run, federated={"accuracy": 0.9}), name="far")
        assert "points may be chance" not in text(changes.page(run, far))

    def test_nothing_leaves_the_page(self, run: Run):
        markup = re.sub(r"<script>.*?</script>", "", changes.page(run, replace(run, name="b")), flags=re.DOTALL)
        assert "default-src 'none'" in markup
        assert not [link for link in re.findall(r'href="([^"]*)"', markup) if not link.startswith("#")]


class TestFigures:
    def test_a_figure_is_as_wide_as_it_is_asked_to_be(self, tmp_path: Path):
        for name in ("learning_curves", "clients", "confusion_counts"):
            draw_figure(name, tmp_path / "a.svg", "svg", "84mm", "workspace")
            [width] = re.findall(r'<svg[^>]*? width="([\d.]+)pt"', (tmp_path / "a.svg").read_text())
            assert float(width) == pytest.approx(84 / 25.4 * 72, abs=3)  # points

    def test_each_format_is_what_it_says(self, tmp_path: Path):
        begin: dict[Format, bytes] = {"pdf": b"%PDF", "png": b"\x89PNG", "svg": b"<svg"}
        for format, begins in begin.items():
            draw_figure("drift", tmp_path / f"a.{format}", format, "3.3in", "workspace")
            assert (tmp_path / f"a.{format}").read_bytes().startswith(begins)

    def test_every_figure_of_a_run_and_of_studies_is_listed(self, run: Run):
        names = [name for name, _ in figures("workspace")]
        assert names[: len(list(charts(run)))] == [chart.name for chart in charts(run)]
        assert "privacy/1-accuracy-over-rounds" in names

    def test_a_figure_of_a_study_is_drawn(self, tmp_path: Path):
        draw_figure("privacy/2", tmp_path / "a.svg", "svg", "7in", "workspace")
        assert "epsilon" in (tmp_path / "a.svg").read_text()

    @pytest.mark.parametrize(
        ("name", "width", "line"),
        [
            ("lerning_curves", "3in", "did you mean learning_curves?"),
            ("privacy/9", "3in", "there is privacy/1-accuracy-over-rounds"),
            ("loss", "3", "--width: 3: must be from 1 to 20 inches"),
            ("loss", "0.1in", "--width: 0.1in: must be from"),
            ("loss", "900in", "--width: 900in: must be from"),
        ],
    )
    def test_what_is_none_is_a_line(self, name: str, width: str, line: str, tmp_path: Path):
        with pytest.raises(UserError, match=re.escape(line)):
            draw_figure(name, tmp_path / "a.pdf", "pdf", width, "workspace")
        assert not list(tmp_path.iterdir())


class TestSources:
    @pytest.fixture
    def project(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A repository with a run, two commits, and an experiment as DVC saves it."""
        for path in ("reports", "dvc.lock", "data/inputs", ".dvc/plots"):
            source = ROOT / path
            for file in [source] if source.is_file() else source.rglob("*"):
                if file.is_file() and file.name != "report.html":
                    target = tmp_path / file.relative_to(ROOT)
                    target.parent.mkdir(parents=True, exist_ok=True)
                    target.write_bytes(file.read_bytes())
        monkeypatch.chdir(tmp_path)
        shell("git init -q -b main && git config user.email u@example.org && git config user.name U", tmp_path)
        shell("git add -A && git commit -qm one", tmp_path)
        comparison = tmp_path / "reports/comparison.json"
        comparison.write_text(comparison.read_text().replace("0.9902", "0.8888"))
        shell("git commit -qam two && git update-ref refs/exps/12/34567890/odd-name HEAD", tmp_path)
        shell("git reset -q --hard HEAD~1", tmp_path)
        return tmp_path

    def test_a_revision_and_an_experiment_are_read_from_git(self, project: Path):
        assert read_run(source_of("main")).accuracy("federated") == 0.9902
        assert read_run(source_of("odd-name")).accuracy("federated") == 0.8888
        assert read_run(Revision("refs/exps/12/34567890/odd-name")).accuracy("federated") == 0.8888

    def test_the_workspace_is_read_as_it_is(self, project: Path):
        comparison = project / "reports/comparison.json"
        comparison.write_text(comparison.read_text().replace("0.9902", "0.7777"))
        assert read_run(source_of("workspace")).accuracy("federated") == 0.7777
        assert read_run(source_of("HEAD")).accuracy("federated") == 0.9902

    def test_a_revision_has_the_page_of_its_files(self, project: Path):
        of_run("odd-name", project / "page.html", repeats=False)
        assert "88.88%" in text((project / "page.html").read_text())

    def test_what_is_not_there_or_damaged_is_a_line(self, project: Path):
        with pytest.raises(UserError, match="nothing: neither git nor DVC knows it"):
            source_of("nothing")
        (project / "reports/learning_curves.csv").unlink()
        with pytest.raises(UserError, match=r"reports/learning_curves\.csv: not there"):
            read_run(Workspace())
        (project / "reports/comparison.json").write_text("{")
        with pytest.raises(UserError, match=r"reports/comparison\.json: not what a run writes"):
            read_run(Workspace())

    def test_a_run_of_an_older_version_is_read_by_the_parameters_of_its_stages(self, project: Path):
        (project / "data/inputs/report.json").unlink()
        older = read_run(Workspace())
        assert older.parameters["federated.rounds"] == 5
        assert older.parameters["seed"] == 42
