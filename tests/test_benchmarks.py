"""The benchmarks compare equal work, and count it right."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import against, audit, data, engines, fedpipe_runner, measure, pieces, scale, secure
from benchmarks.workloads import WORKLOADS, Workload
from fedpipe.data.store import open_store
from fedpipe.engines import Compute
from fedpipe.federated.aggregation import AGGREGATORS
from fedpipe.federated.attacks import ATTACKS
from fedpipe.federated.compression import COMPRESSIONS
from fedpipe.federated.mechanisms import MECHANISMS
from fedpipe.federated.mixing import MIXINGS
from fedpipe.federated.secure import PROTOCOLS
from fedpipe.federated.settings import Federated
from fedpipe.system.errors import UserError

SMALL = Workload("small", "2nn", clients=5, per_client=120, cohort=5, batch_size=10)
REPORT = {"examples": 6000, "steps": 600, "rounds_s": [0.1], "first_round_s": 1.0, "peak_mb": 1, "accuracy": 0.9}


@pytest.fixture
def data_folder(folder: Path, test: Path, tmp_path: Path) -> Path:
    """A folder with the fixtures' five shards of 600 examples together, as `data.write` lays it out."""
    (tmp_path / "shards").symlink_to(folder)
    for name in ("test.safetensors", "dataset.json"):
        (tmp_path / name).symlink_to(test.parent / name)
    return tmp_path


def test_a_workload_fits_mnist_and_divides_it_evenly():
    for workload in WORKLOADS.values():
        assert workload.clients * workload.per_client == 60_000
        assert workload.cohort <= workload.clients


def test_the_operations_of_the_reference_cnn_are_counted_as_by_hand():
    """Forward, gradients of weights, and gradients of inputs but the images'."""
    conv1, conv2, linear = (2 * size for size in (28 * 28 * 16 * 25, 14 * 14 * 32 * 25 * 16, 1568 * 10))
    expected = 2 * conv1 + 3 * conv2 + 3 * linear
    assert measure.flop_per_example("reference-cnn", 10) == pytest.approx(expected)


def test_unequal_work_is_refused():
    assert engines._row(WORKLOADS["mlp"], "an engine", [REPORT])["examples_per_s"] == 60_000
    with pytest.raises(RuntimeError, match=r"an engine, mlp: 6000 examples, 60 steps a round"):
        engines._row(WORKLOADS["mlp"], "an engine", [REPORT | {"steps": 60}])
    with pytest.raises(RuntimeError, match=r"ray, after, mlp: 5400 examples, 600 steps a round"):
        against._row(WORKLOADS["mlp"], "ray", {"before": [REPORT], "after": [REPORT, REPORT | {"examples": 5400}]})


