"""Two runs side by side: parameters that differ, metrics, curves over one another, clients that gained and lost."""

from collections.abc import Iterator
from typing import Any

import pandas as pd

from fedpipe.results.charts import MOST_POINTS, Chart
from fedpipe.results.comparison import CENTRALISED, CLIENTS_SHOWN, FEDERATED, LOCAL
from fedpipe.results.figures import specification
from fedpipe.results.gains import MEASURES
from fedpipe.results.limits import ENOUGH, chance, limits
from fedpipe.results.page import render
from fedpipe.results.run import Run
from fedpipe.results.wording import NOTHING, Table, counted, number, percent, shown, thinned

ACCURACIES = ["validation_accuracy", "test_accuracy"]
METRICS = {  # of a method or of the comparison in comparison.json: its name, and whether people read it in percent
    (FEDERATED, "accuracy"): ("federated accuracy", True),
    (FEDERATED, "loss"): ("federated loss", False),
    (CENTRALISED, "accuracy"): ("centralised accuracy", True),
    (CENTRALISED, "loss"): ("centralised loss", False),
    (LOCAL, "accuracy"): ("local accuracy, mean", True),
    (LOCAL, "worst_tenth_accuracy"): ("local accuracy, worst tenth", True),
    ("comparison", "gap_points"): ("federated less centralised, points", False),
    ("comparison", "mean_gain_points"): ("gain from federation, points", False),
    ("comparison", "clients_gaining"): ("clients that gain from federation", True),
    ("comparison", "rounds_to_target"): ("rounds to the target accuracy", False),
    (FEDERATED, "rounds"): ("rounds", False),
    (FEDERATED, "examples_processed"): ("examples processed", False),
    (FEDERATED, "bytes_down"): ("bytes down", False),
    (FEDERATED, "bytes_up"): ("bytes up", False),
    (FEDERATED, "epsilon"): ("epsilon", False),
    (FEDERATED, "honest_accuracy"): ("honest clients' accuracy", True),
    (FEDERATED, "backdoor_success"): ("success of the backdoor", True),
}


def tables(before: Run, after: Run) -> list[Table]:
    """Return what differs between two runs: parameters, metrics, and how many clients gained and lost."""
    return [parameters(before, after), metrics(before, after), clients(before, after)]


def page(before: Run, after: Run) -> str:
    """Return a page with both runs as HTML, in one file that needs no other."""
    drawn = {chart.name: chart for chart in _charts(before, after)}
    return render(
        "changes.html.jinja",
        before=before,
        after=after,
        sections=[
            ("parameters", "Parameters"), ("metrics", "Metrics"), ("curves", "Curves"),
            ("clients-section", "Clients"), ("limits", "What this does not show"),
        ],
        answer=answer(before, after),
        parameters=parameters(before, after),
        metrics=metrics(before, after),
        clients=clients(before, after),
        charts=drawn,
        limits=[*_limits_of_both(before, after)],
    )  # fmt: skip


def answer(before: Run, after: Run) -> str:
    """Return what changed, in two sentences made from the numbers."""
    if FEDERATED in before.diverged or FEDERATED in after.diverged:
        who = " and ".join(run.name for run in (before, after) if FEDERATED in run.diverged)
        said = f"Federated training diverged in {who}, so that its accuracies do not compare."
    else:
        change = after.accuracy(FEDERATED) - before.accuracy(FEDERATED)
        said = (
            f"Federated accuracy is {percent(before.accuracy(FEDERATED))} in {before.name} and "
            f"{percent(after.accuracy(FEDERATED))} in {after.name}: {100 * change:+.2f} points."
        )
    number_of = len(parameters(before, after).rows)
    differ = "parameter that counts differs" if number_of == 1 else "parameters that count differ"
    return f"{said} {number_of or 'No'} {differ}."


def parameters(before: Run, after: Run) -> Table:
    """Return the parameters that count and differ; one that one of the runs does not use has none there."""
    names = list(dict.fromkeys([*before.parameters, *after.parameters]))
    rows = [
        [name, *(shown(run.parameters[name]) if name in run.parameters else NOTHING for run in (before, after))]
        for name in names
        if name not in before.parameters
        or name not in after.parameters
        or before.parameters[name] != after.parameters[name]
    ]
    return Table("Parameters that differ", ["parameter", before.name, after.name], rows)


