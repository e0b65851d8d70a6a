"""Made-up fleets of 8 targets whose differences are known."""

import pytest

from attacks.evaluate import Row
from attacks.metrics.intervals import Estimate, Summary
from docs.pruning.fleets import Fleets
from docs.study.numbers import Study
from reporting.results import Results
from storage.borrowed import FACT
from storage.experiment import Experiment
from storage.pruning import LayerWidth, PruningMeans
from storage.records import VariantFacts

TARGETS = 8
AUC = [0.70, 0.72, 0.68, 0.71, 0.69, 0.70, 0.73, 0.67]  # of each dense target at full precision
NOISE = [0.001, -0.001, 0.002, -0.002, 0.001, 0.0, -0.002, 0.001]  # of `ocs`; adds up to 0
SIZES = {None: 0, "ocs": 1, "magnitude": -1, "random": 2, "init": -2}  # of each method's noise
ACCURACY = 0.6
SNAPSHOTS = {"epoch-08": (0.5, -0.1), "epoch-16": (0.56, -0.04)}  # accuracy, and AUC beyond `full`
WIDTHS = {"adaround-w4": 0.0, "adaround-w2": -0.05}  # AUC beyond `full`
CONFIG = {
    "seed": 0,
    "data": {
        "class_path": "datamodules.cifar.CIFAR10",
        "init_args": {"pool_size": 5000, "batch_size": 64, "flip": False, "crop": 0},
    },
    "model": {"network": "resnet8", "lr": 0.1},
    "prune": {"method": None, "remove": 0.5},
    "trainer": {
        "precision": "bf16-mixed",
        "max_epochs": 15,
        "check_val_every_n_epoch": 15,
    },
    "fleet": {"shadows": 16, "targets": TARGETS},
    "quantize": ["adaround-w4", "adaround-w2", "adaround-w1.58"],
}


def mean(values):
    value = sum(values) / len(values)
    return Estimate(value, value - 0.01, value + 0.01, 0.005)


def make_row(variant, knowledge, attack, auc):
    """A row whose TPRs follow from its AUC."""
    values = {
        "auc": auc,
        "balanced_accuracy": auc,
        "tpr_1pct": [0.01 + (value - 0.5) / 2 for value in auc],
        "tpr_01pct": [0.001 + (value - 0.5) / 4 for value in auc],
    }
    summary = Summary(*map(mean, values.values()), TARGETS, 2500, 200, 20)
    return Row(variant, knowledge, attack, summary, 16, [], values)


def make_rows(variant, auc, other):
    """LiRA with each kind of shadows, and an attack without any; all a little less than matched."""
    rows = [make_row(variant, "none", "gap", [0.55] * TARGETS)]
    kinds = {"matched": 0.0} if variant == "full" else {"matched": 0.0, "unquantized": -0.01}
    kinds |= {"other": other} if other is not None else {}
    for kind, less in kinds.items():
        values = [
            value + less + noise * bool(less) for value, noise in zip(auc, NOISE, strict=True)
        ]
        rows.append(make_row(variant, kind, "lira_online", values))
    return rows


def make_pruned(method):
    stable = 6 if method == "ocs" else None
    curves = [[0.9, 1.0]] * TARGETS if method == "ocs" else [[]] * TARGETS
    layers = [LayerWidth("conv1", 16, 7, 8.5, 10), LayerWidth("fc", 10, 10, 10.0, 10)]
    cuts = [9, *[10] * (TARGETS - 1)]
    sizes = [1000.0, 490.0], [200.0, 90.0], [0.55, 0.2, 0.59]
    return PruningMeans(method, 0.5, TARGETS, 3, cuts, stable, curves, *sizes, layers)


def make_results(method=None, leak=0.0, accuracy=0.0, other=None, widths=(0.5, 0.5)):
    """An audit of a fleet.

    Args:
        method: how it was pruned; None for the dense fleet, which has snapshots.
        leak: its AUC beyond that of the dense fleet.
        accuracy: its accuracy beyond that of the dense fleet.
        other: AUC of dense shadows beyond that of its own; None where they do not attack.
        widths: AUC of the attack by widths, scored by example and by class.
    """
    noise = [SIZES[method] * extra for extra in NOISE]
    full = [value + leak + extra for value, extra in zip(AUC, noise, strict=True)]
    levels = {"full": (ACCURACY + accuracy, 0.0)}
    levels |= {variant: (ACCURACY + accuracy, beyond) for variant, beyond in WIDTHS.items()}
    levels |= {} if method else {v: (known, beyond) for v, (known, beyond) in SNAPSHOTS.items()}
    rows, facts = [], {}
    for variant, (accurate, beyond) in levels.items():
        rows += make_rows(variant, [value + beyond for value in full], other)
        own = [accurate + extra for extra in reversed(noise)]
        facts[variant] = VariantFacts(mean(own), 1, None, own)
    config = CONFIG | {"prune": CONFIG["prune"] | {"method": method}}
    config |= {} if method else {"snapshots": [8, 16]}
    versions = {"torch": "2.14"} | ({"torch-pruning": "1.6"} if method else {})
    areas = [Estimate(area, area - 0.02, area + 0.02, 0.01)._asdict() for area in widths]
    found = {"summary": {"auc": areas[0]}, "by_class": areas[1], "varying": 3, "groups": 4}
    name = method or "dense"
    return Results(
        name=name,
        inputs="",
        experiment=Experiment(config, {}, {"data": "d"}, versions, {}, "0"),
        basis={FACT: "dense, which differs in prune.method None (here ocs)"} if other else {},
        variants=facts,
        rows=rows,
        findings={"architecture": found} if method else {},
        tables=[],
        answer=[],
        sentences=[],
        audited={f"target-{number:03d}": f"members-{number}" for number in range(TARGETS)},
        seconds={"target-000": 3600.0},
        pruned=make_pruned(method) if method else None,
    )


@pytest.fixture(scope="session")
def make():
    """Makes the results of a fleet."""
    return make_results


@pytest.fixture(scope="session")
def fleets():
    """`ocs` leaks more and `init` less than dense networks; dense shadows find less than own."""
    pruned = {
        "ocs": Study(make_results("ocs", leak=0.05, accuracy=-0.02)),
        "magnitude": Study(make_results("magnitude", leak=0.05, accuracy=-0.04)),
        "init": Study(make_results("init", leak=-0.05, accuracy=-0.06)),
    }
    lent = {"ocs": Study(make_results("ocs", leak=0.05, accuracy=-0.02, other=-0.03))}
    return Fleets(Study(make_results()), pruned, lent)