def test_both_forms_of_a_workloads_data_hold_the_same_examples(
    test: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The peers' .npz and fedpipe's folder: every client has as many, in the same order."""
    monkeypatch.setattr(data, "DATASET", test.parent)
    npz, folder = data.prepare(SMALL, tmp_path)
    peers = np.load(npz)
    store = open_store(folder / "shards")
    assert store.sizes.tolist() == [120] * 5
    for client, indices in enumerate(peers["assignment"]):
        images, labels = store.examples(client)
        np.testing.assert_array_equal(images[..., 0], peers["images"][indices])
        np.testing.assert_array_equal(labels, peers["labels"][indices])


def test_fedpipe_runs_its_part_of_a_workload(data_folder: Path, capsys: pytest.CaptureFixture[str]):
    compute = Compute(engine="threads", workers=1, device="cpu")
    fedpipe_runner.federate(SMALL, data_folder, rounds=2, compute=compute)
    assert '"examples": 600' in capsys.readouterr().out


def reported(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *options: str) -> Any:
    """What fedpipe's runner reports, called from the command line."""
    monkeypatch.setitem(WORKLOADS, "small", SMALL)
    monkeypatch.setattr("sys.argv", ["fedpipe_runner", "small", str(folder), *options])
    fedpipe_runner.main()
    return json.loads(capfd.readouterr().out.splitlines()[-1])


def test_the_runner_understands_the_command_line_by_which_checkouts_are_compared(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    for engine in ("threads", "processes"):
        options = "--rounds", "3", "--workers", "2", *against.ENGINES[engine]
        report = reported(data_folder, monkeypatch, capfd, *options)
        assert (report["examples"], len(report["rounds_s"])) == (600, 2)


def test_the_runner_trains_on_two_nodes_of_ray(
    data_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    options = "--rounds", "1", "--workers", "2", *against.ENGINES["ray, 2 nodes"]
    assert reported(data_folder, monkeypatch, capfd, *options)["examples"] == 600


def test_speed_is_compared_with_before_and_with_processes():
    rows = [
        {"workload": "tiny", "engine": "processes", "examples_per_s_before": 100, "examples_per_s_after": 300},
        {"workload": "tiny", "engine": "ray", "examples_per_s_before": 80, "examples_per_s_after": 270},
        {"workload": "tiny", "engine": "ray, 2 nodes", "examples_per_s_after": 240},  # before had no such engine
        {"workload": "mlp", "engine": "ray", "examples_per_s_before": 80, "examples_per_s_after": 40},
    ]
    table = against.with_ratios(rows)
    nan = float("nan")
    assert table["ratio"].tolist() == pytest.approx([3.0, 3.375, nan, 0.5], nan_ok=True)
    assert table["of_processes_before"].tolist() == pytest.approx([1.0, 0.8, nan, nan], nan_ok=True)
    assert table["of_processes_after"].tolist() == pytest.approx([1.0, 0.9, 0.8, nan], nan_ok=True)


def test_the_comparison_of_checkouts_has_a_line_for_each_engine():
    """Within 100 columns, and a dash for what only one checkout can do."""
    slow = REPORT | {"rounds_s": [0.01], "first_round_s": 123.4, "peak_mb": 12_345}
    rows = [
        against._row(WORKLOADS["mlp"], engine, {"before": [slow], "after": [slow]})
        for engine in ("threads", "processes", "ray")
    ]
    rows.append(against._row(WORKLOADS["mlp"], "ray, 2 nodes", {"after": [slow]}))
    table = against.with_ratios(rows).assign(commit_before="0123456789", commit_after="0123456789-dirty")
    text = against.as_markdown(table)
    assert "| mlp | ray | 600,000 → 600,000 | 1.00 | 123.4 → 123.4 | 12,345 → 12,345 | 1.00 → 1.00 |" in text
    assert "| mlp | ray, 2 nodes | - → 600,000 | - | - → 123.4 | - → 12,345 | - → 1.00 |" in text
    assert max(map(len, text.splitlines())) <= 100


def test_only_a_checkout_is_compared_with(tmp_path: Path):
    with pytest.raises(UserError, match="no checkout of fedpipe"):
        against.measure(tmp_path, ["tiny"], ["threads"], 1, 1, tmp_path)


def test_the_populations_and_cohorts_of_the_scale():
    assert [case.clients for case in scale.CASES if case.cohort == 100] == [100, 1_000, 10_000, 100_000]
    assert {1_000, 10_000} < {case.cohort for case in scale.CASES}
    assert all(case.cohort <= case.clients and case.rounds > 1 for case in scale.CASES)


def test_the_table_of_the_scale_compares_the_time_of_a_client():
    """Within 100 columns."""
    large, small = scale.Case(100_000, 10_000, 3), scale.Case(100, 100, 3)
    reports = {
        small: {"examples": 1_000, "rounds_s": [0.1, 0.3, 0.2], "first_round_s": 1.5, "peak_mb": 500},
        large: {"examples": 100_000, "rounds_s": [30.0], "first_round_s": 31.0, "peak_mb": 1500},
    }
    made = {"files": 1_001, "partition_s": 12.3, "dvc_s": 12.3}
    rows = [made | {"clients": case.clients} | scale.summary(case, [reports[case]] * 2) for case in reports]
    text = scale.as_markdown(scale.with_ratios(pd.DataFrame(rows)), "fedavg")
    assert "| 100 | 100 | 1,001 | 12.3 s | 12.3 s | 1.5 s | 200 ms | 500 | 1.00 | 500 |" in text
    assert "| 100,000 | 10,000 | 1,001 | 12.3 s | 12.3 s | 31.0 s | 30,000 ms | 333 | 1.50 | 1,500 |" in text
    assert max(map(len, text.splitlines())) <= 100
    with pytest.raises(RuntimeError, match="990 examples a round"):
        scale.summary(small, [reports[small] | {"examples": 990}])


@pytest.mark.parametrize("leaving", ["before", "after"])
def test_the_row_of_a_secure_aggregation_holds_what_a_client_sends_and_receives(leaving: str):
    """Besides headers, of at most 300 bytes for each of its messages."""
    row = secure._row(10, 1000, leaving)
    keys, ciphertexts, shares = 64, 9 * 84, 10 * 34
    assert 0 < row["bytes_up"] - (keys + ciphertexts + 8 * 1000 + shares) < 4 * 300
    requests = 10 * (4 + 32) + 10 * (4 + 32) + 10 * (4 + 32) + 9 * 84
    assert 0 < row["bytes_down"] - requests < 3 * 500
    assert "| 10 | 1,000 | " + leaving + " masking |" in secure.as_markdown(pd.DataFrame([row]))


def test_a_secure_aggregation_whose_sum_is_another_one_is_no_measurement(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(secure.SecureServer, "unmasked", lambda self, total, *others: total)
    with pytest.raises(RuntimeError, match="10 clients, 5 numbers: the sum is another one"):
        secure._row(10, 5, "after")


def test_each_piece_of_a_round_is_timed():
    """Those of every table but strategies, and none that there is not."""
    timed = defaultdict[str, set[str]](set)
    for changes in pieces.PIECES.values():
        Federated.model_validate({"clients_per_round": 40, "evaluate_clients": False, **changes})
        for table in ("aggregation", "mixing", "attack", "compression", "privacy", "secure_aggregation"):
            timed[table].add(changes.get(table, Federated.model_fields[table].default))
    tables = {
        "aggregation": AGGREGATORS, "mixing": MIXINGS, "attack": ATTACKS, "compression": COMPRESSIONS,
        "privacy": MECHANISMS, "secure_aggregation": PROTOCOLS,
    }  # fmt: skip
    assert timed == {name: set(table) for name, table in tables.items()}


def test_the_table_of_pieces_compares_with_the_plain_mean():
    table = pd.DataFrame({"piece": ["mean", "median"], "seconds": [0.5, 1.25], "ratio": [1.0, 2.5]})
    assert "| median | 1,250 | 2.50 |" in pieces.as_markdown(table)


def test_an_audits_table_has_a_line_for_each_population_and_promise():
    table = pd.DataFrame(
        {"clients": clients, "promised": epsilon, "seed": seed, "guesses": 100, "correct": 60 + seed,
         "lower_bound": seed / 10}
        for clients in (1000, 10_000) for epsilon in (None, 8.0, 3.0, 1.0) for seed in (1, 2, 3)
    )  # fmt: skip
    lines = audit.as_markdown(table).splitlines()
    assert lines[2] == "| 1,000 | none | 100 | 61.0%, 62.0%, 63.0% | 0.10, 0.20, 0.30 |"
    assert lines[-1].startswith("| 10,000 | 1 |")
    assert len(lines) == 10
