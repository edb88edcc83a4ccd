"""A table over seeds says what the statistics say, in three formats that its readers can read."""

from io import StringIO
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpipe.studies.statistics import holm, paired, summarise
from fedpipe.studies.tables import WIDEST, Measure, Table, label, tabulate

ACCURACY, LOSS = Measure("accuracy", percent=True), Measure("loss")
TO_TARGET = Measure("rounds to 97 %", rounds=True)
VALUES = {
    "fedavg": {1: 0.951, 2: 0.944, 3: 0.957, 4: 0.949, 5: 0.955},
    "scaffold": {1: 0.962, 2: 0.953, 3: 0.961, 4: 0.955, 5: 0.959},
    "fedprox": {1: 0.951, 2: 0.946, 3: 0.951, 4: 0.955, 5: 0.955},
}


def frame(values=VALUES, **more: object) -> pd.DataFrame:
    """A row for each strategy and seed; a value of None is a run that diverged."""
    return pd.DataFrame(
        [
            {"strategy": strategy, "seed": seed, "value": value, "diverged": value is None, **more}
            for strategy, of_strategy in values.items()
            for seed, value in of_strategy.items()
        ]
    )


def table(data: pd.DataFrame, measure: Measure = ACCURACY, **options) -> Table:
    return tabulate(data, **({"rows": ["strategy"], "measures": [measure]} | options))


