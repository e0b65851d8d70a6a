"""Results: their values, and results.json and back."""

import json
from math import inf, isnan, nan

import pytest
import torch

from attacks.bounds import Bounds
from attacks.findings import Convergence, Exposures
from attacks.game import Proven
from attacks.metrics.epsilon import EpsilonBound
from attacks.metrics.exposure import Change
from attacks.metrics.intervals import Estimate
from reporting.results import flatten, plain
from reporting.results_json import FORMAT, as_json, parse_results, read_results
from storage.experiment import Experiment
from storage.pruning import LayerWidth, PruningMeans
from storage.records import VariantFacts

EXPERIMENT = Experiment(
    config={"quantize": ["nearest-w2"], "fleet": {"shadows": 8, "targets": 2}, "seed": 0},
    input={"num_classes": 10, "channels": 1, "height": 8, "width": 8},
    fingerprints={"data": "d", "network": "n"},
    versions={"torch": "2", "threads": 1},
    places={"root": "/data"},
    id="0123abcd",
)


@pytest.fixture
def run_dir(tmp_path):
    """Write the results of an audit into a run folder."""

    def write(results, **fields):
        path = tmp_path / "run" / "audit" / "results.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(json.loads(as_json(results)) | fields))
        return path.parents[1]

    return write


@pytest.mark.parametrize("experiment", [None, EXPERIMENT], ids=["elsewhere", "trained"])
def test_results_are_read_back_as_they_were_written(results, run_dir, experiment):
    written = results._replace(experiment=experiment, figures=("plane", "roc"))
    assert len(written.tables) > 5
    assert written.sentences
    assert read_results(run_dir(written)) == written


def test_what_targets_trained_on_and_what_halves_find_are_unknown_to_older_audits(results, run_dir):
    named = results._replace(
        audited={"target-000": "0f", "target-001": "1e"}, seconds={"target-000": 2.5}
    )
    assert any(row.halves.get("auc") for row in results.rows)
    folder = run_dir(named)
    assert read_results(folder) == named
    path = folder / "audit" / "results.json"
    content = json.loads(path.read_text())
    del content["audited"], content["seconds"]
    for row in content["rows"]:
        del row["halves"]
    path.write_text(json.dumps(content))
    older = read_results(folder)
    assert not older.audited
    assert not older.seconds
    assert older.rows == [row._replace(halves={}) for row in results.rows]


def test_pruning_is_read_back_and_unknown_to_older_audits(results, run_dir):
    widths = [LayerWidth("conv", 16, 10, 11.5, 13)]
    pruned = PruningMeans(
        *("ocs", 0.5, 2, 1, [4, 6], None, [[0.5], []], [9.0, 4.0], [50.0, 20.0]),
        *([0.9, 0.6, 0.9], widths),
    )
    written = results._replace(pruned=pruned)
    folder = run_dir(written)
    assert read_results(folder) == written
    path = folder / "audit" / "results.json"
    content = json.loads(path.read_text())
    del content["pruned"]
    path.write_text(json.dumps(content))
    assert read_results(folder).pruned is None


def test_proofs_and_warnings_are_read_back_and_unknown_to_older_audits(results, run_dir):
    names = list(results.variants)
    proofs = [Proven(8.0, 1e-4), Proven(None, 1e-4, "calibrated on members, take `-heldout`")]
    facts = {
        name: results.variants[name]._replace(proven=proven)
        for name, proven in zip(names, proofs, strict=False)
    }
    private = results._replace(variants=results.variants | facts, warnings=("Look into it.",))
    folder = run_dir(private)
    assert read_results(folder) == private
    path = folder / "audit" / "results.json"
    content = json.loads(path.read_text())
    del content["warnings"]
    for facts in content["variants"].values():
        del facts["proven"]
    path.write_text(json.dumps(content))
    assert read_results(folder) == results


def test_unknown_numbers_are_read_back_as_nan(results, run_dir):
    unknown = Estimate(nan, nan, nan)
    row = results.rows[0]
    rows = [row._replace(summary=row.summary._replace(auc=unknown)), *results.rows[1:]]
    facts = results.variants | {"full": VariantFacts(unknown, 0)}
    again = read_results(run_dir(results._replace(rows=rows, variants=facts)))
    for estimate in (again.rows[0].summary.auc, again.variants["full"].accuracy):
        assert all(map(isnan, estimate[:3]))
        assert estimate.spread == 0
    assert again.rows[1:] == results.rows[1:]


def test_the_file_is_strict_json(results):
    def refuse(constant):
        raise AssertionError(constant)

    content = json.loads(as_json(results), parse_constant=refuse)
    assert content["format"] == FORMAT
    assert len(content["rows"]) == len(results.rows)
    assert content["tail"] == "tpr_1pct"
    assert len(content["answer"]) == 4
    for end in ("auc", "tpr_1pct"):
        marked = [line for line in content["rows"] if end in line["strongest"].split()]
        assert [line["variant"] for line in marked] == [*results.variants]


