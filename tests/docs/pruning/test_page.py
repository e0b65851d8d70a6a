"""The page on pruning says what made-up fleets with known differences show."""

import shutil

import pytest

from attacks.game import FULL
from docs.pruning import charts, sentences, tables
from docs.pruning.claims import Widths, compare_all, find_claims, named
from docs.pruning.fleets import METHODS, Fleets, read
from docs.pruning.page import HERE, PAGE, commands, main, render
from docs.study.frontier import Left
from docs.study.numbers import STRONGEST, Study, accuracy, leak
from reporting.results_json import as_json

OCS, DENSE = named("ocs", FULL), named("dense", FULL)
STRONG = "the strongest attack"


@pytest.fixture(scope="module")
def comparisons(fleets):
    return compare_all(fleets)


def only(fleets, *methods):
    """The same page with these methods alone."""
    return Fleets(fleets.dense, {m: fleets.pruned[m] for m in methods}, {})


def reversed_targets(results):
    """The same audit with its targets in another order."""
    rows = [
        row._replace(by_target={key: values[::-1] for key, values in row.by_target.items()})
        for row in results.rows
    ]
    variants = {
        name: facts._replace(accuracy_by_target=facts.accuracy_by_target[::-1])
        for name, facts in results.variants.items()
    }
    audited = dict(reversed(results.audited.items()))
    return results._replace(rows=rows, variants=variants, audited=audited)


def test_fleets_are_compared_target_by_target(fleets, make):
    """By hand: +0.05 in AUC and -2 points on each target but for the noise, whatever their order.

    Without pairs the spread of the dense targets, 0.02, would widen the interval to 0.02.
    """
    turned = reversed_targets(make("ocs", leak=0.05, accuracy=-0.02))
    for ocs in (fleets.pruned["ocs"], Study(turned)):
        found = compare_all(Fleets(fleets.dense, {"ocs": ocs}, {}))
        area = found[leak(OCS, DENSE, STRONGEST, "auc")]
        assert area.estimate.value == pytest.approx(0.05)
        # Student's t of 8: 2.3646 standard errors of the noise, whose variance is 16e-6 / 7
        error = (16e-6 / 7 / 8) ** 0.5
        assert area.estimate.high == pytest.approx(0.05 + 2.3646 * error, abs=1e-7)
        assert area.shown == "more"
        assert found[accuracy(OCS, DENSE)].estimate.value == pytest.approx(-0.02)


def test_every_claim_has_its_pairs(fleets):
    claims = find_claims(fleets)
    full = [(named(method, FULL), DENSE) for method in ("ocs", "magnitude", "init")]
    assert claims["more"].pairs == claims["less"].pairs == full
    assert claims["adaround-w2"].pairs[0] == ("ocs adaround-w2", "dense adaround-w2")
    assert claims["peers"].pairs == [(OCS, "magnitude full"), (OCS, "init full")]
    assert claims["shadows"].pairs == [
        (f"ocs {variant} by dense shadows", f"ocs {variant}")
        for variant in ("full", "adaround-w4", "adaround-w2")
    ]
    assert list(find_claims(only(fleets, "init"))) == [
        "more", "less", "adaround-w4", "adaround-w2",
    ]  # fmt: skip


def test_opposite_claims_have_opposite_verdicts(fleets):
    """All of the same comparisons: with `ocs` alone the second claim is refuted."""
    alone = only(fleets, "ocs")
    found = compare_all(alone)
    claims = find_claims(alone)
    assert found.overall(claims["more"], STRONG) == "held"
    assert found.overall(claims["less"], STRONG) == "refuted"
    assert sentences.published(found, alone) == (
        "Of two published claims, the one that pruning makes members stand out (SAMIA) is held, "
        "and the one that pruning reduces leakage (Wang et al. 2020) is refuted. All that is shown "
        "speaks for the first."
    )
    other = only(fleets, "init")
    assert sentences.published(compare_all(other), other).endswith("speaks for the second.")


def test_methods_that_differ_in_direction_speak_for_neither(fleets, comparisons):
    assert comparisons.overall(find_claims(fleets)["more"], STRONG) == "mixed"
    text = sentences.published(comparisons, fleets)
    assert text.endswith("Differences are shown in both directions, so neither holds throughout.")
    assert sentences.beside_dense(comparisons, fleets) == (
        "By the strongest attack at full precision, networks pruned by `ocs` and `magnitude` leak "
        "more in AUC and the tail than dense ones; networks pruned by `init` leak less in AUC and "
        "the tail than dense ones."
    )


