"""The figures of a run, each with the sentence that says what is to be seen, and the numbers that it is drawn from."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from fedpipe.results.comparison import CENTRALISED, CLIENTS_SHOWN, FEDERATED
from fedpipe.results.figures import specification
from fedpipe.results.run import Run
from fedpipe.results.wording import Table, counted, number, percent, thinned

COMMONEST = 10  # mistakes of a training that are listed
MOST_POINTS = 250  # of a curve: more are not told apart in its width


@dataclass(frozen=True)
class Chart:
    """Hold a figure for a page."""

    name: str  # that `fedpipe figure` knows it by
    title: str
    says: str  # what is to be seen, for who cannot see it, and as its caption
    specification: dict[str, Any]  # Vega-Lite
    table: Table  # the numbers


def charts(run: Run) -> Iterator[Chart]:
    """Yield the figures that a run has."""
    for draw in DRAWN:
        chart = draw(run)
        if chart:
            yield chart


def _accuracy_over_rounds(run: Run) -> Chart | None:
    on = f"{run.evaluated_on}_accuracy"
    known = run.rounds.dropna(subset=on)
    if known.empty:
        return None
    columns = ["dataset", "round", "validation_accuracy", "test_accuracy"]
    table = thinned(known.loc[:, columns], MOST_POINTS).assign(method=FEDERATED)
    spec = specification("accuracy", "Accuracy after each round", table, lines="method", x="round")
    rows = known.to_dict("records")
    first, last = rows[0], rows[-1]
    goes = "rises" if last[on] > first[on] else "falls" if last[on] < first[on] else "goes"
    return Chart(
        "accuracy",
        "Over rounds",
        f"Federated accuracy on the {run.evaluated_on} set {goes} from {percent(first[on])} after round "
        f"{first['round']} to {percent(last[on])} after round {last['round']}.",
        spec,
        _round_table(run),
    )


def _learning_curves(run: Run) -> Chart | None:
    columns = [
        "dataset", "method", "step", "examples_processed", "evaluated_on", "accuracy", "test_accuracy",
    ]  # fmt: skip
    parts = [thinned(of, MOST_POINTS) for _, of in run.curves.loc[:, columns].groupby("method", sort=False)]
    table = pd.concat(parts, ignore_index=True)
    ends = run.curves.groupby("method", sort=False).tail(1).to_dict("records")
    told = ", ".join(
        f"{end['method']} {percent(end['accuracy'])} after {counted(end['examples_processed'], 'example')}"
        for end in ends
    )
    return Chart(
        "learning_curves",
        "Over training examples processed",
        f"The last accuracies are: {told}.",
        specification("learning_curves", "Accuracy over what it cost", table, lines="method"),
        Table(
            "The last evaluation of each training",
            ["training", "round or epoch", "examples processed", "accuracy", "loss"],
            [
                [end["method"], number(end["step"]), number(end["examples_processed"]), percent(end["accuracy"]),
                 number(end["loss"], 4)]
                for end in ends
            ],
        ),
    )  # fmt: skip


def _accuracy_over_megabytes(run: Run) -> Chart | None:
    on = f"{run.evaluated_on}_accuracy"
    known = run.rounds.dropna(subset=on)
    if known.empty:
        return None
    columns = ["dataset", "round", "validation_accuracy", "test_accuracy", "bytes_total"]
    table = thinned(known.loc[:, columns], MOST_POINTS).assign(method=FEDERATED)
    last = known.to_dict("records")[-1]
    down, up = (run.figures[FEDERATED][f"bytes_{way}"] / 1e6 for way in ("down", "up"))
    return Chart(
        "accuracy_over_megabytes",
        "Over megabytes sent",
        f"Federated training reaches {percent(last[on])} with {number(last['bytes_total'] / 1e6)} megabytes: "
        f"{number(down)} down to clients and {number(up)} up from them.",
        specification("accuracy_over_megabytes", "Accuracy over what was sent", table, lines="method", x="bytes_total"),
        Table(
            "Megabytes sent, all rounds and clients",
            ["way", "megabytes", "per round"],
            [
                [way, number(total), number(total / max(1, len(run.rounds)))]
                for way, total in (("down", down), ("up", up), ("both", down + up))
            ],
        ),
    )


def _loss(run: Run) -> Chart | None:
    columns = ["dataset", "round", "train_loss", "validation_loss", "test_loss"]
    known = run.rounds.loc[:, columns].dropna(subset=["train_loss", "validation_loss", "test_loss"], how="all")
    if known.empty:
        return None
    table = thinned(known, MOST_POINTS).assign(method=FEDERATED)
    return Chart(
        "loss",
        "Loss over rounds",
        "The mean cross-entropy of federated training: a solid line on the test set, a dashed one on the clients' own "
        "examples as they trained, a dotted one on validation data. The last test loss is "
        f"{number(run.loss(FEDERATED), 4)}.",
        specification("loss", "Loss after each round", table, lines="method", x="round"),
        _round_table(run),
    )


def _clients(run: Run) -> Chart | None:
    compared = run.clients.dropna(subset="gain")
    if compared.empty:
        return None
    shown = thinned(compared.sort_values(["local", "federated", "client"], ignore_index=True), CLIENTS_SHOWN)
    columns = ["dataset", "client", "examples", "measure", "federated", "local", "gain"]
    gaining = sum(gain > 0 for gain in compared["gain"])
    by_gain = compared.sort_values("gain", kind="stable").to_dict("records")
    worst, best = by_gain[0], by_gain[-1]
    return Chart(
        "clients",
        "Each client, federated and alone",
        f"{gaining:,} of {counted(len(compared), 'client')} gain from federation. The largest gain is "
        f"{100 * best['gain']:+.2f} points, of client {best['client']}, the smallest {100 * worst['gain']:+.2f}, of "
        f"client {worst['client']}."
        + (f" {CLIENTS_SHOWN} of {len(compared):,} are drawn, evenly spaced." if len(compared) > CLIENTS_SHOWN else ""),
        specification("clients", "Each client's accuracy, federated and alone", shown.loc[:, columns]),
        Table(
            "Clients by the accuracy of their own model",
            ["client", "examples", "federated", "alone", "gain, points"],
            [
                [number(row["client"]), number(row["examples"]), percent(row["federated"]), percent(row["local"]),
                 f"{100 * row['gain']:+.2f}"]
                for row in shown.to_dict("records")
            ],
        ),
    )  # fmt: skip


def _label_counts(run: Run) -> Chart | None:
    by_client = run.labels.pivot_table(index="client", columns="label", values="examples", aggfunc="sum", fill_value=0)
    labels = int((by_client > 0).sum(axis=1).median())
    smallest, largest = run.figures["partition"]["smallest"], run.figures["partition"]["largest"]
    hold = f"{number(smallest)} to {counted(largest, 'example')}" if smallest < largest else counted(largest, "example")
    shown = len(by_client)
    return Chart(
        "label_counts",
        "Training examples by client and label",
        f"Each client has {hold}, of {counted(labels, 'label')} in the median."
        + (f" {shown} of {run.population:,} clients are drawn, evenly spaced." if shown < run.population else ""),
        specification("label_counts", "Training examples by client and label", run.labels),
        Table(
            "Training examples by client and label",
            ["client", *(str(label) for label in by_client.columns), "all"],
            [
                [str(client), *(number(count) for count in row), number(row.sum())]
                for client, row in zip(by_client.index, by_client.to_numpy(), strict=True)
            ],
        ),
    )


def _class_accuracy(run: Run) -> Chart | None:
    by_label = run.classes.pivot_table(index="label", columns="method", values="accuracy", sort=False)
    of_federated = [row for row in run.classes.to_dict("records") if row["method"] == FEDERATED]
    hardest = min(of_federated, key=lambda row: row["accuracy"])
    return Chart(
        "class_accuracy",
        "Accuracy by label",
        f"Federated training does worst on the label {hardest['label']}, with {percent(hardest['accuracy'])} of "
        f"{counted(hardest['examples'], 'test image')} right.",
        specification("class_accuracy", "Test accuracy by label", run.classes, lines="method"),
        Table(
            "Test accuracy by label",
            ["label", *map(str, by_label.columns)],
            [
                [str(label), *(percent(value) for value in row)]
                for label, row in zip(by_label.index, by_label.to_numpy(), strict=True)
            ],
        ),
    )


def _confusion_counts(run: Run) -> Chart | None:
    rows = [row for row in run.confusion.to_dict("records") if row["actual"] != row["predicted"] and row["examples"]]
    rows.sort(key=lambda row: -row["examples"])
    wrong = {
        method: [row for row in rows if row["method"] == method][:COMMONEST] for method in (FEDERATED, CENTRALISED)
    }
    said = "Federated training makes no mistake."
    for row in wrong[FEDERATED][:1]:
        said = (
            f"Federated training's commonest mistake is to take a {row['actual']} for a {row['predicted']}: "
            f"{counted(row['examples'], 'test image')}."
        )
    return Chart(
        "confusion_counts",
        "Confusion",
        said,
        specification("confusion_counts", "Test images by actual and predicted label", run.confusion),
        Table(
            "The commonest mistakes of each training",
            ["training", "actual label", "predicted label", "test images"],
            [
                [row["method"], str(row["actual"]), str(row["predicted"]), number(row["examples"])]
                for row in (*wrong[FEDERATED], *wrong[CENTRALISED])
            ],
        ),
    )


def _drift(run: Run) -> Chart | None:
    norms = {"update_norm": "mean length of updates", "aggregate_norm": "length of their mean"}
    table = _long(run.rounds, norms)
    if table.empty:
        return None
    known = run.rounds.dropna(subset="update_cosine")
    title = "How far clients drift apart"
    if known.empty:
        title = "What becomes of the updates"
        said = "The length of the mean of the updates, by round. What each client sent is not known."
    else:
        cosines = known["update_cosine"].to_list()
        first, last = cosines[0], cosines[-1]
        said = (
            f"Where clients' updates agree, their mean is as long as they are, and the cosine is 1. It goes from "
            f"{number(first, 2)} in the first round to {number(last, 2)} in the last: clients drift "
            f"{'apart' if last < first else 'together'}."
        )
    return Chart(
        "drift",
        title,
        said,
        specification("series", "Lengths of updates and of their mean", table, lines="what", y_label="L2 norm"),
        Table(
            "Lengths of updates by round",
            ["round", "mean length of updates", "length of their mean", "mean cosine to it"],
            [
                [number(row["round"]), *(number(row[name], 3) for name in (*norms, "update_cosine"))]
                for row in thinned(run.rounds, CLIENTS_SHOWN).to_dict("records")
            ],
        ),
    )


def _updates(run: Run) -> Chart | None:
    counts = pd.DataFrame({what: run.counted(what) for what in ("cohort", "refused", "lost", "dropped")})
    counts["counted"] = counts["cohort"] - counts[["refused", "lost", "dropped"]].sum(axis=1)
    if not counts[["refused", "lost", "dropped"]].to_numpy().any():
        return None
    counts.loc[run.rounds["skipped"] == 1, "counted"] = 0
    rounds = counts.assign(round=run.rounds["round"])
    order = ["counted", "refused", "lost", "dropped"]
    short = thinned(rounds.loc[rounds["counted"] < rounds["cohort"], :], CLIENTS_SHOWN).to_dict("records")
    drawn = thinned(rounds, MOST_POINTS).melt("round", order, "what", "updates")
    totals = counts.sum()
    return Chart(
        "updates",
        "What became of clients' updates",
        f"Of {counted(totals['cohort'], 'update')} asked for, {number(totals['counted'])} counted; "
        f"{number(totals['refused'])} were refused, {number(totals['lost'])} lost, {number(totals['dropped'])} "
        f"dropped; {counted(run.rounds['skipped'].sum(), 'round')} skipped.",
        specification("updates", "Updates by round", drawn),
        Table(
            "Rounds in which not all updates counted",
            ["round", "counted", "refused", "lost", "dropped", "which"],
            [
                [number(row["round"]), *(number(row[what]) for what in order), _which(run, row["round"])]
                for row in short
            ],
        ),
    )


def _epsilon(run: Run) -> Chart | None:
    names = {"epsilon_pld": "by privacy loss distributions (PLD)", "epsilon_rdp": "by Rényi divergences (RDP)"}
    names = {name: said for name, said in names.items() if _is_known(run, name)}
    if not names:
        return None
    smallest = run.rounds.loc[:, [*names]].min(axis=1).to_list()
    return Chart(
        "epsilon",
        "Epsilon by round",
        f"Epsilon grows from {number(smallest[0], 2)} after the first round to {number(smallest[-1], 2)} after the "
        "last.",
        specification(
            "series", "Epsilon by round", _long(run.rounds, names), lines="what",
            y_label=f"epsilon, at delta {run.figures[FEDERATED]['delta']:.2g}",
        ),
        Table(
            "Epsilon after rounds",
            ["round", *names.values()],
            [
                [number(row["round"]), *(number(row[name], 3) for name in names)]
                for row in thinned(run.rounds, 20).to_dict("records")
            ],
        ),
    )  # fmt: skip


def _attack(run: Run) -> Chart | None:
    if not run.is_attacked:
        return None
    names = {
        f"{run.evaluated_on}_accuracy": f"accuracy on the {run.evaluated_on} set",
        "honest_accuracy": "honest clients on their own examples",
        "backdoor_success": "success of the backdoor",
    }
    names = {name: said for name, said in names.items() if _is_known(run, name)}
    spec = specification("series", "Under attack", _long(run.rounds, names), lines="what", y_label="fraction")
    spec["encoding"]["y"]["axis"]["format"] = ".3~%"
    last = run.rounds.to_dict("records")[-1]
    hostile = run.counted("hostile")
    came_to = ", ".join(f"{said} {percent(last[name])}" for name, said in names.items())
    return Chart(
        "attack",
        "Under attack",
        f"In a round, {number(hostile.mean(), 1)} clients of the cohort are hostile in the mean, "
        f"{number(hostile.max())} at most. After the last round: {came_to}.",
        spec,
        Table(
            "Under attack, by round",
            ["round", "hostile clients in the cohort", *names.values()],
            [
                [number(row["round"]), number(len(row["hostile"].split())), *(percent(row[name]) for name in names)]
                for row in thinned(run.rounds, CLIENTS_SHOWN).to_dict("records")
            ],
        ),
    )


DRAWN: tuple[Callable[[Run], Chart | None], ...] = (
    _accuracy_over_rounds, _learning_curves, _accuracy_over_megabytes, _loss, _clients, _label_counts, _class_accuracy,
    _confusion_counts, _drift, _updates, _epsilon, _attack,
)  # fmt: skip


def _is_known(run: Run, column: str) -> bool:
    """Tell whether any round has a value in a column."""
    return column in run.rounds and any(run.rounds[column].notna())


def _long(rounds: pd.DataFrame, names: dict[str, str]) -> pd.DataFrame:
    """Return a row for each round and column, with the value, and what it is in words."""
    table = thinned(rounds, MOST_POINTS).loc[:, ["round", *names]].rename(columns=names)
    return table.melt("round", list(names.values()), "what", "value").dropna(subset="value")


def _round_table(run: Run) -> Table:
    on = run.evaluated_on
    return Table(
        "Federated training by round",
        ["round", f"{on} accuracy", f"{on} loss", "training loss", "megabytes so far", "examples processed"],
        [
            [number(row["round"]), percent(row[f"{on}_accuracy"]), number(row[f"{on}_loss"], 4),
             number(row["train_loss"], 4), number(row["bytes_total"] / 1e6), number(row["examples_processed"])]
            for row in thinned(run.rounds, CLIENTS_SHOWN).to_dict("records")
        ],
    )  # fmt: skip


def _which(run: Run, round: Any) -> str:
    """Return which clients' updates a round did not count."""
    row = next(row for row in run.rounds.to_dict("records") if row["round"] == round)
    told = [
        f"{what}: {', '.join(clients[:20])}{', …' if len(clients) > 20 else ''}"
        for what in ("refused", "lost", "dropped")
        if (clients := row[what].split())
    ]
    return "; ".join(told) or ("skipped" if row["skipped"] else "")
