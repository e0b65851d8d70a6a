"""`audit.py --signals` where fair coins drew the shadows, so that some examples have too few."""

import csv

import numpy as np
import pytest
import torch
from markupsafe import escape
from sklearn.metrics import roc_auc_score

from attacks.lira import lira
from storage.run_folder import RunFolder

SHADOWS, TARGETS, EXAMPLES = 7, 2, 160
NO_ACCURACY = (
    "Training accuracy was not judged, so a model that diverged is not noticed: that takes logits. "
    "Pass logits instead of phi."
)
LOST = [
    "{none} examples are in no shadow's training set: no attack can compare shadows with and "
    "without them. All attacks and findings, also those without shadows, are on the other {mixed} "
    "of 160 examples; exposure.csv says which these are. Train some shadows with each example and "
    "some without it.",
    "{few} of {mixed} examples were left out of all attacks and findings: they lack 2 shadows with "
    "and 2 without them. Train more shadows; in complementary halves, 4 suffice.",
]
LACKING = [
    "gap was left out: it needs logits. Pass logits instead of phi.",
    "quantile_regression was left out: it needs logits and logits on a population and the images. "
    "Only models that train.py trained have them.",
]


@pytest.fixture
def draw():
    """Signals of two variants, the membership, and which examples have 2 shadows on each side."""
    rng = np.random.default_rng(3)
    members = rng.random((SHADOWS + TARGETS, EXAMPLES)) < 0.5
    phi = 2 + 2 * rng.normal(size=EXAMPLES) + rng.normal(size=members.shape) + 1.5 * members
    inside = members[:SHADOWS].sum(0)
    usable = (inside >= 2) & (inside <= SHADOWS - 2)
    assert 5 < (~usable).sum() < EXAMPLES / 5
    population = 2 + 2 * rng.normal(size=50) + rng.normal(size=(SHADOWS + TARGETS, 50))
    return {"full": phi, "w2": phi - members}, members, usable, population


def save(path, phi, members, population):
    arrays = {"shadow_members": members[:SHADOWS], "target_members": members[SHADOWS:]}
    for variant, signals in phi.items():
        for part, values in (("", signals), ("population_", population)):
            arrays[f"{variant}/shadow_{part}phi"] = values[:SHADOWS].astype(np.float32)
            arrays[f"{variant}/target_{part}phi"] = values[SHADOWS:].astype(np.float32)
    np.savez(path, **arrays)
    return "--signals", str(path)


def read_exposures(run):
    with (run.path / "audit" / "exposure.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_an_audit_is_that_of_the_usable_examples(
    draw, tmp_path, audit, read_csv, results_of, empty_figures
):
    """Nothing is lost but these examples, and every view names them."""
    phi, members, usable, population = draw
    run, by_hand = RunFolder(tmp_path / "out"), RunFolder(tmp_path / "by-hand")
    options = save(tmp_path / "coins.npz", phi, members, population)
    output = audit(run, *options)
    fewer = {variant: signals[:, usable] for variant, signals in phi.items()}
    audit(by_hand, *save(tmp_path / "fewer.npz", fewer, members[:, usable], population))
    assert read_csv(run) == read_csv(by_hand)

    row = next(
        row
        for row in read_csv(run)
        if (row["variant"], row["attack"]) == ("full", "lira_online_fixed")
    )
    known = torch.from_numpy(fewer["full"][:, None].astype(np.float32))
    included = torch.from_numpy(members[:, usable])
    scores = lira(known[SHADOWS:], known[:SHADOWS], included[:SHADOWS], spread="fixed")
    areas = [roc_auc_score(*pair) for pair in zip(included[SHADOWS:], scores, strict=True)]
    assert row["auc"] == pytest.approx(sum(areas) / TARGETS, abs=1e-12)

    results, expected = results_of(run), results_of(by_hand)
    for key in ("findings", "tables", "sentences", "rows"):
        assert results[key] == expected[key]
    assert results["findings"]["joint_lira"]
    assert list(results["findings"]["convergence"]) == ["full", "w2"]
    assert results["basis"]["audited examples"] == f"{usable.sum()} of 160"
    inside = members[:SHADOWS].sum(0)
    assert results["basis"]["shadows with an example"] == f"{inside.min()} to {inside.max()}"

    shadows_with = members[:SHADOWS].sum(0)
    none = (shadows_with == 0).sum()
    counts = {"none": none, "mixed": 160 - none, "few": 160 - none - usable.sum()}
    assert min(counts.values()) > 1
    assert not (shadows_with == SHADOWS).any()
    lost = [NO_ACCURACY, *(sentence.format(**counts) for sentence in LOST), *LACKING]
    assert results["left_out"] == lost
    assert expected["left_out"] == [NO_ACCURACY, *LACKING]
    assert "audited examples" not in expected["basis"]
    page = (run.path / "audit" / "report.html").read_text()
    table = (run.path / "audit" / "table.txt").read_text()
    again = audit(run, *options)
    assert "Nothing has changed" in again
    for sentence in lost:
        assert escape(sentence) in page
        for text in (table, output, again):  # table.txt is wrapped
            assert sentence in " ".join(text.split())


