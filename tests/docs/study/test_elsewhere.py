"""The other fleets of the second edition: weight decay, DP-SGD, loops, the large pool, costs."""

import math

import pytest

from attacks.metrics.intervals import Estimate
from docs.study import costs, elsewhere
from docs.study.claims import TERNARY
from docs.study.comparisons import (
    Asked,
    all_tests,
    claims_of,
    fast_pairs,
    key_of,
    published_order,
)
from docs.study.edition import Edition, OneFleet
from docs.study.numbers import ATTACKERS, MEASURES, Study, accuracy, leak
from docs.study.verdicts import Compared

PAPER = [f"{method}-w1.58-paper" for method in ("brecq", "adaround", "obc")]


def compared(value, p=0.001):
    return Compared(Estimate(value, value - 0.01, value + 0.01), p, p, 0.02)


def with_bounds(private, **epsilons):
    """The private fleet with other bounds: tested, one_run, proven."""
    kept = private.results.findings["epsilon"]["full"]
    found = {
        variant: {
            **kept,
            "tested": kept["tested"] | {"epsilon": float(tested)},
            "one_run": float(one_run),
            "proven": proven and {"epsilon": float(proven), "delta": 1e-4, "reason": ""},
        }
        for variant, (tested, one_run, proven) in epsilons.items()
    }
    return Study(private.results._replace(findings={"epsilon": found}))


def test_weight_decay_stands_beside_full_precision_and_the_ternary_variant(edition):
    full, ternary = elsewhere.instead(edition).splitlines()
    assert full.startswith(
        "- Weight decay minus full: test accuracy ? +0.0 (+0.0 to +0.0), AUC ↓ -"
    )
    assert ternary.startswith("- Weight decay minus adaround-w1.58: test accuracy ↑ +2.3 (+1.8 to ")
    assert "AUC ↓ -0.148 (-0.157 to -0.140)" in ternary


def test_audited_bounds_below_the_proven_ones(fleets):
    assert elsewhere.bounds(with_bounds(fleets["private"], full=(1.5, 0.5, 4))).endswith(
        " The proven bound of full (4.00) is below that, and not refuted: the audited bound is at "
        "most 0.38 of the proven one."
    )
    several = with_bounds(fleets["private"], full=(1, 2, 4), w4=(1, 0, 4), w2=(9, 9, None))
    assert "bounds of full and w4 (4.00) are below that" in elsewhere.bounds(several)
    _, _, *rows = elsewhere.bounds_table(several).splitlines()
    tested = "(TPR 10.0%, FPR 1.0%)"
    assert rows == [
        f"| full | 1.00 {tested} | 2.00 | 4.00 | 0.50 |",
        f"| w4 | 1.00 {tested} | 0.00 | 4.00 | 0.25 |",
        f"| w2 | 9.00 {tested} | 9.00 | - | - |",
    ]


def test_a_proof_that_no_audit_of_this_size_refutes_is_not_called_held(fleets):
    """4 tested targets with 2,500 members and non-members each; by hand, as the table of limits."""
    missed = 0.025 ** (1 / 10_000)  # Clopper and Pearson's limit of 0 in 10,000
    reach = math.log((missed - 1e-4) / (1 - missed))
    text = elsewhere.bounds(with_bounds(fleets["private"], full=(1.5, 0.5, 32.7)))
    assert text == (
        "The largest lower bound that a perfect attack could reach in this audit (delta 0.0001) is "
        f"{reach:.2f}: all of 10,000 members found, none of 10,000 non-members accused. The proven "
        "bound of full (32.70) is not below that, and cannot be refuted by this audit: that the "
        "audited bound is smaller proves nothing."
    )


def test_an_audited_bound_above_the_proven_one_is_told(fleets):
    broken = with_bounds(fleets["private"], full=(1, 2, 4), w4=(5, 0, 4))
    text = elsewhere.bounds(broken)
    assert "The audited lower bound of w4 exceeds the proven upper bound: the training" in text


def test_private_training_is_described_by_noise_or_epsilon(fleets):
    private = fleets["private"]
    assert elsewhere.privacy(private) == "noise 0.6 and clip 1"
    config = private.config
    dp = config["model"]["dp"] | {"noise": None, "epsilon": 8.0}
    experiment = private.results.experiment
    config = config | {"model": config["model"] | {"dp": dp}}
    other = Study(private.results._replace(experiment=experiment._replace(config=config)))
    assert elsewhere.privacy(other) == "epsilon 8 and clip 1"


def test_the_order_of_methods_is_that_of_the_published_loops(change, fleets):
    claim = published_order(fleets["published"])
    assert claim.pairs == [(PAPER[0], PAPER[1]), (PAPER[0], PAPER[2]), (PAPER[1], PAPER[2])]
    keys = {
        key_of("published", leak(*pair, attacker, measure)): compared(-0.1)
        for pair in claim.pairs
        for attacker in ATTACKERS.values()
        for measure in MEASURES
    }
    text = elsewhere.order(change(keys))
    assert text.startswith("Claim: at 1.58 bits, leakage rises in the order brecq, adaround, obc.")
    assert text.count("**held** (3 of 3)") == 6


def test_too_few_loops_have_no_order(edition, fleets):
    results = fleets["published"].results
    facts = {v: known for v, known in results.variants.items() if v not in PAPER[1:]}
    assert published_order(Study(results._replace(variants=facts))).pairs == []


