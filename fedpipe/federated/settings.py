"""The parameters of federated training: block `federated` of params.yaml."""

from collections.abc import Iterator
from functools import partial
from typing import Annotated, Literal, Self, cast

from pydantic import AfterValidator, Field, model_validator

from fedpipe.config.section import OnDivergence, PositiveInt, Section, choice, or_own, own_names, with_blocks
from fedpipe.federated.aggregation import AGGREGATORS
from fedpipe.federated.aggregation.base import Aggregator
from fedpipe.federated.aggregation.clipping import NormBounding
from fedpipe.federated.aggregation.mean import Mean
from fedpipe.federated.attacks import ATTACKS
from fedpipe.federated.attacks.base import Attack, attackers
from fedpipe.federated.compression import COMPRESSIONS, COMPRESSIONS_DOWN, ENTROPY_CODINGS
from fedpipe.federated.compression.base import Compression
from fedpipe.federated.compression.down import DownLink
from fedpipe.federated.compression.entropy import EntropyCoding
from fedpipe.federated.context import LocalTraining
from fedpipe.federated.mechanisms import MECHANISMS
from fedpipe.federated.mechanisms.base import Guarantee, Mechanism
from fedpipe.federated.mixing import MIXINGS
from fedpipe.federated.mixing.base import Mixed, Mixing
from fedpipe.federated.sampling import Sampling
from fedpipe.federated.secure import PROTOCOLS
from fedpipe.federated.secure.base import SecureAggregation
from fedpipe.federated.state import ServerState
from fedpipe.federated.strategies import STRATEGIES
from fedpipe.federated.strategies.base import Strategy
from fedpipe.federated.transforms import TRANSFORMS
from fedpipe.federated.transforms.base import Chain, Transform

LARGEST_COHORT = 10_000  # that is proposed
SURELY_TWO = 32  # average size of Poisson cohorts of which less than one in 10**12 has fewer than two clients


def _transforms(value: str) -> str:
    names = transform_names(value)
    known = ", ".join(TRANSFORMS)
    if set(names) - set(TRANSFORMS):
        raise ValueError(f"must be none, or some of {known} joined with +")
    if len(set(names)) < len(names):
        raise ValueError("names a transform twice")
    return value


def transform_names(value: str) -> list[str]:
    """Return the transforms that `federated.transforms` names, in order."""
    return [] if value == "none" else value.split("+")


