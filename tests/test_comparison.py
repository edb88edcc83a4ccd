"""The comparison says what the two reports say, and figures and tables name the data set."""

import json
from pathlib import Path

import pandas as pd
import pytest

from fedpipe.results import comparison, figures
from fedpipe.results.comparison import Compare
from fedpipe.system.errors import UserError
from tests.conftest import ROOT

ROUNDS = pd.DataFrame(
    {
        "dataset": "MNIST",
        "round": [1, 2, 3],
        "examples_processed": [100, 200, 300],
        "validation_loss": None,
        "validation_accuracy": None,
        "test_loss": [0.5, 0.1, 0.05],
        "test_accuracy": [0.90, 0.985, 0.98],
    }
)
EPOCHS = pd.DataFrame(
    {
        "dataset": "MNIST",
        "epoch": [1, 2],
        "examples_processed": [400, 800],
        "validation_loss": None,
        "validation_accuracy": None,
        "test_loss": [0.2, 0.1],
        "test_accuracy": [0.95, 0.9712],
    }
)
CONFUSION = pd.DataFrame(
    [
        {"dataset": "MNIST", "method": method, "actual": a, "predicted": p, "examples": n}
        for method, counts in {"federated": [[8, 2], [1, 9]], "centralised": [[10, 0], [5, 5]]}.items()
        for a, row in enumerate(counts)
        for p, n in enumerate(row)
    ]
)
MANIFEST = pd.DataFrame({"client": [0, 1], "examples": [3, 4], "label_0": [1, 4], "label_1": [2, 0], "sha256": "x"})
LOCAL = {
    "dataset": "MNIST", "accuracy": 0.7, "loss": 2.5, "diverged": False, "clients": 2, "clients_diverged": 0,
    "epochs": 12.5, "examples_processed": 290,
}  # fmt: skip
SETTINGS = Compare(target_accuracy=0.985)
GAINS = {"clients_gaining": 0.5, "mean_gain_points": 1.25}


def test_the_comparison_is_the_last_of_each_curve():
    table = comparison.compare(comparison.learning_curves(ROUNDS, EPOCHS, LOCAL), SETTINGS)
    rows = table.set_index("method")
    assert rows["test_accuracy"].to_dict() == {"federated": 0.98, "centralised": 0.9712, "local": 0.7}
    assert rows["test_loss"].to_dict() == {"federated": 0.05, "centralised": 0.1, "local": 2.5}
    assert rows["examples_processed"].to_dict() == {"federated": 300, "centralised": 800, "local": 290}
    together = comparison.figures(table)
    assert together == {"gap_points": 0.88, "evaluated_on": "test", "rounds_to_target": 2, "epochs_to_target": None}
    json.dumps(together)


def test_the_headline_fits_beside_those_of_the_trainings():
    table = comparison.compare(comparison.learning_curves(ROUNDS, EPOCHS, LOCAL), SETTINGS)
    assert comparison.headline(comparison.figures(table) | GAINS) == {"gap": 0.88, "gain": 1.25, "to_target": 2}


def test_where_federated_training_diverged_the_headline_has_no_gap_and_no_gain():
    table = comparison.compare(comparison.learning_curves(ROUNDS, EPOCHS, LOCAL), SETTINGS, ["federated"])
    found = comparison.headline(comparison.figures(table) | GAINS, ["federated"])
    assert (found["gap"], found["gain"]) == (None, None)


def test_the_markdown_gives_percentages_and_names_the_data_set():
    table = comparison.compare(comparison.learning_curves(ROUNDS, EPOCHS, LOCAL), SETTINGS)
    text = comparison.as_markdown(table, SETTINGS, LOCAL)
    assert text.startswith("# MNIST: federated, centralised, local\n")
    assert "| federated | 98.00% | 0.0500 | 3 rounds | 300 | 2 rounds |" in text
    assert "| centralised | 97.12% | 0.1000 | 2 epochs | 800 | not reached |" in text
    assert "| local, mean of 2 clients | 70.00% | 2.5000 | 12.5 epochs | 290 | not known |" in text
    assert "Federated less centralised: +0.88 points" in text
    assert max(map(len, text.splitlines())) <= 100


# With validation data, the test set is used for the last model alone.
VALIDATED = ROUNDS.assign(
    validation_loss=[0.4, 0.2, 0.1], validation_accuracy=[0.8, 0.96, 0.99], test_loss=[None, None, 0.05],
    test_accuracy=[None, None, 0.98],
)  # fmt: skip
VALIDATED_EPOCHS = EPOCHS.assign(
    validation_loss=[0.3, 0.2], validation_accuracy=[0.93, 0.94], test_loss=[None, 0.1], test_accuracy=[None, 0.9712]
)


def test_with_validation_data_these_make_the_curves_and_the_test_set_the_result():
    curves = comparison.learning_curves(VALIDATED, VALIDATED_EPOCHS, LOCAL)
    trained = curves[curves["method"] != "local"]
    assert set(trained["evaluated_on"]) == {"validation"}
    assert trained["accuracy"].tolist() == [0.8, 0.96, 0.99, 0.93, 0.94]
    assert set(curves.loc[curves["method"] == "local", "evaluated_on"]) == {"test"}  # once, in the end
    table = comparison.compare(curves, SETTINGS)
    metrics = comparison.figures(table)
    assert table["test_accuracy"].tolist() == [0.98, 0.9712, 0.7]
    assert (metrics["rounds_to_target"], metrics["epochs_to_target"]) == (3, None)
    assert metrics["evaluated_on"] == "validation"


