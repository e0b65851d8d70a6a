"""The example runs on a real audit, and its numbers are those of other code."""

import csv
import shutil
from math import isnan

import pytest
from sklearn.metrics import roc_auc_score

import audit
from attacks.lira import lira
from attacks.signals import signals
from examples import read_results

original_draw = read_results.draw


@pytest.fixture(scope="module")
def audited(toy_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "toy"
    shutil.copytree(toy_run, folder)
    audit.main(["--run_dir", str(folder)])
    return folder


@pytest.mark.fleet
def test_the_example_shows_the_numbers_of_results_csv(audited, tmp_path, monkeypatch, capsys):
    shown = []

    def draw(points):
        shown.extend(points)
        return original_draw(points)

    monkeypatch.setattr(read_results, "draw", draw)
    read_results.main(audited, tmp_path / "plane.png")
    assert (tmp_path / "plane.png").read_bytes().startswith(b"\x89PNG")
    with (audited / "audit" / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    strongest = [line for line in lines if "auc" in line["strongest"].split()]
    assert [point.variant for point in shown] == [line["variant"] for line in strongest]
    for point, line in zip(shown, strongest, strict=True):
        assert point.attack == line["attack"]
        for name, shown_as in (("accuracy", point.accuracy), ("auc", point.risk)):
            estimate = [float(line[f"{name}{end}"]) for end in ("", "_low", "_high")]
            assert list(shown_as[:3]) == estimate
    printed = capsys.readouterr().out
    for line in lines:
        for end in line["strongest"].split():
            name = {"auc": "AUC"}.get(end, end)
            assert f"{name} {float(line[end]):.3f} by {line['attack']}" in printed


def test_intervals_are_drawn_about_their_points():
    accuracy = read_results.Estimate(0.9, 0.8, 0.95)
    auc = read_results.Estimate(0.7, 0.6, 0.75)
    (axes,) = read_results.draw([read_results.Point("full", "lira_online", accuracy, auc)]).axes
    (bars,) = axes.containers
    across, up = (bar.get_segments()[0] for bar in bars.lines[2])
    assert across.tolist() == list(map(pytest.approx, [[0.8, 0.7], [0.95, 0.7]]))
    assert up.tolist() == list(map(pytest.approx, [[0.9, 0.6], [0.9, 0.75]]))


def test_an_unknown_accuracy_is_not_drawn():
    unknown = read_results.read_estimate({"value": None, "low": None, "high": None, "spread": 0.0})
    auc = read_results.Estimate(0.7, 0.6, 0.75)
    read_results.draw(
        [read_results.Point("gptq-w4", "lira_online", unknown, auc)]
    ).draw_without_rendering()
    assert all(map(isnan, unknown[:3]))


def test_own_arrays_are_attacked_as_by_hand():
    logits, labels, members = read_results.simulate()
    assert members[1:].sum(0).unique().tolist() == [8]
    phi = signals(logits, labels).phi
    scores = lira(phi[:1], phi[1:, None], members[1:])
    estimate = read_results.attack(logits, labels, members)
    assert estimate.value == pytest.approx(roc_auc_score(members[0], scores))
    assert 0.6 < estimate.low < estimate.value < estimate.high


def test_a_run_without_an_audit_names_the_command(tmp_path):
    with pytest.raises(SystemExit, match=r"results\.json\. Run `python audit\.py --run_dir"):
        read_results.main(tmp_path, tmp_path / "plane.png")
