"""`audit.py --compare` on results as an audit writes them."""

import csv
import io
import json
import re
from contextlib import redirect_stdout

import pytest

from attacks.evaluate import Row
from attacks.metrics.intervals import Estimate, Summary
from audit import main
from reporting.results import METRICS, Results
from reporting.results_json import as_json
from storage.experiment import Experiment
from storage.records import VariantFacts


def experiment(**options):
    config = {"seed": 0, "data": {"class_path": "Images"}, "trainer": {"max_epochs": 1}} | options
    config |= {"fleet": {"shadows": 8, "targets": 4}, "quantize": ["nearest-w2"]}
    versions = {"torch": "1", "bitleak": "3"}
    return Experiment(config, {}, {"data": "00ff"}, versions, {}, "x")


SPREAD = [-0.01, -0.01, 0.01, 0.01]  # of the targets, with a deviation of 0.01
HALVES = [[0.0] * 4]  # the shadows add nothing


def row(variant, auc, order=1):
    estimate = Estimate(auc, auc - 0.02, auc + 0.03, 0.01)
    summary = Summary(estimate, estimate, estimate, estimate, 4, 300, 3, 0)
    by_target = {metric: [auc + step for step in SPREAD[::order]] for metric in METRICS}
    ends = "auc", "tpr_1pct"
    halves = dict.fromkeys(ends, HALVES)
    return Row(variant, "matched", "lira_online", summary, 8, [], by_target, ends, halves)


@pytest.fixture
def write(tmp_path):
    """Write a run folder that was audited; by default it has two variants."""

    def make(name, variants=("full", "nearest-w2"), auc=0.6, options=experiment(), order=1):  # noqa: B008
        folder = tmp_path / name / "audit"
        folder.mkdir(parents=True)
        basis = {"audited models": "4", "shadow models": "8", "excluded": "none"}
        # a network is as accurate as it leaks, and an earlier epoch less by 0.1
        levels = {variant: auc - 0.1 * variant.startswith("epoch") for variant in variants}
        rows = [row(variant, level, order) for variant, level in levels.items()]
        facts = {
            variant: VariantFacts(
                Estimate(level, level - 0.02, level + 0.03),
                0,
                accuracy_by_target=[level + step / 10 for step in SPREAD],
            )
            for variant, level in levels.items()
        }
        results = Results(name, "", options, basis, facts, rows, {}, [], [], [])
        results = results._replace(audited={f"target-{number}": f"{number}" for number in range(4)})
        (folder / "results.json").write_text(as_json(results))
        return folder.parent

    return make


def compare(*arguments):
    with redirect_stdout(io.StringIO()) as output:
        main(["--compare", *map(str, arguments)])
    return output.getvalue()


