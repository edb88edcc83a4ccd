"""What a run does not show: by rules, each of which looks at the run and says in a sentence why.

A new rule is a function with the decorator that gives it a title.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from fedpipe.results.comparison import CENTRALISED, FEDERATED, LOCAL
from fedpipe.results.run import Run
from fedpipe.results.wording import counted

FEW_CLIENTS = 20
ENOUGH = 3  # seeds, for an interval
STOPPING = "federated.target_accuracy", "federated.patience"
NORMAL = 1.96  # standard deviations on either side of the mean hold 95 % of a normal distribution
NAMES = {FEDERATED: "federated training", CENTRALISED: "centralised training", LOCAL: "training alone"}


@dataclass(frozen=True)
class Limit:
    """Say one thing that a run does not show, and why."""

    name: str  # of the rule
    title: str  # what is not shown, in a few words
    sentence: str  # why


Rule = Callable[[Run], str | None]
RULES: list[tuple[str, Rule]] = []  # titles and rules, in the order of this file


def limits(run: Run) -> list[Limit]:
    """Return what a run does not show."""
    found = ((title, rule, rule(run)) for title, rule in RULES)
    return [Limit(rule.__name__, title, sentence) for title, rule, sentence in found if sentence]


def _not_shown(title: str) -> Callable[[Rule], Rule]:
    """Make a function a rule, which returns a sentence if the run does not show what the title says, else None."""

    def register(rule: Rule) -> Rule:
        RULES.append((title, rule))
        return rule

    return register


def chance(examples: int, *accuracies: float) -> float:
    """Return by how much the accuracies of two models of equal quality may differ by chance.

    Args:
        examples: that each is tested on.
        accuracies: of the two.

    Returns:
        A fraction: half the width of the 95 % interval of a difference of two proportions, by the normal distribution.
        Where both are tested on the same examples, the true one is smaller.
    """
    return NORMAL * math.sqrt(sum(accuracy * (1 - accuracy) for accuracy in accuracies) / max(1, examples))


@_not_shown("How far chance goes")
def few_seeds(run: Run) -> str | None:
    """Another seed draws other clients, orders of examples and initial models."""
    if run.seeds >= ENOUGH:
        return None
    if run.seeds > 1:
        return (
            f"There are {run.seeds} seeds, too few for an interval. Three give one, and five one that is of use: "
            "dvc exp run -S seed=1,2,3,4,5 --queue."
        )
    seed = f"seed {run.parameters['seed']}" if "seed" in run.parameters else "one seed"
    return (
        f"This is one run, with {seed}. Another seed draws other cohorts and another initial model, and would come to "
        "another result; how far away, one run cannot tell. dvc exp run -S seed=1 makes another run."
    )


@_not_shown("A result on the whole data set")
def sample(run: Run) -> str | None:
    """A sample stood in for the data set."""
    if not run.is_sample:
        return None
    return (
        f"No mirror of the data set answered, so that a sample stood in for it: {run.dataset}, tested on "
        f"{run.test_examples:,} images. These are no results on the whole data set, and compare with none."
    )


@_not_shown("What a method that diverged can reach")
def diverged(run: Run) -> str | None:
    """A training diverged."""
    if not run.diverged:
        return None
    who = [
        f"{counted(run.figures[LOCAL]['clients_diverged'], 'client')} alone" if method == LOCAL else NAMES[method]
        for method in run.diverged
    ]
    return (
        f"The loss of {' and of '.join(who)} diverged. What is shown of it is where it stopped, not what the method "
        "can reach: with a smaller learning rate or a bound on gradients it may do well."
    )


@_not_shown("Accuracy on new data")
def test_set_decides(run: Run) -> str | None:
    """The test set decided when training stops."""
    if run.evaluated_on != "test":
        return None
    stopping = [name for name in STOPPING if run.parameters.get(name) is not None]
    if not stopping:
        return None
    return (
        f"There are no validation data, and {' and '.join(stopping)} stopped training by the accuracy on the test set. "
        "The accuracy reported is therefore better than on new data. download.validation=0.1 sets data aside for this."
    )


@_not_shown("Which parameters are best")
def test_set_seen(run: Run) -> str | None:
    """The test set was seen all along, so that who chooses by it has no data left to judge the choice."""
    if run.evaluated_on != "test" or test_set_decides(run):
        return None
    return (
        "There are no validation data: the curves are on the test set. Who chooses parameters by them has no data left "
        "to judge the choice on. download.validation=0.1 sets data aside for choosing."
    )


@_not_shown("Which of two close methods is better")
def small_difference(run: Run) -> str | None:
    """The test set is too small for the difference between the methods."""
    if {FEDERATED, CENTRALISED} & {*run.diverged}:
        return None
    accuracies = run.accuracy(FEDERATED), run.accuracy(CENTRALISED)
    gap, by_chance = abs(accuracies[0] - accuracies[1]), chance(run.test_examples, *accuracies)
    if gap > by_chance:
        return None
    return (
        f"Federated and centralised accuracy differ by {100 * gap:.2f} points. With {run.test_examples:,} test images, "
        f"{100 * by_chance:.2f} points may be chance: which of the two is better is not known."
    )


@_not_shown("What equal work comes to")
def unequal_cost(run: Run) -> str | None:
    """The methods trained on different numbers of examples."""
    federated, centralised = (run.figures[method]["examples_processed"] for method in (FEDERATED, CENTRALISED))
    if not federated or not centralised or 1 / 1.1 <= federated / centralised <= 1.1:
        return None
    return (
        f"Federated training processed {federated:,} examples, centralised training {centralised:,}: not equally many. "
        "Which method gets further with the same work, only the curves over examples tell."
    )


@_not_shown("What many clients come to")
def few_clients(run: Run) -> str | None:
    """There are few clients."""
    if run.population >= FEW_CLIENTS:
        return None
    return (
        f"There are {run.population} clients. With hundreds or millions of them, each has fewer examples and is drawn "
        "seldom, and methods may rank otherwise."
    )


@_not_shown("Clients that differ")
def iid_only(run: Run) -> str | None:
    """All clients have data alike."""
    scheme = str(run.parameters.get("partition.scheme", ""))
    if scheme != "iid":
        return None
    return (
        "Each client's examples are a random part of the whole. Real clients differ, which is what makes federated "
        "learning hard: dvc exp run -S partition.scheme=dirichlet shows it."
    )


@_not_shown("What clients who were never drawn know")
def never_drawn(run: Run) -> str | None:
    """Some clients never took part."""
    if run.is_private:
        return None
    missing = run.population - len(run.drawn)
    if missing <= 0:
        return None
    return (
        f"{counted(missing, 'client')} of {run.population:,} {'was' if missing == 1 else 'were'} never drawn in "
        f"{counted(len(run.rounds), 'round')}: the model has learnt nothing from {'its' if missing == 1 else 'their'} "
        "examples."
    )


@_not_shown("What lost updates would have changed")
def not_all_counted(run: Run) -> str | None:
    """Updates were refused or lost, or rounds skipped."""
    refused, lost, dropped = (int(run.counted(what).sum()) for what in ("refused", "lost", "dropped"))
    skipped = sum(run.rounds["skipped"])
    if not (refused or lost or dropped or skipped):
        return None
    told = [
        f"{counted(number, 'update')} {verb}"
        for number, verb in ((refused, "refused"), (lost, "lost"), (dropped, "dropped by the simulation"))
        if number
    ]
    if skipped:
        told.append(f"{counted(skipped, 'round')} skipped")
    return (
        f"Not all that clients sent was used: {', '.join(told)}. If these clients' data differ from the others', the "
        "model is biased against them."
    )


@_not_shown("Each client's gain")
def few_alone(run: Run) -> str | None:
    """Not every client trained alone."""
    alone = int(run.figures[LOCAL]["clients"])
    if alone >= run.population:
        return None
    return (
        f"{alone:,} of {run.population:,} clients, drawn at random, trained alone: who gains is known of these, and of "
        "the others by inference."
    )


@_not_shown("Accuracy on a client's own new data")
def no_holdout(run: Run) -> str | None:
    """Clients hold no examples out, so that their accuracy on data of their own is an estimate."""
    if run.figures["partition"].get("held_out"):
        return None
    return (
        "No client holds examples out. How well a model serves a client is estimated from the test set, weighted by "
        "the client's labels, which is right only where clients differ in their labels alone; partition.holdout=0.2 "
        "measures it."
    )


@_not_shown("Other attacks")
def attackers_known(run: Run) -> str | None:
    """The attack is one that is known, and does not adapt."""
    if not run.is_attacked:
        return None
    return (
        "The attackers do what one known attack prescribes. One who knows the defence and adapts to it may do more "
        "harm; withstanding this attack proves nothing about others."
    )


@_not_shown("Privacy beyond its conditions")
def promise_conditions(run: Run) -> str | None:
    """A promise of privacy holds under conditions."""
    if not run.is_private:
        return None
    return (
        "Epsilon bounds what the models tell of a client, if the server keeps updates and cohorts to itself, and "
        "nobody knows the seed that the noise is drawn from. What was learnt by choosing parameters on these data is "
        "not in it."
    )


@_not_shown("Real networks and devices")
def simulated(run: Run) -> str | None:
    """Clients are simulated."""
    return (
        "Clients were simulated on the machines that trained. Nothing here tells how long training takes over real "
        "networks, or who of real people's devices would take part."
    )
