"""What recalibration repairs, on a made-up control whose shares are known."""

import pytest

from docs.study import control, kept, page
from docs.study.claims import TERNARY, compare_all
from docs.study.numbers import Attacker, Contrast, Study
from docs.study.verdicts import counted
from reporting.results_json import as_json, parse_results

TARGETS = 6


def make(study, repaired):
    """A smaller study: recalibrating repairs this share of what each attack misses unmatched."""
    rows = {}
    for row in study.results.rows:
        if row.variant in ("full", *TERNARY):
            values = {measure: found[:TARGETS] for measure, found in row.by_target.items()}
            fewer = row.summary._replace(targets=TARGETS)
            rows[row[:3]] = row._replace(by_target=values, summary=fewer)
    for (variant, knowledge, attack), row in list(rows.items()):
        if knowledge == "unquantized":
            matched = rows[variant, "matched", attack].by_target
            values = {
                measure: [
                    a + repaired * (b - a) for a, b in zip(low, matched[measure], strict=True)
                ]
                for measure, low in row.by_target.items()
            }
            rows[variant, "recalibrated", attack] = row._replace(
                knowledge="recalibrated", by_target=values
            )
    variants = {
        name: facts._replace(accuracy_by_target=facts.accuracy_by_target[:TARGETS])
        for name, facts in study.results.variants.items()
        if name in ("full", *TERNARY)
    }
    experiment = study.results.experiment
    config = experiment.config | {"fleet": {"shadows": 32, "targets": TARGETS}}
    config |= {"trainer": config["trainer"] | {"precision": "32-true"}, "quantize": TERNARY}
    return study.results._replace(
        name="control",
        rows=list(rows.values()),
        variants=variants,
        experiment=experiment._replace(config=config),
    )


@pytest.fixture(scope="module")
def half(study):
    return Study(make(study, 0.5))


def test_the_parts_add_up_to_the_total(half):
    for attack in ("lira_online", None):
        for variant in TERNARY:
            found = {
                part: half.difference(Contrast((variant, more), (variant, less), "auc"))
                for part, (more, less) in control.chain(attack).items()
            }
            total = found.pop("total")
            assert sum(found.values()).tolist() == pytest.approx(total.tolist())


def test_recalibrating_repairs_half_of_what_lira_misses(half):
    part = control.chain("lira_online")["recalibrating"]
    matched = Attacker(("matched",), "lira_online")
    for variant in TERNARY:
        found = half.difference(Contrast((variant, part[0]), (variant, part[1]), "auc"))
        missed = half.difference(Contrast((variant, matched), (variant, part[1]), "auc"))
        assert (found / missed).tolist() == pytest.approx([0.5] * TARGETS)


def test_recalibration_that_repairs_nothing_and_everything(study):
    """The strongest attack gains nothing or all of what the strongest matched one finds."""
    for repaired, share in ((0.0, "0% (0 to 0)"), (1.0, "100% (100 to 100)")):
        made = Study(make(study, repaired))
        comparisons = compare_all(study, control.uncorrected(made), made)
        rows = control.split(comparisons, made).splitlines()
        (row,) = [r for r in rows if r.startswith("| the strongest | AUC | brecq-w1.58")]
        _, _, _, _, _, recalibrating, another, quantizing, _ = row.split(" | ".strip())
        assert recalibrating.strip().endswith(share)
        assert another.strip() == ""
        assert quantizing.strip().endswith("100% (100 to 100)" if repaired == 0 else "0% (0 to 0)")


def test_the_page_has_the_section_only_with_a_control(study, half, comparisons):
    without = page.render(page.Page(comparisons, None))
    both = compare_all(study, control.uncorrected(half), half)
    text = page.render(page.Page(both, None))
    assert "## What recalibration repairs" in text
    assert "recalibrat" not in without
    assert len(both) == len(comparisons) + len(set(control.contrasts(half)))
    assert f"over all {len(both)} comparisons" in " ".join(text.split())
    assert "32 shadows and 6 targets, in 32-true" in " ".join(text.split())
    assert "--control runs/study/control" in text
    more, less = control.chain("lira_online")["recalibrating"]
    pairs = [both["control", Contrast((v, more), (v, less), "auc")] for v in TERNARY]
    shown = counted(sum(pair.p_holm < 0.05 and pair.estimate.low > 0 for pair in pairs), 3)
    line = f"- From `lira_online`, a gain by recalibrating the shadows is shown for: AUC {shown}"
    assert line in " ".join(text.split())


def test_a_control_is_kept_beside_the_study(study, half, tmp_path, monkeypatch):
    (tmp_path / page.KEPT).write_text((page.HERE / page.KEPT).read_text())
    monkeypatch.setattr(page, "WHERE", tmp_path)
    monkeypatch.setattr(page, "PAGE", tmp_path / "study.md")
    monkeypatch.setattr(page.figures, "all_of", lambda _: {})
    (tmp_path / "control" / "audit").mkdir(parents=True)
    (tmp_path / "control" / "audit" / "results.json").write_text(as_json(half.results))
    page.main(["--control", str(tmp_path / "control")])
    found = parse_results(tmp_path / "control.json", "")
    assert found.findings == {}
    assert len(found.rows) == len(half.results.rows)
    assert "## What recalibration repairs" in (tmp_path / "study.md").read_text()


def test_a_control_needs_recalibrated_shadows_and_ternary_variants(study, half):
    with pytest.raises(ValueError, match=r"recalibrated shadows, cifar10_small has none. Run"):
        kept.keep_control(study.results)
    variants = {"full": half.results.variants["full"]}
    with pytest.raises(ValueError, match=r"needs adaround-w1.58 or brecq-w1.58 or obc-w1.58"):
        kept.keep_control(half.results._replace(variants=variants))
