"""`--fleet.dry_run true` lists the work and its cost, and writes nothing."""

import re

import pytest

import train

FILES = ("*.safetensors", "signals/*.safetensors", "last.ckpt")


def planned(output):
    """Counts by label from the table of work, and the whole output without line breaks."""
    rows = re.findall(r"│ (\S[^│]*?) +│[^│]*│ +(\d+) │", output)
    return {label: int(count) for label, count in rows}, " ".join(output.split())


def test_a_dry_run_writes_nothing_and_lists_the_work(toy, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    train.main(toy(tmp_path / "run", "--fleet.dry_run true --fleet.models 1-3 --fleet.shadows 8"))
    counts, said = planned(capsys.readouterr().out)
    assert list(tmp_path.iterdir()) == []
    assert counts == {
        "training, 3 epochs": 3,
        "signals of a variant": 15,
        "nearest-w2": 3,
        "nearest-w1.58-last8": 3,
        "adaround-w1.58-last8": 3,
    }
    assert "3 to be made, 0 finished" in said
    assert "3 epochs of 2 steps over 32 images; 5 variants; identity, mirror, shift-1+0" in said


def test_a_dry_run_of_a_finished_fleet_counts_only_what_is_missing(
    toy, finished, snapshot, capsys, unwrap
):
    before = snapshot(finished)
    train.main(toy(finished, "--fleet.dry_run true --quantize nearest-w8 --fleet.shadows 6"))
    counts, said = planned(capsys.readouterr().out)
    assert snapshot(finished) == before
    assert counts["training, 3 epochs"] == counts["nearest-w2"] == 2
    assert counts["nearest-w8"] == 7
    assert counts["signals of a variant"] == 5 + 2 * 6
    assert "5 finished models" in said
    folder = finished / "models" / "shadow-000"
    sizes = {name: sum(path.stat().st_size for path in folder.glob(name)) for name in FILES}
    train.main(toy(finished, "--fleet.dry_run true"))
    said = unwrap(capsys.readouterr().out)
    assert "0 to be made, 5 finished" in said
    assert f"{sizes['*.safetensors']:,} of weights" in said
    full = (folder / "full.safetensors").stat().st_size
    assert f"{full:,} of them full and each snapshot; " in said
    assert f"{sizes['last.ckpt']:,} of its checkpoint" in said
    kept = int(re.search(r"([\d,]+) of signals", said)[1].replace(",", ""))
    assert kept == pytest.approx(sizes["signals/*.safetensors"], abs=4 * 16)


def test_a_dry_run_counts_the_training_that_a_lost_snapshot_costs(
    toy, finished, snapshot, capsys, unwrap
):
    """As the run would: one model lacks everything, and says what it would lose."""
    (finished / "models" / "target-000" / "epoch-01.safetensors").unlink()
    before = snapshot(finished)
    train.main(toy(finished, "--fleet.dry_run true"))
    output = capsys.readouterr().out
    counts, _ = planned(output)
    assert snapshot(finished) == before
    assert counts == {
        "training, 3 epochs": 1,
        "signals of a variant": 5,
        "nearest-w2": 1,
        "nearest-w1.58-last8": 1,
        "adaround-w1.58-last8": 1,
    }
    assert "target-000 would be trained again from the start" in unwrap(output)
    assert "back epoch-01: 13 files" in unwrap(output)


def test_a_dry_run_stops_on_the_errors_of_a_real_run(toy, finished, snapshot):
    before = snapshot(finished)
    with pytest.raises(SystemExit, match=r"model\.lr: 0\.1 in the folder, 0\.2 asked"):
        train.main(toy(finished, "--fleet.dry_run true --model.lr 0.2"))
    assert snapshot(finished) == before