def test_a_single_loop_stands_beside_every_fast_rounding_on_its_grid(fleets):
    results = fleets["published"].results
    facts = {v: known for v, known in results.variants.items() if v not in PAPER[:2]}
    rest = {name: study for name, study in fleets.items() if name != "published"}
    lone = Edition({**rest, "published": Study(results._replace(variants=facts))})
    method = PAPER[2].split("-")[0]
    own = next(variant for variant in TERNARY if variant.startswith(method))
    others = [variant for variant in TERNARY if variant != own]
    pairs = fast_pairs(lone.fleets["published"])
    assert pairs[0] == (PAPER[2], own)
    assert sorted(pairs[1:]) == sorted((PAPER[2], variant) for variant in others)
    assert elsewhere.loops_run(lone) == method
    assert elsewhere.order(lone).startswith(f"Of {method} alone the published loop was run")


def test_loops_stand_beside_the_fast_rounding_and_one_another(edition):
    _, _, *rows = elsewhere.loops_table(edition).splitlines()
    names = [row.split(" | ")[0].removeprefix("| ") for row in rows]
    assert names[:3] == [f"{variant}-paper beyond {variant}" for variant in TERNARY]
    assert names[3] == f"{PAPER[0]} beyond {PAPER[1]}"
    assert len(names) == 6


def test_the_large_pool_tests_the_claims_whose_variants_it_has(edition):
    claims = [claim for fleet, claim in claims_of(edition.fleets) if fleet == "large"]
    assert [len(claim.pairs) for claim in claims] == [1, 4, 3]
    _, _, *rows = elsewhere.claims_table(edition).splitlines()
    assert rows[1] == "| 2 and 1.58 bits leak less | 4 of 6 | held | held |"
    assert len(elsewhere.large_pairs(edition).splitlines()) == 2 + 8
    assert len(elsewhere.grids_table(edition).splitlines()) == 2 + 1


def test_the_large_fleet_tells_its_own_network_and_is_compared_with_no_other(fleets):
    """The made-up one has the first fleet's network, unless it is given another."""
    large = fleets["large"]
    same = elsewhere.large_fleet(Edition(fleets))
    assert same == (
        "`resnet8`, 32 shadows and 10 targets, a pool of 5,000 photographs and 2,500 non-members "
        "per target: a TPR at 0.1% FPR rests on 2 false positives per target, 0 in all."
    )
    experiment = large.results.experiment
    model = large.config["model"] | {"network": "convnet"}
    other = experiment._replace(config=large.config | {"model": model})
    changed = fleets | {"large": Study(large.results._replace(experiment=other))}
    assert elsewhere.large_fleet(Edition(changed)) == same.replace("resnet8", "convnet") + (
        " The first fleet's network is `resnet8`, so what differs from the sections above may be "
        "due to the network as well as to the pool: every comparison here is within this fleet, "
        "and none is with them."
    )


def test_no_comparison_of_the_large_fleet_rests_on_another(fleets):
    """They are the same whatever the first fleet is."""
    large, found = fleets["large"], []
    for first in (fleets["frontier"], large):
        tests = all_tests({"frontier": first, "large": large})
        found.append({key: test for key, test in tests if key.fleet == "large"})
    assert found[0] == found[1]
    assert len(found[0]) > 100


def test_a_fleet_is_looked_up_by_contrasts_alone(edition):
    with pytest.raises(TypeError, match=r"contrasts, got 'auc'"):
        OneFleet(edition, "large")["auc"]
    found = OneFleet(edition, "large")[accuracy("adaround-w2", "full")]
    assert found == edition[Asked("large", "nobody", "adaround-w2", "accuracy", "full")]


def test_hours_add_up_over_models(edition, study):
    rows = costs.fleets_table(edition).splitlines()[2:]
    assert rows[0] == (
        "| early stopping and controls | `resnet8` | 5,000 | 32 shadows and 10 targets | 14 | 1.5 |"
    )
    assert costs.hours(study) == "unknown"


def test_a_fleet_trained_again_is_compared_by_lira(edition, study):
    """The made-up fleet has the first edition's rows; moved by 0.004, it says so."""
    assert costs.reproduced(edition, study).endswith("differs by at most 0.000 (full).")
    rows = [
        row._replace(by_target=row.by_target | {"auc": [v + 0.004 for v in row.by_target["auc"]]})
        if row.variant == "obc-w1.58"
        else row
        for row in study.results.rows
    ]
    moved = Study(study.results._replace(rows=rows))
    text = costs.reproduced(edition, moved)
    assert text.startswith("The first edition's experiment was trained again: of the 6 variants")
    assert text.endswith("at most 0.004 (obc-w1.58).")


def test_surprises_follow_from_rules(change):
    worse = {Asked("frontier", "left", "adaround-w4", m): compared(-0.1) for m in MEASURES}
    both = {
        Asked("frontier", "left", "adaround-w2", "auc"): compared(-0.1),
        Asked("frontier", "like noise", "adaround-w1.58", "auc"): compared(-0.1),
    }
    lines = costs.surprises(change(worse | both)).splitlines()
    assert lines[0] == (
        "- Quantizing is worse than stopping early for adaround-w4: each is shown to leak more "
        "than a network of equal accuracy by one measure at least, and shown to leak less by none."
    )
    assert lines[1].startswith("- Measures disagree on adaround-w2: each leaks less than early st")
    assert lines[2] == "- Noise of equal accuracy protects more than adaround-w1.58 in AUC."
    assert lines[3].startswith(
        ('- With the published loops (`resnet8`), "at 1.58', "- With the pa")
    )
    assert "(`resnet8`)" in lines[3]


def test_nothing_surprises_where_nothing_is_shown(change, edition):
    nothing = {key: pair._replace(p_holm=1.0) for key, pair in edition._compared.items()}
    assert costs.surprises(change(nothing)) == "- Nothing, by the rules of this page."
