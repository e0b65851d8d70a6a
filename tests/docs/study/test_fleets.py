"""The second edition's fleets: kinds of variants, what a fleet lacks, and which are read."""

import re

import pytest

from docs.study import fleets as kinds
from docs.study.fleets import FLEETS, kept_at, read_fleets
from docs.study.kept import keep_fleet
from docs.study.numbers import Attacker, Study
from docs.study.page import main
from reporting.results_json import as_json, parse_results
from storage.records import VariantFacts

PAPER = Attacker(("unquantized",), "lira_online")
NAMES = [
    *("full", "adaround-w2", "adaround-w1.58", "epoch-10", "epoch-8", "obc-w1.58-asym"),
    *("brecq-w1.58-paper", "adaround-w1.58-noise0.5", "adaround-w1.58-noise"),
    *("adaround-w1.58-zeros", "nearest-w1.5"),
]


def named(study, variants):
    facts = {variant: VariantFacts(None, 0) for variant in variants}
    return Study(study.results._replace(variants=facts, rows=[]))


def test_variants_by_kind(study):
    made = named(study, NAMES)
    assert kinds.curve_of(made) == ["epoch-8", "epoch-10", "full"]
    assert kinds.ternary_of(made) == ["adaround-w1.58", "obc-w1.58-asym", "brecq-w1.58-paper"]
    assert kinds.controls_of(made) == NAMES[7:10]
    assert kinds.noise_curve(made, "adaround-w1.58") == [
        *("adaround-w1.58-noise", "adaround-w1.58-noise0.5", "full")
    ]
    assert kinds.noise_curve(made, "adaround-w2") == []
    assert kinds.published_of(made) == ["brecq-w1.58-paper"]
    assert kinds.base_of("adaround-w1.58-asym-noise0.25") == "adaround-w1.58-asym"
    assert kinds.base_of("obc-w2-zeros") == "obc-w2"
    assert kinds.quantized_of(made) == [*NAMES[1:3], *NAMES[5:7], NAMES[10]]
    assert kinds.curve_of(named(study, NAMES[:3])) == []


@pytest.mark.parametrize(
    ("fleet", "variants", "message"),
    [
        ("frontier", ["full", "epoch-05"], r"`--frontier` needs two snapshots.*has none. Train it"),
        ("frontier", ["full", "epoch-05", "epoch-08"], r"adaround-w1.58.*`--quantize adaround-w1"),
        ("private", ["full"], r"needs a proven bound.*`--model.dp.noise`"),
        ("published", ["full", "obc-w2"], r"published loop.*`--quantize adaround-w1.58-paper`"),
        ("large", ["full", "obc-w2"], r"a ternary variant.*`--quantize adaround-w1.58`"),
    ],
)
def test_a_fleet_without_what_its_section_is_about_is_an_error(study, fleet, variants, message):
    with pytest.raises(ValueError, match=message):
        keep_fleet(fleet, named(study, variants).results)


def test_kept_results_are_read_again(fleets, tmp_path):
    for name, fleet in fleets.items():
        kept_at(tmp_path, name).write_text(keep_fleet(name, fleet.results))
    found = read_fleets(tmp_path)
    assert list(found) == list(FLEETS) == list(fleets)
    assert found["private"].results.findings["epsilon"]["full"]["one_run"] == 0.5
    assert found["frontier"].results.findings == {}
    assert found["frontier"].results.seconds == {"shadow-000": 3600.0, "target-000": 1800.0}
    own, kept = (fleet["frontier"].each("obc-w1.58", PAPER, "auc") for fleet in (fleets, found))
    assert kept.tolist() == pytest.approx(own.tolist(), rel=1e-4)


def test_other_fleets_rest_on_the_frontier(fleets, tmp_path):
    assert read_fleets(tmp_path) == {}
    kept_at(tmp_path, "large").write_text(keep_fleet("large", fleets["large"].results))
    with pytest.raises(ValueError, match=r"frontier.json, which is missing beside large.json. Ke"):
        read_fleets(tmp_path)


def test_weight_decay_on_another_seed_is_refused(fleets, tmp_path):
    decay = fleets["decay"].results
    config = decay.experiment.config | {"seed": 1}
    other = decay._replace(experiment=decay.experiment._replace(config=config))
    for name, results in (("frontier", fleets["frontier"].results), ("decay", other)):
        kept_at(tmp_path, name).write_text(keep_fleet(name, results))
    with pytest.raises(ValueError, match=r"decay.json cannot be used: decay is not paired .* `--s"):
        read_fleets(tmp_path)


def test_the_command_keeps_a_fleet(fleets, study, tmp_path, monkeypatch, capsys):
    from docs.study import page

    (tmp_path / "run" / "audit").mkdir(parents=True)
    (tmp_path / "run" / "audit" / "results.json").write_text(as_json(fleets["frontier"].results))
    (tmp_path / "results.json").write_text((page.HERE / "results.json").read_text())
    monkeypatch.setattr(page, "WHERE", tmp_path)
    monkeypatch.setattr(page, "PAGE", tmp_path / "study.md")
    main(["--frontier", str(tmp_path / "run")])
    assert parse_results(tmp_path / "frontier.json", "").name == "cifar10_small"
    assert (tmp_path / "frontier.png").stat().st_size > 10_000
    assert "## First edition" in (tmp_path / "study.md").read_text()
    with pytest.raises(SystemExit):
        main(["--private", str(tmp_path / "run")])
    assert re.search("`--private` needs a proven bound", capsys.readouterr().err)
