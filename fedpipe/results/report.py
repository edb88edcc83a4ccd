"""The page of a run: question, answer, figures, and what the run does not show."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fedpipe.results.charts import charts
from fedpipe.results.comparison import CENTRALISED, FEDERATED, LOCAL
from fedpipe.results.gains import MEASURES
from fedpipe.results.limits import limits
from fedpipe.results.page import render
from fedpipe.results.run import STAGES, Run, output
from fedpipe.results.wording import NOTHING, Table, counted, number, percent, shown

CURVES = "accuracy", "learning_curves", "accuracy_over_megabytes", "loss"
SECTIONS = {
    "curves": "Learning curves",
    "clients-section": "Each client",
    "labels": "Labels",
    "ledger": "Ledger",
    "privacy": "Privacy",
    "communication": "Communication",
    "robustness": "Robustness",
    "parameters": "Parameters",
    "provenance": "Provenance",
    "limits": "What this does not show",
}


@dataclass(frozen=True)
class Fact:
    """Hold a method's result, large."""

    method: str
    value: str
    more: str


def page(run: Run) -> str:
    """Return the page of a run as HTML, in one file that needs no other. Equal runs make equal bytes."""
    drawn = {chart.name: chart for chart in charts(run)}
    compressed = _compression(run)
    there = {
        "privacy": run.is_private,
        "communication": compressed is not None,
        "robustness": run.is_attacked,
    }
    return render(
        "run.html.jinja",
        run=run,
        sections=[(id, name) for id, name in SECTIONS.items() if there.get(id, True)],
        charts=drawn,
        curves=[drawn[name] for name in CURVES if name in drawn],
        question=question(run),
        answer=answer(run),
        facts=list(facts(run)),
        spread=spread_table(run),
        ledger=ledger_table(run),
        privacy=privacy(run) if run.is_private else None,
        compression=compressed,
        robustness=robustness(run) if run.is_attacked else None,
        changed=changed_parameters(run),
        unchanged=unchanged_parameters(run),
        provenance=provenance_tables(run),
        limits=limits(run),
    )


def question(run: Run) -> str:
    """Return what the run was to find out."""
    return (
        f"How good is the model that {counted(run.population, 'client')} train together on {run.dataset} without "
        "giving their data away, beside one that is trained on all the data in one place, and beside a model of each "
        "client's own?"
    )


def answer(run: Run) -> str:
    """Return two sentences, made from the numbers, that answer the question."""
    return f"{_beside_centralised(run)} {_beside_local(run)}"


def _beside_centralised(run: Run) -> str:
    rounds = counted(run.figures[FEDERATED]["rounds"], "round")
    if FEDERATED in run.diverged:
        also = " So did centralised training." if CENTRALISED in run.diverged else ""
        return f"Federated training diverged after {rounds}, so that there is nothing to compare.{also}"
    if run.figures[FEDERATED]["skipped_rounds"] == run.figures[FEDERATED]["rounds"]:
        return f"Federated training skipped all its {rounds}, so that its model is the initial one."
    reached = f"Federated training for {rounds} reaches {_result(run, FEDERATED)} on {_test_set(run)}"
    if CENTRALISED in run.diverged:
        return f"{reached}; centralised training, to which it would be compared, diverged."
    gap = _mean(run, FEDERATED) - _mean(run, CENTRALISED)
    if round(100 * gap, 2) == 0:
        return f"{reached}, as does centralised training ({_result(run, CENTRALISED)})."
    than = "more" if gap > 0 else "less"
    return f"{reached}, {abs(100 * gap):.2f} points {than} than centralised training with {_result(run, CENTRALISED)}."


def _beside_local(run: Run) -> str:
    local = run.figures[LOCAL]
    reach = f"Clients alone reach {_result(run, LOCAL)} in the mean"
    if local["clients_diverged"]:
        reach += f", {local['clients_diverged']:,} of {local['clients']:,} diverged"
    gain = run.figures["comparison"]["mean_gain_points"]
    compared = run.clients.dropna(subset="gain")
    if gain is None or compared.empty or FEDERATED in run.diverged or not run.figures[FEDERATED]["examples_processed"]:
        return f"{reach}."
    gaining = sum(gain > 0 for gain in compared["gain"])
    measure = MEASURES[compared["measure"].iloc[0]]
    here = " in this run" if run.repeats else ""
    return (
        f"{reach}; on {measure}, {gaining:,} of {len(compared):,} gain from federation{here}, and the mean gain is "
        f"{gain:+.2f} points."
    )