def metrics(before: Run, after: Run) -> Table:
    """Return the metrics that either run has, and their differences."""
    rows = []
    for (of, key), (name, in_percent) in METRICS.items():
        values = [run.figures[of].get(key) for run in (before, after)]
        if any(value is not None for value in values):
            told = [percent(value) if in_percent else number(value, _decimals(key)) for value in values]
            rows.append([name, *told, _difference(values, in_percent, _decimals(key))])
    return Table("Metrics", ["metric", before.name, after.name, "difference"], rows)


def clients(before: Run, after: Run) -> Table:
    """Return how many clients gained and lost, of those that both runs have, by each measure that both have."""
    rows = []
    for measure, said in MEASURES.items():
        both = _of_both(before, after, measure)
        if not both.empty:
            change = both["after"] - both["before"]
            rows.append(
                [said, number(len(both)), number((change > 0).sum()), number((change < 0).sum()),
                 f"{100 * change.mean():+.2f}", f"{100 * change.min():+.2f}", f"{100 * change.max():+.2f}"]
            )  # fmt: skip
    heads = ["federated accuracy on", "clients", "gained", "lost", "mean, points", "worst", "best"]
    return Table(f"Clients, from {before.name} to {after.name}", heads, rows)


def _of_both(before: Run, after: Run, measure: str) -> pd.DataFrame:
    """Return the federated accuracy of each client of both runs by a measure; none if the partitions differ."""
    if _partition(before) != _partition(after):
        return pd.DataFrame()
    column = f"federated_{measure}_accuracy"
    tables = [run.clients.loc[:, ["client", "examples", column]].dropna() for run in (before, after)]
    both = tables[0].rename(columns={column: "before"}).merge(
        tables[1].loc[:, ["client", column]].rename(columns={column: "after"}), "inner", "client"
    )  # fmt: skip
    return both


def _partition(run: Run) -> dict[str, Any]:
    """Return what decides which client holds which examples."""
    counting = ("seed", "download.", "partition.")
    return {name: value for name, value in run.parameters.items() if name.startswith(counting)}


def _charts(before: Run, after: Run) -> Iterator[Chart]:
    runs = {before.name: before, after.name: after}
    on = {run.evaluated_on for run in runs.values()}
    for name, title, x, columns in (
        ("accuracy", "Over rounds", "round", ACCURACIES),
        (
            "accuracy_over_megabytes",
            "Over megabytes sent",
            "bytes_total",
            ["round", *ACCURACIES],
        ),
        ("loss", "Loss over rounds", "round", ["train_loss", "validation_loss", "test_loss"]),
    ):
        table = pd.concat(
            thinned(run.rounds.loc[:, ["dataset", x, *columns]], MOST_POINTS).assign(rev=label)
            for label, run in runs.items()
        )
        spec = specification(name, title, table, lines="rev", x=x)
        _distinguish(spec, list(runs))
        ends = "; ".join(
            f"{label} {number(run.loss(FEDERATED), 4) if name == 'loss' else percent(run.accuracy(FEDERATED))} after "
            f"{counted(len(run.rounds), 'round')}, {number(run.rounds['bytes_total'].iloc[-1] / 1e6)} megabytes"
            for label, run in runs.items()
        )
        told = f"Federated training on {' and '.join(sorted(on))} data ends on the test set with: {ends}."
        yield Chart(name, title, told, spec, _ends(runs))
    curves = pd.concat(
        thinned(of, MOST_POINTS).assign(rev=label)
        for label, run in runs.items()
        for _, of in run.curves.groupby("method", sort=False)
    )
    yield Chart(
        "learning_curves",
        "Over training examples processed",
        "Federated, centralised and local training of both runs; shapes and dashes tell the trainings apart, colours "
        "the runs.",
        specification("learning_curves", "Accuracy over what it cost", curves, lines="rev"),
        Table(
            "The last evaluation of each training",
            ["run", "training", "accuracy", "loss"],
            [
                [label, method, percent(run.accuracy(method)), number(run.loss(method), 4)]
                for label, run in runs.items()
                for method in (FEDERATED, CENTRALISED, LOCAL)
            ],
        ),
    )
    measure = _best_measure(before, after)
    both = _of_both(before, after, measure) if measure else pd.DataFrame()
    if both.empty:
        return
    change = both["after"] - both["before"]
    drawn = thinned(both.assign(change=change).sort_values(["change", "client"], ignore_index=True), CLIENTS_SHOWN)
    of = f" {len(drawn)} of {len(both):,} are drawn, evenly spaced." if len(drawn) < len(both) else ""
    spec = specification("client_changes", "Clients that gained and lost", drawn)
    yield Chart(
        "client_changes",
        "Clients that gained and lost",
        f"Accuracy of the federated model on {MEASURES[measure]}, from {before.name} (before) to {after.name} (after): "
        f"{counted((change > 0).sum(), 'client')} gained, {counted((change < 0).sum(), 'client')} lost.{of}",
        spec,
        Table(
            "Clients by their change",
            ["client", "examples", before.name, after.name, "change, points"],
            [
                [number(row["client"]), number(row["examples"]), percent(row["before"]), percent(row["after"]),
                 f"{100 * row['change']:+.2f}"]
                for row in drawn.to_dict("records")
            ],
        ),
    )  # fmt: skip


