"""What federated training leaks to one kind of attacker, by every attack that it can make."""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from attacks.cases import by_shadows
from attacks.federated import ATTACKS
from attacks.federated.convergence import over_rounds, over_shadows
from attacks.federated.curves import Curves, find_curves
from attacks.federated.measures import (
    estimate_tail,
    measure_against_peers,
    measure_auc,
    measure_clients,
    score_classes,
)
from attacks.federated.reference import FEWEST_OUT
from attacks.federated.source import infer_source, measure_source
from attacks.federated.view import FEWEST_CLIENTS, Threat, View, make_view, threats_to
from attacks.game import Game
from attacks.metrics.differences import Difference, Outcome, paired_differences
from attacks.metrics.intervals import Estimate, two_way
from attacks.metrics.measures import RATES, Measured, Metric
from attacks.rounds import NOBODY, SIGNALS, RoundSignal
from attacks.shadow_halves import is_round_robin

Known = Literal["none", "peers", "matched", "other"]


class FederatedRow(NamedTuple):
    """What one attack finds.

    Attributes:
        attack: its name in `ATTACKS`.
        knowledge: what the attacker compares with; `other` are shadows of another experiment.
        auc: mean over federations of the mean over their clients.
        tpr_1pct: the same of the TPR at 1% FPR.
        tpr_01pct: the same at 0.1%.
        peers: AUC of a client's members against those of other clients; None where an attacker sees
            no client.
        by_class: AUC where each example has the mean score of its class: what the classes that a
            client holds tell; None where no client is seen, or classes are unknown.
        by_federation: the metrics of each audited federation.
    """

    attack: str
    knowledge: Known
    auc: Estimate
    tpr_1pct: Estimate
    tpr_01pct: Estimate
    peers: Estimate | None
    by_class: Estimate | None
    by_federation: dict[Metric, list[float]]


class FederatedLeak(NamedTuple):
    """What one kind of attacker finds.

    Attributes:
        threat: what it sees.
        rows: every attack.
        rounds: number of rounds done at the end of each recorded round.
        federations: number of audited federations.
        clients: number of clients of each.
        shadows: number of shadow federations against each.
        non_members: examples that nobody holds, fewest of any federation.
        false_positives: how many non-members each TPR accuses, over all federations.
        convergence: AUC of the strongest attack by how many rounds are done when it is made.
        curves: where members and non-members stand, by signal; empty with too few shadows.
        source: share of members whose client a signal names; empty where no client is seen.
        gains: how much more each attack finds with matched shadows than with those of another
            experiment, and `strongest` the strongest of each; empty without the latter.
        left_out: attacks that cannot be made here, and why, one sentence each.
        adversary: what a malicious attacker did in training, `isolate` or `ascent`; None for one
            that only looks.
        by_shadows: AUC of the strongest attack with matched shadows by how many there are; None if
            there is none, or in results from before.
    """

    threat: Threat
    rows: list[FederatedRow]
    rounds: list[int]
    federations: int
    clients: int
    shadows: int
    non_members: int
    false_positives: dict[Metric, int]
    convergence: dict[int, Estimate]
    curves: dict[RoundSignal, Curves]
    source: dict[RoundSignal, Estimate]
    gains: dict[str, Difference]
    left_out: list[str]
    adversary: str | None = None
    by_shadows: dict[int, Estimate] | None = None

    def strongest(self, *kinds: Known, metric: Metric = "auc") -> FederatedRow | None:
        """The strongest attack with some kinds of knowledge; all if none is named."""
        rows = [row for row in self.rows if not kinds or row.knowledge in kinds]
        return max(rows, key=lambda row: getattr(row, metric).value, default=None)


def find_federated_leak(game: Game, threat: Threat) -> FederatedLeak | None:
    """Attack every audited federation; None where no such attacker is, or no federation."""
    if game.rounds is None or threat not in threats_to(game.rounds):
        return None
    cases, view = game.cases, make_view(game.rounds, threat)
    known: dict[Known, View] = {"matched": view}
    if game.other_rounds is not None and threat in threats_to(game.other_rounds):
        known["other"] = make_view(game.other_rounds, threat)
    left_out, names = _choose(game, view, threat)
    few = {kind for kind, seen in known.items() if _fewest_clients(game, seen) < FEWEST_CLIENTS}
    holder = view.holder[[case.target for case in cases]]
    known_labels = next(iter(game.signals.values())).labels
    labels = None if known_labels is None else known_labels[0].long()
    rows, areas = [], {}
    for name in names:
        for kind in _kinds(name, known, few):
            scores = ATTACKS[name].run(view, known.get(kind, view), cases)
            row, areas[name, kind] = _sum_up(name, kind, scores, holder, labels)
            rows.append(row)
    nobody = (holder == NOBODY).sum(1)
    leak = FederatedLeak(
        threat=threat,
        rows=rows,
        rounds=list(game.rounds.done),
        federations=len(cases),
        clients=game.rounds.uploads["phi"].shape[2],
        shadows=len(cases[0].shadows),
        non_members=int(nobody.min()),
        false_positives={metric: int(fpr * int(nobody.sum())) for metric, fpr in RATES.items()},
        convergence={},
        curves={},
        source=_find_sources(view, game) if threat == "server" else {},
        gains=_find_gains(rows, areas, game),
        left_out=left_out,
        adversary=game.rounds.adversary,
    )
    if any(ATTACKS[name].needs == "shadows" for name in names):
        curves = {name: find_curves(view, view, cases, name) for name in SIGNALS}
        leak = leak._replace(curves=curves)
    return _converge(leak, known, game)


