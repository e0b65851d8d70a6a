"""The page on mixed precision says what made-up fleets with known differences show."""

import json
import re
from copy import deepcopy

import pytest

from attacks.metrics.intervals import Estimate
from docs.mixed.claims import closest_uniform, compare_all, find_claims, weights_of
from docs.mixed.page import HERE as PACKAGE
from docs.mixed.page import PAGE, keep, read, render
from docs.mixed.sentences import answer
from docs.mixed.tables import additivity, bits, copied_table
from docs.study.frontier import Left
from docs.study.numbers import STRONGEST, Study, leak
from docs.study.page import HERE, KEPT
from reporting.results_json import parse_results
from storage.searches import CostMeans, SearchMeans

METRICS = "auc", "balanced_accuracy", "tpr_1pct", "tpr_01pct"
GUESSES = dict(zip(METRICS, (0.5, 0.5, 0.01, 0.001), strict=True))


def mean(values):
    value = sum(values) / len(values)
    return Estimate(value, value - 0.01, value + 0.01, 0.005)


def add(results, name, source, leak, accuracy, mean_bits, search=None, noise=1e-4):
    """Add a variant that leaks `leak` times what `source` does, each target by chance otherwise."""
    for row in [row for row in results.rows if row.variant == source]:
        values = {
            metric: [
                GUESSES[metric] + (leak + noise * ((5 * i) % 7 - 3)) * (value - GUESSES[metric])
                for i, value in enumerate(row.by_target[metric])
            ]
            for metric in METRICS
        }
        means = {metric: mean(found) for metric, found in values.items()}
        summary = row.summary._replace(**means)
        results.rows.append(row._replace(variant=name, by_target=values, summary=summary))
    facts = results.variants[source]
    own = [
        value + accuracy + noise * (i % 3 - 1) for i, value in enumerate(facts.accuracy_by_target)
    ]
    cost = CostMeans(2e6, 1000.0 * mean_bits, 4e5, 5.0 / mean_bits, mean_bits, 1)
    results.variants[name] = facts._replace(
        accuracy=mean(own), accuracy_by_target=own, cost=cost, search=search
    )


@pytest.fixture
def made_up():
    """A fleet of which mixed bits are 2 points more accurate than uniform ones, and leak alike."""
    results = deepcopy(parse_results(HERE / KEPT, "Restore it"))
    keeps = {"full", "adaround-w4", "adaround-w2"}
    results = results._replace(
        rows=[row for row in results.rows if row.variant in keeps],
        variants={v: facts for v, facts in results.variants.items() if v in keeps},
        findings={},
    )
    for variant, width in (("adaround-w4", 4.18), ("adaround-w2", 2.18)):
        cost = CostMeans(2e6, 1000.0 * width, 4e5, 5.0 / width, width, 1)
        results.variants[variant] = results.variants[variant]._replace(cost=cost)
    search = SearchMeans(
        "kl", 0.02, 0.03, [{"conv": 8, "fc": 2}, {"conv": 4, "fc": 2}], [1, 2], [2, 1], (2, 1)
    )
    add(results, "adaround-mix4.181", "adaround-w4", 1.0, 0.02, 4.179, search)
    add(results, "adaround-mix2.18", "adaround-w2", 1.0, 0.02, 2.175, search)
    add(results, "adaround-mix3", "adaround-w2", 1.0, 0.02, 3.0, search)
    add(results, "adaround-w4-a8", "adaround-w4", 1.0, 0.0, 4.18)
    add(results, "adaround-w4-a4", "adaround-w4", 0.7, -0.05, 4.18)
    return Study(results)


def test_mixed_bits_are_compared_with_uniform_ones_of_equal_bytes(made_up):
    name, gap = closest_uniform(made_up, "adaround-mix4.181")
    assert name == "adaround-w4"
    assert gap == pytest.approx(0.001 / 4.18)
    name, gap = closest_uniform(made_up, "adaround-mix3")
    assert gap == pytest.approx(1 - 3 / 4.18)
    claims = find_claims(made_up)
    expected = [("adaround-mix4.181", "adaround-w4"), ("adaround-mix2.18", "adaround-w2")]
    assert sorted(claims["more"].pairs) == sorted(expected)
    assert claims["four"].pairs == [("adaround-w4-a4", "adaround-w4")]
    assert "aiq" not in claims
    assert weights_of("adaround-w8-a8") == "adaround-w8-sym"
    assert weights_of("adaround-w4-a8") == "adaround-w4"