def _ends(runs: dict[str, Run]) -> Table:
    """Return what federated training of each run ended with."""
    return Table(
        "Federated training on the test set, after the last round",
        ["run", "rounds", "megabytes", "accuracy", "loss"],
        [
            [label, number(len(run.rounds)), number(run.rounds["bytes_total"].iloc[-1] / 1e6),
             percent(run.accuracy(FEDERATED)), number(run.loss(FEDERATED), 4)]
            for label, run in runs.items()
        ],
    )  # fmt: skip


def _best_measure(before: Run, after: Run) -> str:
    """Return the measure that says most of each client: its own hold-out, else its own labels."""
    return next(
        (name for name in ("holdout", "own_labels", "test") if not _of_both(before, after, name).empty), ""
    )  # fmt: skip


def _distinguish(spec: dict[str, Any], runs: list[str]) -> None:
    """Have shapes tell the runs apart besides colours."""
    for layer in spec["layer"]:
        if layer["mark"].get("type") == "point":
            layer.setdefault("encoding", {})["shape"] = {
                "field": "rev", "type": "nominal", "scale": {"domain": runs, "range": ["circle", "square"]},
            }  # fmt: skip


def _limits_of_both(before: Run, after: Run) -> Iterator[tuple[str, str]]:
    """Yield what the two do not show, as titles and sentences: of the comparison itself, then what both lack."""
    if max(before.seeds, after.seeds) < ENOUGH:
        yield (
            "Whether the difference is chance",
            "These are two runs, with a seed each. Runs that differ in nothing but their seed differ too: a study, or "
            "`fedpipe summary` over several seeds, tells an effect from chance.",
        )
    accuracies = [run.accuracy(FEDERATED) for run in (before, after)]
    examples = min(before.test_examples, after.test_examples)
    by_chance = chance(examples, *accuracies)
    if abs(accuracies[0] - accuracies[1]) <= by_chance:
        yield (
            "Which of the two is better",
            f"With {examples:,} test images, {100 * by_chance:.2f} points may be chance, and the difference is no "
            "larger.",
        )
    if before.dataset != after.dataset:
        yield (
            "The same task",
            f"{before.name} is on {before.dataset}, {after.name} on {after.dataset}: accuracies on different data do "
            "not compare.",
        )
    if _partition(before) != _partition(after):
        yield (
            "The same clients",
            "The partitions differ, so that client 0 of one is not client 0 of the other: clients are not compared one "
            "by one.",
        )
    if len(parameters(before, after).rows) > 1:
        yield (
            "Which parameter did it",
            "More than one parameter differs. What comes of each, only runs that differ in one tell.",
        )
    found = {run.name: {limit.name: limit for limit in limits(run)} for run in (before, after)}
    others = {name: limit for of_run in found.values() for name, limit in of_run.items()}
    seen = {"few_seeds", "small_difference", "unequal_cost"}
    for name, limit in others.items():
        if name not in seen:
            who = [run for run, of_run in found.items() if name in of_run]
            yield limit.title, limit.sentence if len(who) == 2 else f"Of {who[0]}: {limit.sentence}"


def _difference(values: list[Any], in_percent: bool, decimals: int | None) -> str:
    before, after = values
    if before is None or after is None:
        return NOTHING
    if in_percent:
        return f"{100 * (after - before):+.2f} points"
    change = after - before
    return "0" if change == 0 else f"{'+' if change > 0 else '-'}{number(abs(change), decimals)}"


def _decimals(key: str) -> int | None:
    return 4 if key == "loss" else 2 if key.endswith("points") or key == "epsilon" else None