def read_csv(folder):
    with (folder / "comparison.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_two_experiments_in_one_table(write, tmp_path, snapshot, unwrap):
    first, second = write("a"), write("b", auc=0.7, options=experiment(seed=1, layer_bits=[8]))
    before = snapshot(first), snapshot(second)
    said = compare(first, second)
    assert "because it has no snapshots. Train it into a new folder with `--snapshots`" in said
    folder = tmp_path / "compared-a-b"
    assert f"Written: {folder}/comparison.csv and .png" in said
    assert re.search(r"\n +seed +0 +1 *\n", said)
    assert re.search(r"\n +layer_bits +- +8 *\n", said)
    assert "max_epochs" not in said
    assert re.search(r"nearest-w2 +b +70\.0% .*0\.700 .*70\.0% .*\(68\.0-73\.0\)†", unwrap(said))
    # by hand: 0.1 and 1.96 -> t(0.975, 6) = 2.447 times sqrt(2) * 0.01 / sqrt(3) = 0.02
    assert "+0.100 (+0.080 to +0.120)" in said
    assert "+10.0 (+8.0 to +12.0)" in said  # in points of TPR
    assert [(line["variant"], line["experiment"]) for line in read_csv(folder)] == [
        (variant, name) for variant in ("full", "nearest-w2") for name in "ab"
    ]
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert (snapshot(first), snapshot(second)) == before


def test_experiments_of_one_seed_are_paired_and_set_beside_networks_stopped_early(
    write, tmp_path, unwrap
):
    """By hand: b's targets are a's in reverse, 0.05 below; half of a's way has b's accuracy.

    There a leaks as much as b, and per target 0.02 less or more, with a standard error of
    0.02 / sqrt(3) = 0.0115, in units of which t(0.975, 3) is 3.182.
    """
    a = write("a", ("full", "epoch-01"), options=experiment(snapshots=[1]))
    b = write("b", ("full",), 0.55, experiment(layer_bits=[8]), order=-1)
    printed = compare(a, b)
    said = unwrap(printed)
    assert "Nothing is compared" not in said
    assert "b is paired with a over 4 targets, which trained on the same examples in both." in said
    assert re.search(r"\n +compared with a +- +paired over 4 targets *\n", printed)
    assert "-0.050 (-0.087 to -0.013)" in said
    assert "What the same accuracy costs otherwise: against early stopping of a" in said
    assert re.search(r"b's full +epoch-01 to full +\+0\.000 \(-0\.037 to", printed)
    assert "No difference between b's full and a network of a of equal accuracy that was" in said
    by_name = {
        (line["experiment"], line["variant"]): line for line in read_csv(tmp_path / "compared-a-b")
    }
    assert by_name["b", "full"]["paired_targets"] == "4"
    assert by_name["b", "full"]["as_accurate_as"] == "epoch-01 to full"
    assert by_name["a", "epoch-01"]["as_accurate_as"] == ""


def test_experiments_without_a_common_target_say_why_and_the_way_out(write, unwrap):
    a = write("a", ("full", "epoch-01"), options=experiment(snapshots=[1]))
    said = unwrap(compare(a, write("b", ("full",), options=experiment(seed=1))))
    assert "b is not paired with a: its seed is 1, so that its targets trained on other" in said
    assert "Train it with `--seed 0` to pair them." in said
    assert "Nothing is compared with networks of a that were stopped early, because no" in said
    assert "What the same accuracy costs" not in said
    assert "by Welch's t over the targets, where nothing" in said


def test_folders_of_the_same_name_are_told_apart(write, tmp_path, unwrap):
    said = compare(write("x/a"), write("y/a"), "--run_dir", tmp_path / "here")
    assert {line["experiment"] for line in read_csv(tmp_path / "here")} == {"x/a", "y/a"}
    assert "the options and versions are the same" in unwrap(said)


def test_options_of_external_models_are_unknown(write):
    said = compare(write("a"), write("b", options=None))
    assert re.search(r"\n +seed +0 +unknown *\n", said)


def test_experiments_without_a_common_variant_are_named(write, tmp_path, unwrap):
    said = compare(write("a", ["full"]), write("b", ["engine"]), write("c", ["engine"]))
    assert "No variant of another experiment is also in a" in unwrap(said)
    assert [line["auc_p"] for line in read_csv(tmp_path / "compared-a-b-c")] == [""] * 3


def test_markup_in_names_is_printed_as_it_is(write):
    said = compare(write("[red]a"), write("[/b]$x$", ["[/red]"]))
    assert "[/red]" in said
    assert "Beyond [red]a's" in " ".join(said.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--wandb", "offline"], "no use for `--wandb`. Leave it out, or pass it when you audit"),
        (["--partial", "--threads", "2"], "no use for `--partial` and `--threads`"),
        (["--attacks", "gap"], "no use for `--attacks`"),
        (["--signals", "x.npz"], "no use for `--signals`"),
        (["--rmia.a", "0.5"], "no use for `--rmia.a`"),
        (["--rmia.population", "pool", "--rmia.a", "tuned"], "`--rmia.population` and `--rmia.a`"),
    ],
)
def test_options_a_comparison_does_not_use_are_an_error(write, tmp_path, options, message):
    with pytest.raises(SystemExit, match=message):
        compare(write("a"), write("b"), *options)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "b"}


def test_bad_folders_stop_before_anything_is_written(write, tmp_path):
    a, old, damaged = write("a"), write("old"), write("damaged")
    path = old / "audit" / "results.json"
    results = json.loads(path.read_text())
    del results["format"]
    path.write_text(json.dumps(results))
    (damaged / "audit" / "results.json").write_text("{")
    for folders, message in (
        ([a], "two run folders or more, got 1"),
        ([a, a / "audit" / ".."], "is named twice"),
        ([a, tmp_path / "none"], r"No audit in .*none.*Run `python audit\.py --run_dir"),
        ([a, old], "was written by another version of BitLeak"),
        ([a, damaged], "is damaged"),
    ):
        with pytest.raises(SystemExit, match=message):
            compare(*folders)
    assert {path.name for path in tmp_path.iterdir()} == {"a", "old", "damaged"}