def facts(run: Run) -> list[Fact]:
    """Return each method's result."""
    found = []
    for method, name in ((FEDERATED, "Federated"), (CENTRALISED, "Centralised"), (LOCAL, "Local, the mean")):
        repeats = run.repeats.get(method)
        if repeats:
            more = f"mean over {repeats.seeds} seeds"
            if repeats.low is not None and repeats.high is not None:
                more += f", 95 % interval {percent(repeats.low)} to {percent(repeats.high)}"
            found.append(Fact(name, percent(repeats.mean), more))
        else:
            loss = run.loss(method)
            more = "loss no number" if math.isnan(loss) else f"loss {number(loss, 4)}"
            if method in run.diverged:
                more += ", diverged"
            found.append(Fact(name, percent(run.accuracy(method)), more))
    return found


def spread_table(run: Run) -> Table:
    """Return how the accuracies are spread over clients, the worst tenth among it."""
    return Table(
        "How accuracy is spread over clients",
        ["accuracy on", "training", "clients", "mean", "median", "worst tenth", "standard deviation", "Gini"],
        [
            [MEASURES[row["measure"]], row["method"], number(row["clients"]), percent(row["mean"]),
             percent(row["median"]), percent(row["worst_tenth"]), percent(row["std"]), number(row["gini"], 3)]
            for row in run.gains.to_dict("records")
        ],
    )  # fmt: skip


def ledger_table(run: Run) -> Table:
    """Return what became of all updates and rounds."""
    rounds = run.rounds
    asked, dropped, lost, refused = (int(run.counted(what).sum()) for what in ("cohort", "dropped", "lost", "refused"))
    rows = [["rounds", number(len(rounds))], ["rounds skipped, for too few updates", number(rounds["skipped"].sum())]]
    if run.is_private:  # the ledger of a private run tells nobody who took part
        rows.append(["updates", "not told, since clients are promised privacy"])
    else:
        rows += [
            ["updates asked for", number(asked)],
            ["updates refused", number(refused)],
            ["updates lost", number(lost)],
            ["updates dropped by the simulation", number(dropped)],
            ["clients that were drawn at least once", f"{len(run.drawn):,} of {run.population:,}"],
        ]
    rows += [
        ["examples processed", number(run.figures[FEDERATED]["examples_processed"])],
        ["megabytes down", number(run.figures[FEDERATED]["bytes_down"] / 1e6)],
        ["megabytes up", number(run.figures[FEDERATED]["bytes_up"] / 1e6)],
    ]
    return Table("Federated training, all rounds", ["what", "number"], rows)


def privacy(run: Run) -> dict[str, str]:
    """Return what clients are promised, what that means, and what an audit found, a sentence each."""
    figures = run.figures[FEDERATED]
    epsilon, delta = figures["epsilon"], figures["delta"]
    promise = (
        f"Clients are promised epsilon {number(epsilon, 2)} at delta {delta:.2g}, for all rounds together, by "
        f"{run.parameters.get('federated.privacy', 'a mechanism')} with a noise multiplier of "
        f"{number(figures['noise_multiplier'], 2)}."
    )
    if math.isinf(epsilon):
        meaning = "Without noise, nothing is promised: the model may tell anything of a client."
    else:
        # Of two equally likely worlds, e^ε / (1 + e^ε) bounds the chance to guess the right one, beside delta.
        guess = math.exp(min(epsilon, 700)) / (1 + math.exp(min(epsilon, 700)))
        meaning = (
            f"It means: whoever sees the models, and knows all else, guesses whether a client took part with at most "
            f"{guess:.1%} of guesses right, where a coin gives 50 %, but for a chance of {delta:.2g}."
        )
    if run.audit:
        found = run.audit
        audit = (
            f"An attack with {found['canaries']:,} canaries had {found['correct']:,} of {found['guesses']:,} guesses "
            f"right, which proves that epsilon is at least {number(found['lower_bound'], 2)}, with a confidence of "
            f"{found['confidence']:.0%}."
        )
    else:
        audit = "No attack was made on this training; `fedpipe audit --save` makes one, and puts what it finds here."
    return {"promise": promise, "meaning": meaning, "audit": audit}