def _kinds(name: str, known: Mapping[Known, View], few: Collection[Known]) -> list[Known]:
    """What an attack is made with; not with shadows of few clients, if it compares these too."""
    needs = ATTACKS[name].needs
    if needs != "shadows":
        return [needs]
    return [kind for kind in known if not (ATTACKS[name].peers and kind in few)]


def _fewest_clients(game: Game, view: View) -> int:
    """The fewest clients in a recorded round of a federation that attacks; 0 without any."""
    shadows = {model for case in game.cases for model in case.shadows}
    return min((int(view.took_part(model).sum(1).min()) for model in shadows), default=0)


def _choose(game: Game, view: View, threat: Threat) -> tuple[list[str], list[str]]:
    """Why attacks cannot be made, and the names of those that can."""
    names, left_out = list(ATTACKS), []
    if threat != "server":  # sees no upload, which is another attacker and nothing left out
        names = [name for name in names if not ATTACKS[name].uses_peers]
    models = {model for case in game.cases for model in (case.target, *case.shadows)}
    fewest = min(int(view.took_part(model).sum(1).min()) for model in models)
    if threat == "server" and fewest < FEWEST_CLIENTS:
        names = [name for name in names if not ATTACKS[name].uses_peers]
        left_out.append(
            "Attacks on rounds that compare a client with its peers were left out: they need "
            f"{FEWEST_CLIENTS} clients in every recorded round, and {fewest} took part in one. "
            "Train with more clients, or raise `--federated.participation`."
        )
    groups = by_shadows(game.cases)
    out = min(int((view.holder[list(group)] == NOBODY).sum(0).min()) for group in groups)
    if out < FEWEST_OUT:
        names = [name for name in names if ATTACKS[name].needs != "shadows"]
        left_out.append(
            f"Attacks on rounds with shadows were left out: they need {FEWEST_OUT} federations in "
            f"which nobody holds a given example, and have {out}. Raise `--fleet.shadows`."
        )
    return left_out, names


def _sum_up(
    name: str,
    kind: Known,
    scores: Float[Tensor, "federations clients examples"],
    holder: Int64[Tensor, "federations examples"],
    labels: Int64[Tensor, " examples"] | None,
) -> tuple[FederatedRow, Measured]:
    measured, peers, by_class = measure_clients(scores, holder), None, None
    if scores.shape[1] > 1:
        peers = two_way(measure_against_peers(scores, holder))
        if labels is not None:
            by_class = two_way(measure_auc(score_classes(scores, holder, labels), holder))
    tails = {metric: estimate_tail(metric, measured[metric], scores, holder) for metric in RATES}
    values = {metric: known.values.tolist() for metric, known in measured.items()}
    row = FederatedRow(
        name,
        kind,
        two_way(measured["auc"]),
        tails["tpr_1pct"],
        tails["tpr_01pct"],
        peers,
        by_class,
        values,
    )
    return row, measured["auc"]


def _find_sources(view: View, game: Game) -> dict[RoundSignal, Estimate]:
    """Share of members whose client is named by phi, and by the cosine."""
    targets = [case.target for case in game.cases]
    holder = view.holder[targets]
    known = torch.stack(
        [
            torch.isin(held, view.took_part(target).any(0).nonzero().flatten())
            for held, target in zip(holder, targets, strict=True)
        ]
    )
    signals: tuple[RoundSignal, ...] = ("phi", "cosine")
    found = {}
    for name in signals:
        series = (view.signals[name][target].double() for target in targets)
        sources = torch.stack([infer_source(signal) for signal in series])
        found[name] = two_way(measure_source(sources, holder, known))
    return found


def _find_gains(
    rows: Sequence[FederatedRow], areas: Mapping[tuple[str, Known], Measured], game: Game
) -> dict[str, Difference]:
    """What matched shadows find beyond another experiment's, target by target."""
    pairs = {name: (name, name) for name, kind in areas if kind == "other"}
    if not pairs:
        return {}
    kinds: tuple[Known, Known] = ("matched", "other")
    matched, other = (
        max((row for row in rows if row.knowledge == kind), key=lambda row: row.auc.value).attack
        for kind in kinds
    )
    pairs["strongest"] = matched, other
    outcomes, compared = {}, []
    for label, attacks in pairs.items():
        ends = f"{label}, matched shadows", f"{label}, another experiment's shadows"
        for end, name, kind in zip(ends, attacks, kinds, strict=True):
            outcomes[end] = Outcome(areas[name, kind], round_robin=is_round_robin(game))
        compared.append(ends)
    return dict(zip(pairs, paired_differences(outcomes, compared), strict=True))


def _converge(leak: FederatedLeak, known: Mapping[Known, View], game: Game) -> FederatedLeak:
    """Add how the strongest attacks grow with the rounds, and with matched shadows."""
    view, cases = known["matched"], game.cases
    if (best := leak.strongest()) is not None:
        shadows = known.get(best.knowledge, view)
        found = over_rounds(ATTACKS[best.attack], view, shadows, cases, leak.rounds)
        leak = leak._replace(convergence=found)
    if (matched := leak.strongest("matched")) is not None:
        found = over_shadows(ATTACKS[matched.attack], view, view, cases)
        leak = leak._replace(by_shadows=found)
    return leak
