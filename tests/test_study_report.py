"""The page of a study says what its runs came to, what is missing, and what they do not let one conclude."""

import json
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from fedpipe.studies import outputs
from fedpipe.studies.commands import recorded
from fedpipe.studies.records import NOTHING_MISSING, Missing, Record
from fedpipe.studies.report import limits, said_missing
from fedpipe.studies.study import Measure, Study, Tune
from tests.test_report import text

Records = Sequence[Record]


@pytest.fixture(scope="module")
def finished() -> tuple[Study, list[Record]]:
    """A committed study: privacy by number of clients, 24 runs with 3 seeds."""
    state, records, _ = recorded("studies/privacy.yaml", say=lambda line: None)
    return state.study, records


def seeds(records: Records, number: int) -> list[Record]:
    """The runs as ones of so many seeds."""
    return [replace(record, seed=place) for record in records for place in range(number)]


def as_validated(records: Records) -> list[Record]:
    return [
        replace(record, rounds=tuple({**row, "validation_accuracy": row["test_accuracy"]} for row in record.rounds))
        for record in records
    ]


WHOLE = Missing(total=24)
PART = Missing(runs=8, total=24, seconds=7200.0)
OLD = Missing(runs=24, total=24, seconds=90.0, of_other_code=True)
TUNED = Tune(grid={"federated.local.lr": [0.1, 0.3]}, seeds=[9])
TIMED = {"time": Measure(seconds="run")}

# What a study does not show: for each case, what it is told by, and a study to which it does not apply.
Case = Callable[[Study, Records], tuple[Study, Records, Missing]]
CASES: dict[str, tuple[Case, Case]] = {
    "too few for an interval": (lambda s, r: (s, seeds(r, 2), WHOLE), lambda s, r: (s, seeds(r, 5), WHOLE)),
    "3 seeds give wide intervals": (lambda s, r: (s, r, WHOLE), lambda s, r: (s, seeds(r, 5), WHOLE)),
    "1 run of 24 diverged": (
        lambda s, r: (s, [replace(r[0], state="diverged"), *r[1:]], WHOLE), lambda s, r: (s, r, WHOLE)
    ),
    "1 run of 24 failed": (
        lambda s, r: (s, [replace(r[0], state="failed"), *r[1:]], WHOLE), lambda s, r: (s, r, WHOLE)
    ),
    "8 of 24 runs are missing: rows may": (lambda s, r: (s, r, PART), lambda s, r: (s, r, WHOLE)),
    "other parameters, data or code": (lambda s, r: (s, r, OLD), lambda s, r: (s, r, WHOLE)),
    "stands in for a larger one": (
        lambda s, r: (s, [replace(one, data="MNIST sample 1234") for one in r], WHOLE), lambda s, r: (s, r, WHOLE)
    ),
    "Nothing was tuned": (
        lambda s, r: (s, r, WHOLE), lambda s, r: (s.model_copy(update={"tune": TUNED}), r, WHOLE)
    ),
    "There were no validation data": (lambda s, r: (s, r, WHOLE), lambda s, r: (s, as_validated(r), WHOLE)),
    "shared a machine": (
        lambda s, r: (s.model_copy(update={"measures": TIMED}), r, WHOLE), lambda s, r: (s, r, WHOLE)
    ),
}  # fmt: skip


@pytest.mark.parametrize("sentence", CASES)
def test_what_a_study_does_not_show_is_said_where_it_applies_and_nowhere_else(
    sentence: str, finished: tuple[Study, list[Record]]
):
    applies, does_not = CASES[sentence]
    for case, said in ((applies, True), (does_not, False)):
        assert (sentence in " ".join(why for _, why in limits(*case(*finished)))) == said


def test_the_page_has_tables_figures_runs_and_limits_and_nothing_leaves_it(finished: tuple[Study, list[Record]]):
    study, records = finished
    html = outputs.page(study, records, "privacy", PART)
    shown = text(html)
    assert study.question in shown
    assert "24 runs that count" in shown
    assert all(record.key in shown for record in records)
    assert "8 of 24 runs are missing, which take about 2.0 hours on one core" in shown
    assert html.count('class="chart"') == len(list(outputs.figures_of(study, records)))
    for spec in re.findall(r'<script type="application/json"[^>]*>(.*?)</script>', html):
        json.loads(spec, parse_constant=pytest.fail)
    markup = re.sub(r"<script>.*?</script>", "", html, flags=re.DOTALL)
    assert "default-src 'none'" in markup
    assert not [link for link in re.findall(r'href="([^"]*)"', markup) if not link.startswith("#")]
    assert len(html.encode()) < 3_000_000


def test_its_tables_are_those_of_table_md_with_their_notes(finished: tuple[Study, list[Record]]):
    study, records = finished
    shown = text(outputs.page(study, records, "privacy"))
    for table in outputs.tables_of(study, records):
        for grid in table.grids():
            assert grid.title in shown
            assert all(note in shown for note in grid.notes)
            assert all(cell in shown for line in grid.lines for cell in line)


def test_what_is_missing_says_what_it_would_take():
    assert said_missing(NOTHING_MISSING) == "Nothing is missing: all runs of the study are recorded."
    assert "take an unknown time" in said_missing(Missing(runs=3, total=4))
    assert "about 2 minutes on one core" in said_missing(OLD)