def cells(markdown: str) -> list[list[str]]:
    """The texts of every line of a table but its rule."""
    lines = [line for line in markdown.splitlines() if line.startswith("|") and not set(line) <= set("|-: ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_a_table_of_two_rows_reads_like_this():
    two = frame({name: VALUES[name] for name in ("fedavg", "scaffold")})
    assert (
        table(two, baseline=["fedavg"]).as_markdown()
        == """\
accuracy, % over 5 runs

| strategy |   mean ± std |  95 % interval | less fedavg |  95 % interval | p (t) | p (Wilcoxon) |
| -------- | -----------: | -------------: | ----------: | -------------: | ----: | -----------: |
| fedavg   | 95.12 ± 0.51 | [94.48, 95.76] |           – |              – |     – |            – |
| scaffold | 95.80 ± 0.39 | [95.32, 96.28] |       +0.68 | [+0.29, +1.07] | 0.008 |        0.063 |

Differences are seed by seed, over 5 common seeds.
Wilcoxon's p of 5 pairs cannot be less than 0.063, whatever the difference."""
    )


def test_csv_has_every_digit_of_the_statistics():
    records = pd.read_csv(StringIO(table(frame(), baseline=["fedavg"]).as_csv())).set_index("strategy")
    differences = {name: paired(VALUES[name], VALUES["fedavg"]) for name in ("scaffold", "fedprox")}
    adjusted = holm([one.p_t for one in differences.values()])
    for (name, difference), p in zip(differences.items(), adjusted, strict=True):
        summary, record = summarise(list(VALUES[name].values())), records.loc[name]
        assert record["runs"] == 5
        assert record[["mean", "std", "low", "high"]].tolist() == pytest.approx(
            [summary.mean, summary.std, summary.low, summary.high], rel=1e-12
        )
        assert record[["difference", "difference_low", "difference_high", "p_t", "p_wilcoxon"]].tolist() == (
            pytest.approx([difference.mean, difference.low, difference.high, difference.p_t, difference.p_wilcoxon])
        )
        assert record["p_t_holm"] == pytest.approx(p)
    assert records.loc["fedavg", ["pairs", "difference", "p_t"]].isna().all()


def test_p_values_are_adjusted_over_all_rows_and_columns_of_a_measure():
    both = pd.concat([frame(scheme="iid"), frame(scheme="shards")])
    found = table(both, columns=["scheme"], baseline=["fedavg"])
    raw = [entry.difference.p_t for entry in found.entries if entry.difference]
    assert [entry.p_t for entry in found.entries if entry.difference] == pytest.approx(holm(raw))
    assert len(raw) == 4
    assert "p adjusted for 4 comparisons (Holm)" in found.as_markdown()


def test_a_baseline_is_compared_with_in_its_own_column():
    easier = frame({name: {seed: value + 0.02 for seed, value in of.items()} for name, of in VALUES.items()})
    both = pd.concat([frame(scheme="shards"), easier.assign(scheme="iid")])
    found = table(both, columns=["scheme"], baseline=["fedavg"])
    means = {(*entry.row, *entry.column): entry.difference and entry.difference.mean for entry in found.entries}
    assert means["scaffold", "iid"] == means["scaffold", "shards"] == pytest.approx(0.0068)
    assert means["fedavg", "iid"] is None


def test_diverged_runs_are_marked_and_in_no_mean():
    diverged = frame(VALUES | {"scaffold": {1: 0.962, 2: None, 3: 0.961, 4: None, 5: 0.959}})
    diverged.loc[diverged["diverged"], "value"] = 0.098  # the last that was measured
    text = table(diverged, baseline=["fedavg"]).as_markdown()
    assert "| 96.07 ± 0.15 (2 of 5 diverged) |" in text
    assert "2 pairs left out, of which a run has no number." in text
    none_left = frame({"scaffold": {1: None, 2: None}})
    assert cells(table(none_left).as_markdown())[1] == ["scaffold", "2 of 2 diverged"]


def test_a_target_that_was_not_reached_is_more_than_the_last_round_and_never_averaged():
    times = {
        "fedavg": {1: 50.0, 2: None, 3: None, 4: None, 5: 120.0},
        "scaffold": {1: 30.0, 2: 41.5, 3: 55.0, 4: 60.0, 5: None},
        "fedprox": {1: 31.0, 2: 42.5, 3: 57.0, 4: 63.0, 5: 70.0},
    }
    data = frame(times, last=200).assign(diverged=[row == 9 for row in range(15)])  # scaffold's last
    found = table(data, TO_TARGET, baseline=["fedprox"])
    assert [line[:2] for line in cells(found.as_markdown())[1:4]] == [
        ["fedavg", "> 200 (2 of 5 reached)"],
        ["scaffold", "55 (4 of 5 reached, 1 diverged)"],
        ["fedprox", "57"],
    ]
    assert "count as slower than all" in found.as_markdown()
    records = pd.read_csv(StringIO(found.as_csv())).set_index("strategy")
    assert records["reached"].tolist() == [2, 4, 5]
    assert records["mean"].isna().tolist() == [True, True, False]
    assert records["difference"].isna().tolist() == [True] * 3


def test_a_run_that_diverged_after_it_reached_the_target_has_reached_it():
    data = frame({"fedavg": {1: 50.0, 2: 60.0, 3: 70.0}}, last=200).assign(diverged=[True, False, False])
    assert cells(table(data, TO_TARGET).as_markdown())[1] == ["fedavg", "60"]


def test_the_number_of_runs_is_said_once_if_it_is_the_same_and_beside_each_if_not():
    assert "over 5 runs" in table(frame()).as_markdown()
    fewer = frame({"fedavg": VALUES["fedavg"], "scaffold": {1: 0.9, 2: 0.91}})
    header, *lines = cells(table(fewer).as_markdown())
    assert "over" not in table(fewer).as_markdown().splitlines()[0]
    assert [line[header.index("runs")] for line in lines] == ["5", "2"]
    columns = table(pd.concat([fewer.assign(scheme="iid"), frame(scheme="shards")]), columns=["scheme"])
    assert "(n = 2)" in columns.as_markdown()


def test_with_one_or_two_seeds_it_says_that_there_is_no_interval():
    few = frame({"fedavg": {1: 0.951, 2: 0.944}, "scaffold": {1: 0.962, 2: 0.953}})
    text = table(few, baseline=["fedavg"]).as_markdown()
    assert "With one or two seeds no interval can be given: it takes 3." in text
    assert cells(text)[0] == ["strategy", "mean ± std", "less fedavg"]
    assert "no interval" not in table(frame()).as_markdown()


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.9799, 0.9805, 0.9793], "97.99 ± 0.06"),
        ([0.741, 0.657, 0.805], "73.4 ± 7.4"),
        ([0.9, 0.2, 0.5], "53 ± 35"),
        ([0.98, 0.98, 0.98], "98.00 ± 0.00"),
        ([0.98123], "98.12"),
    ],
)
def test_the_spread_decides_the_decimals(values: list[float], shown: str):
    found = table(frame({"fedavg": dict(enumerate(values))})).as_markdown()
    assert cells(found)[1][1] == shown


def test_the_decimals_can_be_given_and_whole_numbers_have_none():
    assert "95.120 ± 0.512" in table(frame(), Measure("accuracy", percent=True, decimals=3)).as_markdown()
    sizes = frame({"fedavg": {1: 2_340_480, 2: 2_340_480}})
    assert "2,340,480 ± 0 |" in table(sizes, Measure("bytes")).as_markdown()


