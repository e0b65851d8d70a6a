"""Made-up federations whose differences are known."""

import pytest

from attacks.evaluate import Row
from attacks.federated.curves import Curves
from attacks.federated.leaks import FederatedLeak, FederatedRow
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate, Summary
from docs.federated.fleets import Fleet, Fleets
from docs.study.numbers import Study
from reporting.results import Results, plain
from storage.borrowed import FACT
from storage.experiment import Experiment
from storage.records import VariantFacts

TARGETS = 8
AUC = [0.70, 0.72, 0.68, 0.71, 0.69, 0.70, 0.73, 0.67]  # by `lda` of full-precision updates
NOISE = [0.001, -0.001, 0.002, -0.002, 0.001, 0.0, -0.002, 0.001]  # adds up to 0
SIZES = {"full": 0, "qsgd-w8": 3, "qsgd-w4": 1, "qsgd-w1.58": -1}  # of each update's noise
BYTES = {"full": 4000, "qsgd-w8": 1000, "qsgd-w4": 500, "qsgd-w1.58": 200}
PEERS, CLIENT, STANDARDISED = -0.03, -0.1, -0.01  # AUC beyond that of the server's `lda`
CONFIG = {
    "seed": 0,
    "data": {
        "class_path": "datamodules.digits.Digits",
        "init_args": {"pool_size": 900, "batch_size": 16, "flip": False, "crop": 0},
    },
    "model": {"network": "mlp", "lr": 0.1},
    "federated": {
        "clients": 10,
        "local_epochs": 5,
        "participation": 1.0,
        "dirichlet": None,
        "update": "full",
        "error_feedback": False,
    },
    "trainer": {"max_epochs": 10, "check_val_every_n_epoch": 10},
    "fleet": {"shadows": 16, "targets": TARGETS},
    "quantize": [],
}


def mean(values):
    value = sum(values) / len(values)
    return Estimate(value, value - 0.01, value + 0.01, 0.005)


def shift(values, beyond, noise=NOISE):
    return [value + beyond + extra for value, extra in zip(values, noise, strict=True)]


def make_row(attack, knowledge, auc, server=True):
    """A row whose TPRs follow from its AUC."""
    values = {
        "auc": auc,
        "tpr_1pct": [0.01 + (value - 0.5) / 2 for value in auc],
        "tpr_01pct": [0.001 + (value - 0.5) / 4 for value in auc],
    }
    peers = mean(auc) if server else None
    return FederatedRow(attack, knowledge, *map(mean, values.values()), peers, None, values)


def make_leak(threat, auc, gap):
    """By `lda` the AUC that is given, and `gap` less with full-precision shadows.

    A server's `lda_standardised` finds a little less than `lda`, and loses a tenth of `gap`.
    """
    server = threat == "server"
    auc = auc if server else shift(auc, CLIENT, NOISE[::-1])
    rows = [make_row("mean_phi", "none", shift(auc, -0.1), server)]
    if server:
        rows.append(make_row("contrast_phi", "peers", shift(auc, PEERS)))
    rows.append(make_row("lda", "matched", auc, server))
    if gap is not None:
        rows.append(make_row("lda", "other", shift(auc, -gap), server))
    if server:
        standardised = shift(auc, STANDARDISED)
        rows.append(make_row("lda_standardised", "matched", standardised))
        if gap is not None:
            other = shift(standardised, -gap / 10, NOISE[::-1])
            rows.append(make_row("lda_standardised", "other", other))
    curve = Curves([mean(auc)] * 2, [mean(auc)] * 2 if server else [], [mean(auc)] * 2)
    area = mean(auc)
    return FederatedLeak(
        threat=threat,
        rows=rows,
        rounds=[5, 10],
        federations=TARGETS,
        clients=10,
        shadows=16,
        non_members=450,
        false_positives={"tpr_1pct": 36, "tpr_01pct": 3},
        convergence={5: area, 10: area},
        curves=dict.fromkeys(("phi", "gradient", "cosine"), curve),
        source={"phi": mean([0.3]), "cosine": mean([0.4])} if server else {},
        gains={} if gap is None else {"lda": Difference("a", "b", area, 0.5, 0.5, 0.1)},
        left_out=[],
    )


def make_results(update="full", leak=0.0, gap=None, **options):
    """An audit of a fleet.

    Args:
        update: what its updates are rounded to.
        leak: its AUC beyond that of full-precision updates.
        gap: what full-precision shadows miss by `lda`; None where they do not attack.
        options: changes to its configuration, by section.
    """
    noise = [SIZES[update] * extra for extra in NOISE]
    auc = shift(AUC, leak, noise)
    accuracy = [0.9 + extra for extra in reversed(noise)]
    config = CONFIG | {"federated": CONFIG["federated"] | {"update": update}}
    config |= {key: config[key] | value for key, value in options.items()}
    metrics = ("auc", "balanced_accuracy", "tpr_1pct", "tpr_01pct")
    summary = Summary(*[mean(auc)] * 4, TARGETS, 450, 36, 3)
    row = Row("full", "matched", "lira_online", summary, 16, [], dict.fromkeys(metrics, auc))
    leaks = {threat: make_leak(threat, auc, gap) for threat in ("server", "client")}
    lent = f"full, which differs in federated.update full (here {update})"
    return Results(
        name=update,
        inputs="",
        experiment=Experiment(config, {}, {"data": "d"}, {"torch": "2.14"}, {}, update),
        basis={} if gap is None else {FACT: lent},
        variants={"full": VariantFacts(mean(accuracy), 1, None, accuracy)},
        rows=[row],
        findings={f"federated_{threat}": plain(found) for threat, found in leaks.items()},
        tables=[],
        answer=[],
        sentences=[],
        audited={f"target-{number:03d}": f"members-{number}" for number in range(TARGETS)},
        seconds={"target-000": 3600.0},
    )


def make_fleet(update="full", leak=0.0, gap=None, **options):
    results = make_results(update, leak, gap, **options)
    auc = shift(AUC, leak, [SIZES[update] * extra for extra in NOISE])
    leaks = {threat: make_leak(threat, auc, gap) for threat in ("server", "client")}
    return Fleet(Study(results), leaks, BYTES[update])


def make_fleets(four, ternary, **options):
    """Full precision, 4 bits and ternary: by `leak` and `gap` of the latter two."""
    quantized = {
        "qsgd-w4": make_fleet("qsgd-w4", *four, **options),
        "qsgd-w1.58": make_fleet("qsgd-w1.58", *ternary, **options),
    }
    return Fleets(make_fleet(**options), quantized)


@pytest.fixture(scope="session")
def make():
    """Makes the results of a fleet."""
    return make_results


@pytest.fixture(scope="session")
def leak_of():
    """Makes what one kind of attacker finds."""
    return make_leak


@pytest.fixture(scope="session")
def several():
    """Makes three fleets."""
    return make_fleets


@pytest.fixture(scope="session")
def fleets():
    """4 bits leak like full precision and ternary 0.05 less; full-precision shadows miss 0.1."""
    return make_fleets((-0.002, 0.1), (-0.05, 0.1))