def test_exposures_stay_at_their_place_in_the_pool(draw, tmp_path, audit, empty_figures):
    phi, members, usable, population = draw
    run, by_hand = RunFolder(tmp_path / "out"), RunFolder(tmp_path / "by-hand")
    attacks = "--attacks", "lira_online_fixed"
    audit(run, *save(tmp_path / "coins.npz", phi, members, population), *attacks)
    fewer = {variant: signals[:, usable] for variant, signals in phi.items()}
    few = save(tmp_path / "fewer.npz", fewer, members[:, usable], population)
    audit(by_hand, *few, *attacks)
    lines, kept = read_exposures(run), iter(read_exposures(by_hand))
    assert [line["example"] for line in lines] == [str(index) for index in range(EXAMPLES)]
    for line, known in zip(lines, usable, strict=True):
        wanted = next(kept) if known else {"full": "", "w2": ""}
        assert (line["full"], line["w2"]) == (wanted["full"], wanted["w2"])
    trained = members[SHADOWS:].any(0)
    nobody = [line["full"] == "" for line in lines]
    assert nobody == list(~usable | ~trained)


def test_an_attack_asked_for_that_too_few_examples_suffice_for_is_an_error(
    draw, tmp_path, audit, read_csv, results_of, empty_figures
):
    phi, members, _, population = draw
    members[:SHADOWS, :60], members[0, :60] = False, True
    options = save(tmp_path / "coins.npz", phi, members, population)
    inside = members[:SHADOWS].sum(0)
    mixed = (inside > 0) & (inside < SHADOWS)
    lacking = ((inside[mixed] < 2) | (inside[mixed] > SHADOWS - 2)).sum()
    rest = mixed.sum()
    run = RunFolder(tmp_path / "out")
    with pytest.raises(
        SystemExit,
        match=f"`lira_online` needs 2 shadows with and 2 without each example, which {lacking} of "
        f"{rest} examples lack.* Train more shadows; .* or leave it out of `--attacks`",
    ):
        audit(run, *options, "--attacks", "lira_online")
    assert not run.path.exists()
    audit(run, *options, "--attacks", "lira_offline")
    assert {row["attack"] for row in read_csv(run)} == {"lira_offline"}
    # attacks that were not asked for are no news
    accuracy, one_sided, few, joint = results_of(run)["left_out"]
    assert accuracy == NO_ACCURACY
    assert one_sided.startswith(f"{160 - rest} examples are in no shadow's training set")
    lacking = (inside[mixed] > SHADOWS - 2).sum()
    assert few.startswith(f"{lacking} of {rest} examples were left out of all")
    assert joint.startswith("joint LiRA on several variants was left out: it needs 2 shadows with")