def test_two_runs_with_one_seed_are_refused():
    with pytest.raises(ValueError, match="fedavg: several runs with one seed"):
        table(pd.concat([frame(), frame()]))


def test_a_baseline_that_is_no_row_is_refused():
    with pytest.raises(ValueError, match="fedavgm: no row to compare with"):
        table(frame(), baseline=["fedavgm"])


def test_intervals_say_that_they_are_bootstrapped():
    assert "bootstrapped" in table(frame(), interval="bootstrap").as_markdown()
    assert "bootstrapped" not in table(frame()).as_markdown()


words = st.text(st.characters(codec="latin-1", exclude_categories=["Cc", "Zs", "Cf"]), min_size=1, max_size=30)


@settings(max_examples=25)
@given(st.lists(words, min_size=1, max_size=4, unique=True), st.lists(words, min_size=1, max_size=9, unique=True))
def test_tables_fit_the_terminal_however_many_columns_there_are(rows: list[str], columns: list[str]):
    random = np.random.default_rng(0)
    data = pd.DataFrame(
        [
            {"row": row, "column": column, "seed": seed, "value": random.random(), "diverged": False}
            for row in rows for column in columns for seed in range(3)
        ]
    )  # fmt: skip
    text = table(data, rows=["row"], columns=["column"], baseline=[rows[0]]).as_markdown()
    assert max(len(line) for line in text.splitlines() if line.startswith("|")) <= WIDEST
    assert all(
        sum(f" {column.replace('|', chr(92) + '|')} " in line for line in text.splitlines()) for column in columns
    )


def test_rows_with_too_many_labels_are_numbered():
    labels = {f"federated.parameter_{n}": f"a long value {n}" for n in range(5)}
    text = table(
        frame().assign(**labels), rows=["strategy", *labels], baseline=["fedavg", *labels.values()]
    ).as_markdown()
    assert max(map(len, text.splitlines())) <= WIDEST
    assert "2: strategy scaffold, parameter_0 a long value 0, " in text
    assert "less 1" in text


# LaTeX


def body(latex: str) -> list[list[str]]:
    """The cells of the first tabular."""
    inside = latex.split(r"\toprule")[1].split(r"\bottomrule")[0].replace(r"\midrule", "")
    return [[cell.strip() for cell in line.split(" & ")] for line in inside.strip().split(r"\\")[:-1]]


def test_latex_is_what_pandas_writes_of_the_same_table():
    names = {"strategy": ["a_b & 50% #1 {x} ~ ^ $", "c\\d"]}
    data = frame({names["strategy"][0]: VALUES["fedavg"], names["strategy"][1]: VALUES["scaffold"]})
    latex = table(data).as_latex()
    expected: Any = pd.DataFrame(names | {"x": ["1", "2"]}).style.format(escape="latex")
    theirs = body(expected.hide(axis="index").to_latex(hrules=True))
    plain = [line[0].replace(r"\space", "").replace("{}", "").replace(" ", "") for line in theirs[1:]]
    assert [line[0].replace("{}", "").replace(" ", "") for line in body(latex)[1:]] == plain
    assert body(latex)[1][1] == r"95.12 $\pm$ 0.51"


def test_latex_has_as_many_cells_in_each_line_as_columns_and_closes_what_it_opens():
    both = pd.concat([frame(scheme="iid"), frame(scheme="dirichlet_0.1")])
    latex = table(both, columns=["scheme"], baseline=["fedavg"]).as_latex()
    for environment in ("table", "tabular"):
        assert latex.count(rf"\begin{{{environment}}}") == latex.count(rf"\end{{{environment}}}") == 3
    assert latex.count("{") == latex.count("}")
    assert latex.count("$") % 2 == 0
    for part in latex.split(r"\begin{table}")[1:]:
        alignment = part.split(r"\begin{tabular}{")[1].split("}")[0]
        assert {len(line) for line in body(part)} == {len(alignment)} == {3}
    assert r"dirichlet\_0.1" in latex
    assert "{[}$-$0." in latex  # a minus, not a hyphen


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.1, "0.1"), (1.0, "1"), (1e-05, "1e-05"), (True, "true"), (None, "–"), ("iid", "iid"), (3, "3")],
)
def test_parameters_are_named_as_people_write_them(value: object, text: str):
    assert label(value) == text
