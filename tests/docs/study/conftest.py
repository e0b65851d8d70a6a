"""The kept results of the study, every comparison of its first edition, and made-up fleets."""

from copy import copy, deepcopy

import pytest

from attacks.game import Proven
from attacks.metrics.intervals import Estimate
from docs.study.claims import TERNARY, compare_all
from docs.study.edition import Edition
from docs.study.numbers import Study
from docs.study.page import HERE, KEPT
from reporting.results_json import parse_results

MEASURES = "auc", "balanced_accuracy", "tpr_1pct", "tpr_01pct"
GUESSES = 0.5, 0.5, 0.01, 0.001
SNAPSHOTS = {"epoch-04": 0.1, "epoch-12": 0.5, "epoch-20": 0.8}  # how far towards `full`
BELOW = 0.2  # by how much the accuracy at the beginning is below that of `full`


@pytest.fixture(scope="session")
def study():
    return Study(parse_results(HERE / KEPT, "Restore it"))


@pytest.fixture(scope="session")
def comparisons(study):
    return compare_all(study, {})


def estimate(values):
    mean = sum(values) / len(values)
    return Estimate(mean, mean - 0.01, mean + 0.01, 0.005)


def copy_variant(results, source, name, change, accuracy):
    """Add a variant whose every number is changed from that of another."""
    for row in [row for row in results.rows if row.variant == source]:
        results.rows.append(changed(row, change)._replace(variant=name))
    facts = results.variants[source]
    by_target = [value + accuracy for value in facts.accuracy_by_target]
    results.variants[name] = facts._replace(
        accuracy=estimate(by_target), accuracy_by_target=by_target
    )


def changed(row, change):
    """A row whose every number is changed."""
    values = {m: [change(m, *item) for item in enumerate(row.by_target[m])] for m in MEASURES}
    means = {measure: estimate(found) for measure, found in values.items()}
    return row._replace(by_target=values, summary=row.summary._replace(**means))


def towards_guessing(share):
    """Change every metric so that this share of what it is beyond guessing is left."""
    guesses = dict(zip(MEASURES, GUESSES, strict=True))

    def change(metric, target, value):
        noise = 1e-3 * ((7 * target + len(metric)) % 5 - 2)  # targets differ
        return guesses[metric] + (share + noise) * (value - guesses[metric])

    return change


@pytest.fixture(scope="session")
def make_fleet(study):
    """Results like those of the first edition, with snapshots that leak as `SNAPSHOTS` says."""

    def make(name="cifar10_small", snapshots=SNAPSHOTS):
        variants = ["full", "adaround-w4", "adaround-w2", *TERNARY]
        results = study.results._replace(
            name=name,
            rows=[row for row in study.results.rows if row.variant in variants],
            variants={v: study.results.variants[v] for v in variants},
            audited={f"target-{number:03d}": f"{number:04x}" for number in range(10)},
            seconds={"shadow-000": 3600.0, "target-000": 1800.0},
            findings={},
        )
        results = deepcopy(results)
        for snapshot, share in snapshots.items():
            copy_variant(results, "full", snapshot, towards_guessing(share), (share - 1) * BELOW)
        return results

    return make


@pytest.fixture(scope="session")
def base(make_fleet):
    """The frontier's fleet, with controls of one variant and the paper's grid."""
    results = make_fleet()
    for factor, share in (("", 0.2), ("0.5", 0.5), ("0.25", 0.9)):
        name = f"adaround-w1.58-noise{factor}"
        copy_variant(results, "full", name, towards_guessing(share), (share - 1) * BELOW)
    copy_variant(results, "full", "adaround-w1.58-zeros", towards_guessing(0.7), -0.05)
    copy_variant(results, "brecq-w1.58", "adaround-w1.58-asym", towards_guessing(0.95), 0.001)
    return Study(results)


@pytest.fixture(scope="session")
def fleets(base, make_fleet):
    """All fleets of the second edition."""
    decay = make_fleet("weight_decay", {})
    decay = decay._replace(rows=[changed(row, towards_guessing(0.4)) for row in decay.rows])
    private, proven = make_fleet("private", {}), Proven(8.0, 1e-4)
    private.variants["full"] = private.variants["full"]._replace(proven=proven)
    tested = {"epsilon": 1.5, "threshold": None, "tpr": 0.1, "fpr": 0.01}
    tested |= {"members": 10_000, "non_members": 10_000}
    bounds = {"tested": tested, "one_run": 0.5, "guesses": 2000, "proven": proven._asdict()}
    dp = {"noise": 0.6, "epsilon": None, "delta": None, "clip": 1.0}
    config = private.experiment.config
    config = config | {"model": config["model"] | {"dp": dp}}
    private = private._replace(
        findings={"epsilon": {"full": bounds}},
        experiment=private.experiment._replace(config=config),
    )
    published = make_fleet("published", {})
    for variant in TERNARY:
        copy_variant(published, variant, f"{variant}-paper", towards_guessing(0.9), -0.01)
    return {
        "frontier": base,
        "decay": Study(decay),
        "private": Study(private),
        "published": Study(published),
        "large": Study(make_fleet("cifar10_large")),
    }


@pytest.fixture(scope="session")
def edition(fleets):
    return Edition(fleets)


@pytest.fixture
def change(edition):
    """Makes the same edition, but for some comparisons."""

    def make(changes):
        other = copy(edition)
        other._compared = edition._compared | changes
        return other

    return make