def test_a_folder_without_an_audit(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No audit in .*run: .*audit\.py --run_dir .*run`"):
        read_results(tmp_path / "run")


@pytest.mark.parametrize(("given", "shown"), [(0, "none"), (FORMAT + 1, FORMAT + 1), ("x", "x")])
def test_another_format_is_one_clear_line(results, run_dir, given, shown):
    run = run_dir(results, format=given)
    with pytest.raises(ValueError, match="another version of BitLeak") as error:
        read_results(run)
    assert str(error.value) == (
        f"{run}/audit/results.json was written by another version of BitLeak (format {shown}, "
        f"this version reads {FORMAT}). Run `python audit.py --run_dir {run}` again, or use the "
        "version that wrote it."
    )


def test_a_file_from_before_formats_is_another_version(results, run_dir):
    run = run_dir(results)
    path = run / "audit" / "results.json"
    path.write_text(json.dumps({"experiment": {}, "files": [], "rows": []}))
    with pytest.raises(ValueError, match=r"another version of BitLeak \(format none"):
        read_results(run)


@pytest.mark.parametrize("content", ["{", "[]", '"text"'])
def test_a_damaged_file_is_named(results, run_dir, content):
    run = run_dir(results)
    (run / "audit" / "results.json").write_text(content)
    with pytest.raises(ValueError, match=r"is damaged .*Delete it\. Run `python audit\.py"):
        read_results(run)


@pytest.mark.parametrize("field", ["basis", "variants", "rows", "tables"])
def test_a_missing_field_is_named(results, run_dir, field):
    run = run_dir(results)
    path = run / "audit" / "results.json"
    content = json.loads(path.read_text())
    del content[field]
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=rf"is damaged: KeyError\('{field}'\)\. Delete it\."):
        read_results(run)


def test_a_field_of_another_kind_is_named(results, run_dir):
    run = run_dir(results)
    path = run / "audit" / "results.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"variants": []}))
    with pytest.raises(ValueError, match=r"is damaged: AttributeError.*Delete it\."):
        read_results(run)


def test_results_may_lie_anywhere(results, tmp_path):
    path = tmp_path / "kept.json"
    path.write_text(as_json(results))
    assert parse_results(path, "Make it again") == results
    path.write_text("{")
    with pytest.raises(ValueError, match=r"kept\.json is damaged .*Delete it\. Make it again\."):
        parse_results(path, "Make it again")


def test_the_strongest_attack_is_marked_once_per_variant_and_end(results):
    assert results.tail == "tpr_1pct"  # 80 non-members
    for end in ("auc", "tpr_1pct"):
        marked = results.strongest(end)
        assert list(marked) == list(results.variants)
        assert sum(end in row.strongest for row in results.rows) == len(marked)
        for variant, row in marked.items():
            own = [r for r in results.rows if r.variant == variant]
            highest = max(getattr(r.summary, end).value for r in own)
            assert getattr(row.summary, end).value == highest
    assert results.strongest("tpr_01pct") == {}
    plenty = results.rows[0].summary._replace(false_positives_01pct=10)
    rows = [results.rows[0]._replace(summary=plenty), *results.rows[1:]]
    assert results._replace(rows=rows).tail == "tpr_01pct"


def test_sentences_are_the_differences_from_the_reference(results, findings):
    assert len(results.sentences) == len(findings["differences"].against_reference["auc"]) == 2
    for sentence, variant in zip(results.sentences, ("nearest-w4", "nearest-w2"), strict=True):
        assert sentence.startswith(f"{variant} ")
        assert "full" in sentence


def test_plain_values_by_hand():
    estimate = Estimate(0.51, 0.45, 0.57)
    values = {
        "epsilon": {"w2": Bounds(EpsilonBound(0.0, inf, 0.0, 0.0, 80, 80), 0.0, 16)},
        "convergence": {"w2": Convergence("attack_r", {2: estimate, 4: estimate})},
        "exposure": Exposures(
            "full",
            "gap",
            {"w2": Change(12, 3, nan, 2.5)},
            ["w2"],
            torch.ones(1, 2),
            torch.ones(2) > 0,
        ),
        "held": (("full", "w2"), [1, True, None, "text"]),
    }
    read = json.loads(json.dumps(plain(values), allow_nan=False))
    assert read["epsilon"]["w2"]["tested"] == {
        **{"epsilon": 0.0, "threshold": None, "tpr": 0.0, "fpr": 0.0},
        **{"members": 80, "non_members": 80},
    }
    assert {key: read["epsilon"]["w2"][key] for key in ("one_run", "guesses")} == {
        **{"one_run": 0.0, "guesses": 16},
    }
    shown = {"value": 0.51, "low": 0.45, "high": 0.57, "spread": 0.0}
    assert read["convergence"]["w2"] == {"attack": "attack_r", "points": {"2": shown, "4": shown}}
    assert read["exposure"]["changes"]["w2"] == {
        **{"safer": 12, "exposed": 3, "correlation": None, "noise": 2.5},
    }
    assert not {"examples", "kept"} & set(read["exposure"])  # exposure.csv has them
    assert read["held"] == [["full", "w2"], [1, True, None, "text"]]


def test_a_line_of_the_csv_has_none_for_unknown_values(rows):
    (row,) = (r for r in rows if r[:3] == ("nearest-w2", "unquantized", "lira_online"))
    line = flatten(row, VariantFacts(Estimate(nan, nan, nan), 0))
    assert (line["variant"], line["knowledge"], line["attack"]) == row[:3]
    assert line["accuracy"] is line["accuracy_low"] is line["bytes"] is None
    assert (line["auc"], line["auc_high"]) == (row.summary.auc.value, row.summary.auc.high)
    assert line["auc_spread"] == row.summary.auc.spread
    assert (line["shadows"], line["seconds"]) == (8, None)
    assert line["epsilon_proven"] is line["delta"] is None
    proven = flatten(row, VariantFacts(row.summary.auc, 0, proven=Proven(8.0, 1e-4)))
    assert (proven["epsilon_proven"], proven["delta"]) == (8.0, 1e-4)
    for ends, text in ((("auc", "tpr_1pct"), "auc tpr_1pct"), ((), "")):
        marked = flatten(row._replace(strongest=ends), VariantFacts(Estimate(nan, nan, nan), 0))
        assert marked["strongest"] == text
    assert (line["targets"], line["non_members"]) == (2, 80)