def test_the_answer_says_what_differs(made_up):
    text = answer(compare_all(made_up, None))
    assert (
        "Networks with mixed bits beside uniform ones of equal bytes (2 pairs): "
        "test accuracy more (by 2.0 and 2.0 points); AUC no difference shown (all 2 small)"
    ) in text
    assert "Networks with 4-bit activations" in text
    assert re.search(r"test accuracy less \(by 5.0 points\); AUC less \(by 0\.\d{3}\); TPR", text)
    assert "stopped early" not in text  # without snapshots


def test_early_stopping_stands_beside_every_variant(made_up):
    results = made_up.results
    for epoch, share in ((10, 0.2), (20, 0.6)):
        add(results, f"epoch-{epoch:02}", "full", share, 0.2 * (share - 1), 32)
    comparisons = compare_all(Study(results), None)
    left = comparisons[Left("adaround-w4-a4", "auc")]
    assert left.estimate.value > 0 or left.shown is None
    assert "Beside full-precision networks of equal accuracy" in answer(comparisons)


def test_bits_and_sums_of_losses(made_up):
    assert "| `conv` | 6 (4-8) |" in bits(made_up)
    assert "| `fc` | 2 |" in bits(made_up)
    assert "| adaround-mix2.18 | 0.02 nats | 0.03 nats | 1.50 |" in additivity(made_up)


def test_a_fleet_without_chosen_bits_is_refused(made_up):
    results = made_up.results
    searched = [v for v in results.variants if "-mix" in v]
    for variant in searched:
        del results.variants[variant]
    with pytest.raises(ValueError, match="`--fleet` needs variants such as adaround-mix3"):
        keep("fleet", Study(results))
    with pytest.raises(ValueError, match=r"Run `audit\.py` on it with `--shadows`"):
        keep("copied", made_up)


def test_the_question_is_answered_by_the_verdict_on_likeness(made_up):
    assert answer(compare_all(made_up, None)).startswith("Yes; the verdict on")
    results = made_up.results
    for row in [row for row in results.rows if row.variant == "adaround-mix2.18"]:
        row.by_target["auc"][:] = [value - 0.05 for value in row.by_target["auc"]]
    text = answer(compare_all(Study(results), None))
    assert text.startswith("Not always; the verdict on")
    assert "AUC less in 1 (by 0.050) and no difference shown in 1 (small)" in text


def test_shadows_with_copied_bits_have_their_section(made_up):
    rows = made_up.results.rows
    mixed = [r for r in rows if "-mix" in r.variant and r.knowledge == "matched"]
    rows += [row._replace(knowledge="other") for row in mixed]
    fact = "copied, which differs in layer_bits; at full precision against adaround-w4, {}"
    at_full = fact.format("adaround-mix4.181, adaround-mix3")
    copied = Study(made_up.results._replace(basis={"shadows of another experiment": at_full}))
    page = render(made_up, copied)
    assert "Shadows that all have the bits of one target" in page
    assert "Not run yet" not in page
    (row,) = copied_table(compare_all(made_up, copied), copied).splitlines()[2:]
    assert row.startswith("| adaround-mix2.18 | ≈ +0.000")


def test_the_page_is_that_of_the_kept_results():
    assert PAGE.read_text() == render(*read(PACKAGE))


def test_the_readme_has_the_page_s_number():
    study, copied = read(PACKAGE)
    pair = leak("adaround-mix2.18", "adaround-w2", STRONGEST, "auc")
    found = compare_all(study, copied)[pair]
    assert found.shown == "more"
    readme = (PAGE.parent.parent / "README.md").read_text()
    assert f"bits chosen per layer leak {found.estimate.value:.3f} AUC more than equal" in readme


def test_what_is_kept_is_read_back(made_up, tmp_path):
    (tmp_path / "fleet.json").write_text(keep("fleet", made_up))
    study, copied = read(tmp_path)
    assert copied is None
    assert render(study, None).count("\n## ") == render(made_up, None).count("\n## ")
    assert json.loads((tmp_path / "fleet.json").read_text())["findings"] == {}
