"""Who gains from federation, and how much: tables of every client's accuracy, federated and alone."""

import numpy as np
import pandas as pd

from fedpipe.data.skew import skew
from fedpipe.fairness import own_labels_accuracy, spread
from fedpipe.results.comparison import FEDERATED, LOCAL

MEASURES = {  # of what clients' accuracies are, as columns and people name it; see `clients`
    "test": "the test set",
    "own_labels": "their own labels",
    "holdout": "their hold-outs",
}


def clients(
    manifest: pd.DataFrame, class_accuracy: pd.DataFrame, test_accuracy: float, holdout: pd.DataFrame,
    local: pd.DataFrame,
) -> pd.DataFrame:  # fmt: skip
    """Return every client's accuracies of the federated model and of its own local model.

    Args:
        manifest: manifest.csv of the client shards.
        class_accuracy: the table of `fedpipe.results.comparison.class_accuracies`.
        test_accuracy: of the federated model.
        holdout: federated/holdout.csv.
        local: local/clients.csv.

    Returns:
        A row for each client: dataset, client, examples, held_out; the accuracy of both models on the test set, on its
        own labels (see `fedpipe.fairness.own_labels_accuracy`) and on what it holds out, as in federated_test_accuracy;
        measure: holdout if each client that trained alone evaluated on one, else own_labels; federated, local:
        both accuracies by that measure; gain: the former less the latter. What is not known is empty, such as the
        accuracy of a client that did not train alone.
    """
    labels = [column for column in manifest if str(column).startswith("label_")]
    per_class = class_accuracy[class_accuracy["method"] == FEDERATED].set_index("label")["accuracy"]
    accuracies = per_class.reindex(range(len(labels))).to_numpy(float)
    table = manifest.loc[:, ["client", "examples", "held_out"]].assign(
        dataset=local["dataset"].iloc[0],
        federated_test_accuracy=test_accuracy,
        federated_own_labels_accuracy=own_labels_accuracy(accuracies, manifest[labels].to_numpy()),
    )
    evaluated = holdout.loc[:, ["client", "accuracy"]].rename(columns={"accuracy": "federated_holdout_accuracy"})
    alone = local.rename(columns={f"{measure}_accuracy": f"local_{measure}_accuracy" for measure in MEASURES})
    alone = alone.loc[:, ["client", *(f"local_{measure}_accuracy" for measure in MEASURES)]]
    table = table.merge(evaluated, "left", "client").merge(alone, "left", "client")
    tested = table.loc[table["client"].isin(local["client"]), ["federated_holdout_accuracy", "local_holdout_accuracy"]]
    measure = "holdout" if tested.notna().to_numpy().all() else "own_labels"
    table = table.assign(
        measure=measure,
        federated=table[f"federated_{measure}_accuracy"].astype(float),
        local=table[f"local_{measure}_accuracy"].astype(float),
    )
    table["gain"] = table["federated"] - table["local"]
    columns = [f"{method}_{measure}_accuracy" for measure in MEASURES for method in (FEDERATED, LOCAL)]
    order = ["dataset", "client", "examples", "held_out", *columns, "measure", "federated", "local", "gain"]
    return table.loc[:, order].sort_values("client", ignore_index=True)


def gains(table: pd.DataFrame) -> pd.DataFrame:
    """Return how the accuracies are spread over clients, federated and alone, and who gains from federation.

    Args:
        table: of `clients`.

    Returns:
        A row for each measure that there is and each training, over the clients that trained alone: dataset, measure,
        method, clients, mean, median, worst_tenth, std, gini (see `fedpipe.fairness.spread`), and for federated
        training clients_gaining, the share of clients for which it is better than training alone, and mean_gain. Where
        not all clients trained alone, a row more for federated training over all clients.
    """
    rows = []
    for measure in MEASURES:
        pair = table[[f"federated_{measure}_accuracy", f"local_{measure}_accuracy"]].astype(float)
        federated, local = pair.dropna().to_numpy().T
        everyone = pair.iloc[:, 0].dropna().to_numpy()
        if not len(federated):
            continue
        gain = {"clients_gaining": float(np.mean(federated > local)), "mean_gain": float(np.mean(federated - local))}
        rows += [
            {"method": FEDERATED, "measure": measure, "clients": len(federated), **spread(federated), **gain},
            {"method": LOCAL, "measure": measure, "clients": len(local), **spread(local)},
        ]
        if len(everyone) > len(federated):
            rows.append({"method": FEDERATED, "measure": measure, "clients": len(everyone), **spread(everyone)})
    columns = ["dataset", "measure", "method", "clients"]
    statistics = ["mean", "median", "worst_tenth", "std", "gini", "clients_gaining", "mean_gain"]
    return pd.DataFrame(rows).assign(dataset=table["dataset"].iloc[0]).reindex(columns=columns + statistics)


def figures(table: pd.DataFrame) -> dict[str, float | None]:
    """Return who gains, by the measure of the table of `clients`, as figures.

    Returns:
        clients_gaining: the share of clients for which federated training is better than training alone.
        mean_gain_points: the mean over clients, in percentage points.
    """
    gain = table["gain"].dropna().to_numpy(float)
    if not len(gain):
        return {"clients_gaining": None, "mean_gain_points": None}
    return {"clients_gaining": float(np.mean(gain > 0)), "mean_gain_points": round(100 * float(np.mean(gain)), 4)}


def of_partition(manifest: pd.DataFrame) -> dict[str, float | int]:
    """Return how many clients there are, how large they are, and how much they differ (see `skew`).

    Args:
        manifest: manifest.csv of the client shards.
    """
    labels = [column for column in manifest if str(column).startswith("label_")]
    sizes, held_out = manifest["examples"].to_numpy(), manifest["held_out"].to_numpy()
    return {
        "clients": len(manifest),
        "examples": int(sizes.sum()),
        "held_out": int(held_out.sum()),
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
        **skew(manifest[labels].to_numpy()),
    }


def as_markdown(table: pd.DataFrame, population: int) -> str:
    """Return the table of `gains` as Markdown for people to read.

    Args:
        table: of `gains`.
        population: how many clients there are.
    """
    lines = [
        "## Who gains from federation",
        "",
        "| clients' accuracy on | training | clients | mean | worst tenth | std | Gini |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    lines += [
        f"| {MEASURES[row['measure']]} | {row['method']} | {row['clients']:,} | {row['mean']:.2%} "
        f"| {row['worst_tenth']:.2%} | {row['std']:.2%} | {row['gini']:.3f} |"
        for row in table.to_dict("records")
    ]
    lines.append("")
    for row in table.dropna(subset="mean_gain").to_dict("records"):
        gaining, of = round(row["clients_gaining"] * row["clients"]), row["clients"]
        drawn = f" drawn at random from {population:,}" if row["measure"] == "test" and of < population else ""
        lines.append(
            f"- On {MEASURES[row['measure']]}, {gaining:,} of {of:,} clients{drawn} gain; "
            f"the mean gain is {100 * row['mean_gain']:+.2f} points."
        )
    return "\n".join([*lines, ""])