@own_names("transforms", Transform, TRANSFORMS)
@choice("attack", ATTACKS, Attack)
@choice("secure_aggregation", PROTOCOLS, SecureAggregation)
@choice("privacy", MECHANISMS, Mechanism)
@choice("entropy_coding", ENTROPY_CODINGS, EntropyCoding)
@choice("compression_down", COMPRESSIONS_DOWN, Compression)
@choice("compression", COMPRESSIONS, Compression)
@with_blocks(TRANSFORMS)
@choice("mixing", MIXINGS, Mixing)
@choice("aggregation", AGGREGATORS, Aggregator)
@choice("strategy", STRATEGIES, Strategy)
class Federated(Sampling):
    """Train a model by federated rounds."""

    rounds: PositiveInt = Field(
        default=5, description="Number of rounds, at most; target_accuracy and patience stop earlier."
    )
    strategy: str = Field(
        default="fedavg",
        description="The federated algorithm; docs/algorithms describes each. With fedsgd only lr, lr_decay, "
        "weight_decay and clip_norm of `local` count.",
    )
    aggregation: str = Field(
        default="mean",
        description="How the updates of a round become one; docs/robustness.md describes each. mean and norm-bounding "
        "weigh the updates by `objective`; all others count each the same.",
    )
    mixing: str = Field(
        default="none",
        description="How updates are made more alike before the aggregation, if that is one that sees every update: "
        "neither mean nor norm-bounding.",
    )
    transforms: Annotated[str, AfterValidator(_transforms), *or_own(Transform, several=True)] = Field(
        default="none",
        description="What happens to updates between training and the aggregation: none, or transforms joined with +, "
        f"in the order in which a client applies them. Transforms: {', '.join(TRANSFORMS)}.",
    )
    compression: str = Field(
        default="none",
        description="How clients encode their updates, to send fewer bytes; docs/communication.md describes each. What "
        "strategies send besides, and buffers, are sent as they are.",
    )
    compression_down: str = Field(
        default="none",
        description="Likewise, how the server encodes its model for the clients. They train from what they receive.",
    )
    entropy_coding: str = Field(
        default="none",
        description="With zlib, what is encoded is deflated too, in both directions, and so is what no compression "
        "encodes. Nothing is lost by that.",
    )
    privacy: str = Field(
        default="none", description="The mechanism of differential privacy by which clients are protected."
    )
    secure_aggregation: str = Field(
        default="none", description="The protocol by which the server learns the sum of the updates and no single one."
    )
    attack: str = Field(default="none", description="What hostile clients do.")
    attackers: Annotated[float, Field(ge=0, le=1)] = Field(
        default=0.2,
        description="The fraction of all clients that are hostile, if there is an attack; chance decides which.",
    )
    local: LocalTraining = Field(
        default=LocalTraining(),
        description="What a client does with the server's model, on its own examples. Every client starts its "
        "optimiser afresh in every round. The reference has the learning rate 5e-5, with which it does not reach its "
        "own published result in 5 rounds; 1e-3 does.",
    )
    target_accuracy: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="Training stops at this accuracy on validation data (download.validation) or, where there are "
        "none, on the test set, whose accuracy is then no longer an unbiased estimate. The result is the last model. "
        "null sets no target.",
    )
    patience: PositiveInt | None = Field(
        default=None,
        description="Training stops after this many evaluations in a row without a lower loss, on the same data as "
        "target_accuracy goes by. The result is the last model. null sets no limit.",
    )
    on_bad_update: Literal["refuse", "stop"] = Field(
        default="refuse",
        description="What happens to an update with a number that is not finite, or too large to be summed exactly: "
        "refuse leaves it out of the round, stop ends training with an error.",
    )
    on_divergence: OnDivergence = "stop"
    evaluate_every: PositiveInt = Field(
        default=1,
        description="Rounds from one evaluation to the next, on validation data or, where there are none, on the test "
        "set; the last round is always evaluated.",
    )
    evaluate_clients: bool = Field(
        default=True,
        description="Whether clients evaluate models on their own examples: each its trained model, in every round "
        "(federated/clients.csv), and all of them the last model, on what they hold out (federated/holdout.csv).",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.min_updates > self.clients_per_round:
            raise ValueError(f"min_updates: {self.min_updates} exceeds clients_per_round = {self.clients_per_round}")
        if self.stragglers and self.local_training.epochs == 1:
            raise ValueError(
                f"stragglers: {self.stragglers:g}: they train fewer local epochs than the others, and these train 1; "
                "a larger local.epochs, and a strategy other than fedsgd, would do"
            )
        broken = self.algorithm.transforms_break
        for name, value in {"transforms": self.transforms, "compression": self.compression}.items():
            if broken and value != "none":
                raise ValueError(f"{name}: {value} does not go with strategy {self.strategy}: {broken}")
        if self.mechanism.is_private and (voiding := [*self._voids_privacy()]):
            raise ValueError("\n".join(voiding))
        if self.protocol.hides_updates and (seen := [*self._needs_updates()]):
            raise ValueError("\n".join(seen))
        self._check_aggregation()
        return self

    def _voids_privacy(self) -> Iterator[str]:
        """Yield a line for each parameter with which the privacy mechanism promises nothing, and why."""
        refused = partial(self._refused, f"privacy {self.privacy}")
        needed = self.mechanism.sampling
        if self.sampling != needed:
            yield refused("sampling", f"its epsilon holds if {self.mechanism.draws}", needed)
        if self.objective != "clients":
            yield refused("objective", "an update would count by how many examples its client has", "clients")
        aggregator = self.chosen("aggregation", Aggregator)
        if isinstance(aggregator, NormBounding):
            yield refused("aggregation", f"{self.privacy}.clip bounds updates already", "mean")
        elif not isinstance(aggregator, Mean):
            yield refused("aggregation", "how far a client moves it has no bound that noise could hide", "mean")
        if self.algorithm.sends_besides:
            reason = f"clients also send {self.algorithm.sends_besides}, which nothing bounds and no noise hides"
            yield refused("strategy", reason, "fedavg")
        if self.hostility.colludes:
            reason = "attackers send on what they see of other clients, beyond the bound of one"
            yield refused("attack", reason, "none")
        if self.min_updates > 1:
            yield refused("min_updates", "a round that is skipped tells how many clients were drawn", "1")
        if self.evaluate_clients:
            yield refused("evaluate_clients", "clients would report on themselves", "false")
        if self.on_bad_update == "stop":
            yield refused("on_bad_update", "training that ends would tell of one client", "refuse")
        for early in ("target_accuracy", "patience"):
            if getattr(self, early) is not None:
                yield refused(early, "no epsilon accounts for the data by which training stops", "null")

    def _needs_updates(self) -> Iterator[str]:
        """Yield a line for each parameter that needs more than the sum of the updates, all that the server has."""
        refused = partial(self._refused, f"secure_aggregation {self.secure_aggregation}")
        if not (self.chosen("aggregation", Aggregator).maskable and self.aggregator.maskable):
            yield refused("aggregation", "it needs each update", "mean")
        if self.algorithm.sends_scalars:
            reason = f"{self.algorithm.sends_besides} are fractions of any length in the sum, and masks are not"
            yield refused("strategy", reason, "fedavg")
        if self.compression != "none":
            yield refused("compression", "masked numbers are random, so that nothing can be left out of them", "none")
        if self.hostility.colludes:
            yield refused("attack", "its attackers go by updates that they could not see", "sign-flip")
        if self.evaluate_clients:
            yield refused("evaluate_clients", "what each client reports would tell what masks hide", "false")
        if self.on_bad_update == "stop":
            yield refused("on_bad_update", "only its client can tell a bad update, and does not send it", "refuse")
        if self.clients_per_round == 1:
            yield refused("clients_per_round", "the sum of one update is that update", "2")
        if self.mechanism.is_private and (self.dropout or self.protocol.loses_clients):
            reason = "where clients drop out, a skipped round tells who took part, for which no epsilon accounts"
            yield refused("privacy", reason, "a dropout and a dropout_after of 0")
        if self.mechanism.is_private and self.sampling == "poisson" and self.clients_per_round < SURELY_TWO:
            reason = f"with privacy {self.privacy}, a cohort of one, whose round is skipped, must be all but impossible"
            yield refused("clients_per_round", reason, str(SURELY_TWO))

    def _refused(self, piece: str, parameter: str, reason: str, remedy: str) -> str:
        """Say why the value of a parameter does not go with a piece, and what would."""
        value = getattr(self, parameter)
        shown = str(value).lower() if isinstance(value, bool) else value
        return f"{parameter}: {shown} does not go with {piece}: {reason}; {remedy} would do"

    def _check_aggregation(self) -> None:
        chosen = self.chosen("aggregation", Aggregator)
        besides = self.algorithm.sends_besides
        if self.mixing != "none" and not chosen.collects:
            raise ValueError(
                f"mixing: {self.mixing} needs each update by itself, and aggregation {self.aggregation} sees the sum "
                "alone; aggregation median would do"
            )
        if chosen.robust and besides:
            raise ValueError(
                f"aggregation: {self.aggregation} does not go with strategy {self.strategy}, whose clients also send "
                f"{besides}, where hostile ones could send anything; strategy fedavg, or aggregation mean, would do"
            )
        aggregator, cohort = self.aggregator, self.clients_per_round
        if not aggregator.enough(cohort):
            enough = next((f"{n} or " for n in range(cohort, LARGEST_COHORT) if aggregator.enough(n)), "")
            name = self.mixing if chosen.enough(cohort) else self.aggregation
            raise ValueError(
                f"clients_per_round: {cohort} is too few for {name} to bear so large a fraction of hostile updates; "
                f"{enough}a smaller {name}.hostile would do"
            )

    def chosen_names(self) -> set[str]:
        names = transform_names(self.transforms) if isinstance(self.transforms, str) else []
        return super().chosen_names() | set(names)

    @property
    def algorithm(self) -> Strategy:
        return self.chosen("strategy", Strategy)

    @property
    def aggregator(self) -> Aggregator:
        """The aggregator, of mixed updates if they are mixed, as the privacy mechanism has it."""
        chosen = self.chosen("aggregation", Aggregator)
        if self.mixing != "none":
            chosen = Mixed(aggregator=chosen, mixing=self.mixer)
        return self.mechanism.aggregator(chosen, self.clients_per_round, self.rounds)

    @property
    def mixer(self) -> Mixing:
        """How updates are mixed."""
        return self.chosen("mixing", Mixing)

    @property
    def mechanism(self) -> Mechanism:
        """The mechanism of differential privacy."""
        return self.chosen("privacy", Mechanism)

    def guarantee(self, clients: int) -> Guarantee | None:
        """Return what so many clients are promised; None if nothing.

        Raises:
            ParameterError: the promise cannot be kept.
        """
        planned = clients, self.clients_per_round, self.rounds
        self.mechanism.check(*planned)
        return self.mechanism.guarantee(*planned)

    @property
    def protocol(self) -> SecureAggregation:
        """The protocol of secure aggregation."""
        return self.chosen("secure_aggregation", SecureAggregation)

    @property
    def hostility(self) -> Attack:
        """What hostile clients do."""
        return self.chosen("attack", Attack)

    def hostile(self, seed: int, clients: int) -> frozenset[int]:
        """Return the hostile ones among the clients of an experiment with this seed."""
        return attackers(seed, clients, self.attackers) if self.is_attacked else frozenset()

    @property
    def is_attacked(self) -> bool:
        """Whether hostile clients do anything that honest ones do not."""
        return self.attack != "none"

    @property
    def reports(self) -> bool:
        """Whether clients tell how their own training went."""
        return not (self.mechanism.is_private or self.protocol.hides_updates)

    @property
    def chain(self) -> Chain:
        """The transforms, in the order in which a client applies them; compression and entropy coding are the last."""
        given = cast("str | tuple[Transform, ...]", self.transforms)
        if isinstance(given, str):
            chosen = {name: self.entry(name, TRANSFORMS, Transform) for name in transform_names(self.transforms)}
        else:
            chosen = {type(transform).__name__: transform for transform in given}
        if self.compression != "none" or self.entropy_coding != "none":
            chosen["compression"] = self.chosen("compression", Compression)
        if self.entropy_coding != "none":
            chosen["entropy coding"] = self.chosen("entropy_coding", EntropyCoding)
        return Chain(chosen)

    @property
    def down_link(self) -> DownLink:
        """How the server encodes its model."""
        compression = self.chosen("compression_down", Compression).down()
        return DownLink(compression, self.chosen("entropy_coding", EntropyCoding))

    @property
    def local_training(self) -> LocalTraining:
        """How clients train, as the strategy has it."""
        return self.algorithm.local_training(self.local)

    @property
    def pieces(self) -> list[Section]:
        """All objects that the round is made of."""
        chosen = self.algorithm, self.aggregator, self.mixer, self.mechanism, self.protocol, self.hostility
        link = self.down_link.compression, self.down_link.coding
        return [self.chosen("aggregation", Aggregator), *chosen, *link, *self.chain.transforms.values()]

    @property
    def has_client_state(self) -> bool:
        """Whether clients remember anything from round to round."""
        transforms = self.chain.transforms.values()
        return self.algorithm.has_client_state or any(transform.has_client_state for transform in transforms)

    def is_over(self, state: ServerState) -> bool:
        """Tell whether all rounds are done, or training stops early."""
        return (
            state.round >= self.rounds
            or (state.diverged and self.on_divergence == "stop")
            or (self.target_accuracy is not None and state.accuracy >= self.target_accuracy)
            or (self.patience is not None and state.evaluations_since_best >= self.patience)
        )