def test_the_markdown_says_by_which_data_training_was_stopped():
    for curves, said in (
        (
            comparison.learning_curves(VALIDATED, VALIDATED_EPOCHS, LOCAL),
            "Rounds and epochs to 98.5% are counted on validation data, which also decide about stopping\n"
            "early; the test set was used once, for the last models.\n",
        ),
        (
            comparison.learning_curves(ROUNDS, EPOCHS, LOCAL),
            "Rounds and epochs to 98.5% are counted on the test set, which also decides about stopping early.\n",
        ),
    ):
        text = comparison.as_markdown(comparison.compare(curves, SETTINGS), SETTINGS, LOCAL)
        assert text.endswith(said)
        assert max(map(len, text.splitlines())) <= 100


def test_a_training_that_diverged_is_called_so_and_not_compared():
    rounds = ROUNDS.assign(test_loss=[float("nan")] * len(ROUNDS))
    table = comparison.compare(comparison.learning_curves(rounds, EPOCHS, LOCAL), SETTINGS, ["federated"])
    text = comparison.as_markdown(table, SETTINGS, LOCAL)
    metrics = comparison.figures(table)
    assert "| federated, diverged | 98.00% | no number |" in text
    assert "The federated training diverged, so that there is nothing to compare." in text
    assert metrics["gap_points"] is None
    assert table["diverged"].tolist() == [True, False, False]


def test_clients_that_diverged_alone_are_counted_and_the_others_compared():
    local = LOCAL | {"loss": float("nan"), "diverged": True, "clients_diverged": 1}
    table = comparison.compare(comparison.learning_curves(ROUNDS, EPOCHS, local), SETTINGS, ["local"])
    text = comparison.as_markdown(table, SETTINGS, local)
    assert "| local, mean of 2 clients, 1 diverged | 70.00% | no number |" in text
    assert "Federated less centralised: +0.88 points" in text
    assert comparison.gap_points(table) == 0.88


def test_one_round_one_epoch_and_one_client_are_singular():
    local = LOCAL | {"clients": 1, "epochs": 1.0}
    curves = comparison.learning_curves(ROUNDS.iloc[:1], EPOCHS.iloc[:1], local)
    settings = Compare(target_accuracy=0.9)
    text = comparison.as_markdown(comparison.compare(curves, settings), settings, local)
    assert "| local, mean of 1 client | 70.00% | 2.5000 | 1 epoch |" in text
    assert "| 1 round | 100 | 1 round |" in text
    assert "| 1 epoch | 400 | 1 epoch |" in text


def test_accuracy_by_class_is_the_diagonal_over_the_row():
    table = comparison.class_accuracies(CONFUSION)
    assert table[["method", "label", "examples", "accuracy"]].values.tolist() == [
        ["federated", 0, 10, 0.8],
        ["federated", 1, 10, 0.9],
        ["centralised", 0, 10, 1.0],
        ["centralised", 1, 10, 0.5],
    ]


def test_label_counts_are_the_manifests():
    table = comparison.label_counts(MANIFEST, "MNIST")
    assert table.values.tolist() == [["MNIST", 0, 0, 1], ["MNIST", 0, 1, 2], ["MNIST", 1, 0, 4], ["MNIST", 1, 1, 0]]


def test_results_on_different_data_sets_are_not_compared():
    full, sample = {"dataset": "MNIST"}, {"dataset": "MNIST sample (5,000 images)"}
    assert comparison.one_dataset({"federated": full, "centralised": full}) == "MNIST"
    with pytest.raises(UserError, match=r"^federated and centralised: on different data sets: MNIST, MNIST sample"):
        comparison.one_dataset({"federated": full, "centralised": sample})


CLIENTS = pd.DataFrame(
    {
        "client": range(3), "examples": 10, "measure": "own_labels", "federated": [0.9, 0.8, 0.85],
        "local": [0.7, 0.95, None], "gain": [0.2, -0.15, None],
    }
)  # fmt: skip
TABLES = {
    "learning_curves": comparison.learning_curves(ROUNDS, EPOCHS, LOCAL),
    "learning_curves on validation data": comparison.learning_curves(VALIDATED, VALIDATED_EPOCHS, LOCAL),
    "clients": CLIENTS,
    "confusion_counts": CONFUSION,
    "class_accuracy": comparison.class_accuracies(CONFUSION),
    "label_counts": comparison.label_counts(MANIFEST, "MNIST"),
}


@pytest.mark.parametrize("name", TABLES)
def test_equal_tables_make_equal_pictures_and_the_data_set_is_named_in_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(ROOT)
    for png, dataset in (("one.png", "MNIST"), ("other.png", "MNIST"), ("sample.png", "MNIST sample (5,000 images)")):
        lines = "method" if name.startswith(("learning", "class")) else None
        table = TABLES[name].assign(dataset=dataset)
        figures.draw(name.partition(" ")[0], "A title", table, tmp_path / png, lines=lines)
    picture = (tmp_path / "one.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 3000
    assert picture == (tmp_path / "other.png").read_bytes()
    assert picture != (tmp_path / "sample.png").read_bytes()