def test_networks_that_differ_by_noise_alone_are_not_called_alike(fleets, make):
    same = Fleets(fleets.dense, {"random": Study(make("random"))}, {})
    found = compare_all(same)
    text = sentences.answer(found, same)
    assert "no difference is shown between networks pruned by `random` and dense ones" in text
    assert "which speaks for neither and does not show likeness" in text
    assert "The accuracy of `ocs`" not in text
    assert "understate" not in text


def test_ocs_stands_beside_its_peers(fleets, comparisons):
    """By hand: as leaky as `magnitude` and 2 points more accurate; leakier than `init` by 0.1."""
    first, second = sentences.peers(comparisons, fleets).splitlines()
    assert first.startswith("- Leakage: `ocs` and `magnitude`: no difference shown. Accuracy of")
    assert "+2.0 (" in first
    assert second.startswith(
        "- Leakage: `ocs` leaks more in AUC and the tail than `init`. Accuracy"
    )
    assert "+4.0 (" in second
    assert comparisons[leak(OCS, "init full", STRONGEST, "auc")].estimate.value == pytest.approx(
        0.1
    )
    assert sentences.peers(comparisons, only(fleets, "ocs")) == ""


def test_dense_shadows_that_find_less_understate(fleets, comparisons):
    """By hand: 0.03 less in AUC, and a half of that in TPR at 1% FPR, by LiRA."""
    assert sentences.understated(comparisons, fleets) == (
        "That shadows of dense networks understate what pruned ones leak is held (over 3 pruned "
        "networks)."
    )
    row = tables.shadows(comparisons, fleets).splitlines()[2]
    assert row.startswith("| ocs full | ↓ -0.030 (-0.031 to -0.029) | ↓ -1.5 (")


def test_pruned_networks_stand_beside_dense_ones_that_were_stopped_early(fleets, comparisons):
    """By hand: 58% lie in the middle of epoch-16 (56%, -0.04) and `full` (60%, 0): AUC -0.02.

    `ocs` leaks 0.05 more than `full`, so 0.07 more than there, and its 2-bit variant 0.02 more.
    `init` with 54% lies two thirds of the way from epoch-08 (50%, -0.1) to epoch-16: AUC -0.06.
    """
    left = {name: comparisons[Left(name, "auc")].estimate.value for name in (OCS, "init full")}
    assert left[OCS] == pytest.approx(-0.07, abs=1e-4)
    assert left["init full"] == pytest.approx(-0.06 + 0.05, abs=1e-4)
    rows = tables.beside_early(comparisons, fleets).splitlines()[2:]
    assert rows[0].startswith("| ocs full | epoch-16 to full ")
    assert "| ↑ +0.070 (" in rows[0]
    assert "| ↑ +0.020 (" in rows[2]
    text = sentences.answer(comparisons, fleets)
    assert "of 9 pruned networks, quantized or not, are shown to leak: AUC " in text


def test_networks_outside_the_curve_are_named(fleets, make):
    better = Fleets(fleets.dense, {"ocs": Study(make("ocs", accuracy=0.05))}, {})
    text = sentences.answer(compare_all(better), better)
    assert "Outside that curve: ocs full, ocs adaround-w4 and ocs adaround-w2." in text


@pytest.mark.parametrize(("area", "shown"), [(0.5, "none of 2"), (0.6, "1 of 2")])
def test_what_widths_tell_is_reported_also_when_it_is_nothing(fleets, make, area, shown):
    """By hand: 0.1 above guessing is 26 standard errors of 0.01 / sqrt(7)."""
    own = Fleets(fleets.dense, {"ocs": Study(make("ocs", widths=(area, 0.5)))}, {})
    found = compare_all(own)
    assert found[Widths("ocs", "the example")].estimate.value == pytest.approx(area - 0.5)
    assert f"is shown to find members in {shown} tests" in sentences.widths(found, own)
    row = tables.architecture(found, own).splitlines()[2]
    assert row.startswith("| ocs | 3 of 4 | ")
    assert f"{area:.3f} ({area - 0.02:.3f}-{area + 0.02:.3f})" in row