def robustness(run: Run) -> str:
    """Return who attacked, what defended, and what came of it."""
    figures, used = run.figures[FEDERATED], run.parameters
    attackers = figures.get("attackers")
    told = (
        f"{'Some' if attackers is None else number(attackers)} of {run.population:,} clients are hostile: they attack "
        f"by {used.get('federated.attack', 'an attack')}. Updates are put together by "
        f"{used.get('federated.aggregation', 'an aggregation')}."
    )
    honest, backdoor = figures.get("honest_accuracy"), figures.get("backdoor_success")
    if honest is not None:
        told += f" On what honest clients hold out, the last model has an accuracy of {percent(honest)}."
    if backdoor is not None:
        told += f" The backdoor works on {percent(backdoor)} of the test images that have its trigger."
    return told


def _compression(run: Run) -> Table | None:
    """Return what was sent, if it was compressed."""
    used = {
        way: run.parameters.get(f"federated.{way}") for way in ("compression", "compression_down", "entropy_coding")
    }
    used = {way: name for way, name in used.items() if name not in (None, "none", False)}
    if not used:
        return None
    figures = run.figures[FEDERATED]
    updates = int(run.counted("cohort").sum()) or None
    rows = [[way.replace("_", " "), str(name)] for way, name in used.items()]
    for way in ("down", "up"):
        total = figures[f"bytes_{way}"]
        rows.append([f"megabytes {way}, all rounds", number(total / 1e6)])
        if updates:
            rows.append([f"kilobytes {way} for each client and round", number(total / updates / 1e3)])
    return Table("What was sent", ["what", "value"], rows)


def changed_parameters(run: Run) -> Table:
    """Return the parameters that count and differ from their defaults."""
    rows = [
        [name, shown(value), shown(run.defaults[name]) if name in run.defaults else NOTHING]
        for name, value in run.parameters.items()
        if name not in run.defaults or run.defaults[name] != value
    ]
    return Table("Parameters that differ from their defaults", ["parameter", "value", "default"], rows)


def unchanged_parameters(run: Run) -> Table:
    """Return the other parameters that count."""
    rows = [
        [name, shown(value)]
        for name, value in run.parameters.items()
        if name in run.defaults and run.defaults[name] == value
    ]
    return Table("Parameters at their defaults", ["parameter", "value"], rows)


def provenance_tables(run: Run) -> list[Table]:
    """Return where the results are from: data, code, machine, time."""
    data = [["data set", run.dataset], ["source", str(run.data.get("source", "not here"))]]
    data += [[f"SHA-256 of {name.replace('_', ' ')}", digest] for name, digest in run.data.get("sha256", {}).items()]
    made = {method: run.made(stage) for method, stage in STAGES.items()}
    names = {
        "commit": "git commit", "changed": "differs from the commit", "made": "made", "seconds": "seconds of training",
        "cpu": "CPU type", "device": "device", "torch": "torch", "python": "Python",
    }  # fmt: skip
    machines = [[name, *(_told(made[method], key) for method in STAGES)] for key, name in names.items()]
    locked = [
        [stage, path, digest]
        for stage, path in (
            ("partition", "data/shards"), ("federated", "models/federated.safetensors"),
            ("baseline", "models/baseline.safetensors"), ("local", "reports/local/clients.csv"),
        )
        if (digest := output(run.lock, stage, path))
    ]  # fmt: skip
    locked += [
        [stage, dependency["path"], dependency["md5"]]
        for stage in STAGES.values()
        for dependency in run.lock.get(stage, {}).get("deps", [])
        if dependency.get("path", "").startswith("data/inputs/")
    ]
    return [
        Table("The data", ["what", "value"], data),
        Table("Where and when each training came to these results for the first time", ["what", *STAGES], machines),
        *([Table("MD5 of what went in and came out, by dvc.lock", ["stage", "file", "MD5"], locked)] if locked else []),
    ]


def _told(made: Mapping[str, Any], key: str) -> str:
    value = made.get(key)
    if key == "changed" and value is not None:
        return ", ".join(value) or "nothing: the tree was clean"
    return "not known" if value is None else str(value)


def _mean(run: Run, method: str) -> float:
    return run.repeats[method].mean if method in run.repeats else run.accuracy(method)


def _result(run: Run, method: str) -> str:
    """Return the accuracy of a method, with its interval where there are repeats."""
    repeats = run.repeats.get(method)
    if not repeats:
        return percent(run.accuracy(method))
    if repeats.low is None or repeats.high is None:
        return f"{percent(repeats.mean)} (the mean over {repeats.seeds} seeds)"
    return f"{percent(repeats.mean)} [{100 * repeats.low:.2f}, {100 * repeats.high:.2f}] (over {repeats.seeds} seeds)"


def _test_set(run: Run) -> str:
    return f"the {counted(run.test_examples, 'test image')} of {run.dataset}"
