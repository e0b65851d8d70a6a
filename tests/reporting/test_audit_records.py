"""How each variant was made: the records of quantizers in the table, the figure and the CSV."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from reporting.figures import layers_chart


def layer_lines(run, quick_audit, monkeypatch):
    """Audit, and return the lines of each panel of the figure of layers."""
    charts = []

    def keep(records):
        charts.append(layers_chart(records))
        return charts[0]

    monkeypatch.setattr("reporting.illustrate.layers_chart", keep)
    quick_audit(run)
    panels = [panel for row in charts[0].panels for panel in row]
    return [[list(series.y) for series in panel.series] for panel in panels]


def test_records_are_averaged_over_the_audited_models(
    make_run, monkeypatch, read_csv, write_records, units, quick_audit
):
    run = make_run(targets=3)
    write_records(run)
    records = {
        variant: [
            json.loads(run.record(name, variant).read_text()) for name in run.read().names[10:]
        ]
        for variant in ("nearest-w4", "nearest-w2")
    }
    left, right = layer_lines(run, quick_audit, monkeypatch)

    def mean(key):
        by_model = [[layer[key] for layer in made["layers"]] for made in records["nearest-w2"]]
        return pytest.approx(np.mean(by_model, 0))

    assert left == [mean("flipped")]  # `nearest-w4` moved nothing
    assert right == [mean("error_before"), mean("error_after")]
    seconds = {v: np.mean([made["seconds"] for made in models]) for v, models in records.items()}
    for line in read_csv(run):
        expected = seconds.get(line["variant"])
        assert line["seconds"] == (expected and pytest.approx(expected))
    results = json.loads((run.path / "audit" / "results.json").read_text())
    assert {row["variant"]: row["seconds"] for row in results["rows"]} == {
        "full": None,
        **{variant: pytest.approx(value) for variant, value in seconds.items()},
    }
    page = (run.path / "audit" / "report.html").read_text()
    table = page[page.index("How each variant was quantized") :].split("</table>")[0]
    for text in ("squared error of blocks", "members, 1,024 images", "4 blocks, 2 layers"):
        assert f">{text}<" in table
    assert table.count(", ".join(units)) == 2
    assert [f">{value:.1f}</td>" in table for value in seconds.values()] == [True, True]
    assert "mean over 3 audited models" in page


def test_the_figure_of_layers_comes_and_goes_with_the_records(
    make_run, audit_files, audit_states, read_csv, write_records, quick_audit
):
    """Like other figures it is whole, is written again, and a second call does nothing."""
    run = make_run()
    quick_audit(run)  # as in folders of older versions
    folder = run.path / "audit"
    assert {file.name for file in folder.iterdir()} == audit_files
    assert "How each variant was quantized" not in (folder / "report.html").read_text()
    assert {line["seconds"] for line in read_csv(run)} == {None}
    write_records(run)
    assert "Nothing has changed" not in quick_audit(run)
    assert {file.name for file in folder.iterdir()} == audit_files | {"layers.png"}
    before, drawn = audit_states(run), (folder / "layers.png").read_bytes()
    assert drawn.endswith(b"IEND\xaeB`\x82")
    assert "Nothing has changed" in quick_audit(run)
    assert audit_states(run) == before
    (folder / "layers.png").unlink()
    assert "Nothing has changed" not in quick_audit(run)
    assert (folder / "layers.png").read_bytes() == drawn
    write_records(run, seconds=77.0)
    assert "Nothing has changed" not in quick_audit(run)
    assert {line["seconds"] for line in read_csv(run)} == {None, 77}
    for path in run.path.glob("models/*/*.json"):
        path.unlink()
    quick_audit(run)
    assert {file.name for file in folder.iterdir()} == audit_files
    assert "Nothing has changed" in quick_audit(run)


def test_rounding_to_nearest_alone_has_a_table_and_no_figure(make_run, write_records, quick_audit):
    run = make_run()
    write_records(run, ["nearest-w4"])
    quick_audit(run)
    assert not (run.path / "audit" / "layers.png").exists()
    assert "How each variant was quantized" in (run.path / "audit" / "report.html").read_text()
    assert "Nothing has changed" in quick_audit(run)


def test_excluded_models_and_models_without_a_record_do_not_count(
    make_run, change_signals, read_csv, write_records, quick_audit
):
    run = make_run(targets=4)
    write_records(run)
    names = run.read().names
    run.record(names[10], "nearest-w2").unlink()
    path = run.signals(names[11], "full")
    change_signals(path, phi=load_file(path)["phi"] * torch.nan)
    quick_audit(run)
    seconds = {
        variant: np.mean([2.5**i for i in targets])
        for variant, targets in (("nearest-w4", (0, 2, 3)), ("nearest-w2", (2, 3)))
    }
    shown = {line["variant"]: line["seconds"] for line in read_csv(run)}
    assert shown.pop("full") is None
    assert shown == pytest.approx(seconds)
    page = (run.path / "audit" / "report.html").read_text()
    assert "mean over 2 to 3 audited models" in page


def test_a_damaged_record_is_named(make_run, write_records, quick_audit):
    run = make_run()
    write_records(run)
    run.record(run.read().names[11], "nearest-w2").write_text("{")
    with pytest.raises(SystemExit, match=r"target-001/nearest-w2\.json is not a whole record"):
        quick_audit(run)
    assert not (run.path / "audit").exists()


def test_hostile_names_in_records_are_escaped(make_run, write_records, quick_audit):
    run = make_run()
    name = "<script>alert('1')</script> $x^{$"
    layers = [{"name": name, "flipped": 0.5, "error_before": 1.0, "error_after": 0.5}]
    write_records(run, objective=name, units=[name] * 7, layers=layers)
    quick_audit(run)
    page = (run.path / "audit" / "report.html").read_text()
    assert name not in page
    # one row per variant, with the objective and seven units
    assert page.count("&lt;script&gt;alert(&#39;1&#39;)") == 2 * (1 + 7)