def test_what_pruning_costs(fleets, comparisons):
    row = tables.cost(comparisons, fleets).splitlines()[2]
    assert "| 49.0% | 45.0% | 9 to 10 | 6 of 8 | 55.0% | 20.0% | 59.0% | ↓ -2.0 (" in row
    assert "| 9 to 10 | - | 55.0%" in tables.cost(comparisons, fleets).splitlines()[3]
    assert sentences.cost_of_ocs(comparisons).startswith(
        "The accuracy of `ocs` minus that of dense networks is -2.0 ("
    )


def test_what_is_not_run_yet_is_named_and_left_out(fleets):
    page = render(only(fleets, "init"))
    for method in ("ocs", "magnitude", "random"):
        assert f"- **Not run yet:** networks pruned by `{method}`: {METHODS[method]}." in (
            sentences.not_run(only(fleets, "init"))
        )
        assert f"--{method} " not in page
    assert "shadows of dense networks against `init`." in sentences.not_run(only(fleets, "init"))
    assert "## What the attacker must know" not in page
    assert "published are -0.1 to -0.3 points" not in page
    full = render(fleets)
    assert full.count("\n## ") == page.count("\n## ") + 1
    assert "published are -0.1 to -0.3" in full
    dense = fleets.dense.results
    plain = {v: f for v, f in dense.variants.items() if not v.startswith("epoch")}
    bare = only(fleets, "init")._replace(dense=Study(dense._replace(variants=plain)))
    assert "**Not run yet:** dense networks that were stopped early" in render(bare)
    assert "## Beside networks of equal accuracy" not in render(bare)


def test_the_commands_make_every_fleet(fleets):
    text = commands(fleets)
    assert (
        "python train.py --config recipes/pruning/cifar10.yaml \\\n      --prune.method null \\\n"
        "      --snapshots 8 16 \\\n      --run_dir runs/pruning/dense\n"
        "    python audit.py --run_dir runs/pruning/dense\n"
    ) in text
    assert "python audit.py --run_dir runs/pruning/ocs --shadows runs/pruning/dense\n" in text
    assert "python audit.py --run_dir runs/pruning/init\n" in text
    assert text.endswith("--init runs/pruning/init \\\n      --borrowed runs/pruning/ocs")


def test_figures_have_a_panel_per_method_and_a_colour_per_fleet(fleets):
    (panels,) = charts.layers(fleets).panels
    titles = [panel.title for panel in panels]
    assert titles == ["ocs", "magnitude", "init", "ocs: stability"]
    assert [panels[0].series[1].y[0], panels[0].series[0].y[0]] == [8.5, 16]
    plane = charts.plane(fleets)
    names = [series.label for series in plane.legend]
    assert names[:4] == ["dense", "ocs", "magnitude", "init"]
    assert names[-1] == "stopped early"


def test_the_command_keeps_results_and_writes_the_page(make, tmp_path, monkeypatch, capsys):
    shutil.copy(HERE / "page.md.jinja", tmp_path)
    monkeypatch.setattr("docs.pruning.page.HERE", tmp_path)
    monkeypatch.setattr("docs.pruning.page.PAGE", tmp_path / "pruning.md")
    for audit in (make(), make("init", other=-0.03)):
        folder = tmp_path / "runs" / audit.name / "audit"
        folder.mkdir(parents=True)
        (folder / "results.json").write_text(as_json(audit))
    dense, init = (str(tmp_path / "runs" / name) for name in ("dense", "init"))
    with pytest.raises(SystemExit) as stopped:
        main(["--dense", dense])
    assert stopped.value.code == 1
    assert capsys.readouterr().err.startswith("docs.pruning: The page needs the results of a dense")
    main(["--init", init, "--borrowed", init])
    made = {path.name for path in tmp_path.iterdir() if path.is_file()}
    assert made - {"page.md.jinja"} == {
        "dense.json", "init.json", "borrowed-init.json", "plane.png", "widths.png", "pruning.md",
    }  # fmt: skip
    text = (tmp_path / "pruning.md").read_text()
    assert text == render(read(tmp_path))
    main([])
    assert (tmp_path / "pruning.md").read_text() == text


@pytest.mark.skipif(not (HERE / "dense.json").exists(), reason="no fleet is kept yet")
def test_the_page_is_that_of_the_kept_results():
    assert PAGE.read_text() == render(read(HERE))
