"""Which fleets the page takes, and what it keeps of them."""

import json

import pytest

from attacks.continual.precisions import Holder, PrecisionLeak
from attacks.continual.variants import RoundedLeak
from docs.continual.fleets import keep, read
from docs.continual.leak import parse_leak
from reporting.results import plain


@pytest.fixture
def store(write, tmp_path):
    """Keeps the results of a fleet."""

    def run(name, **known):
        key, text = keep(write(tmp_path, name, **known))
        (tmp_path / f"{key}.json").write_text(text)
        return key

    return run


@pytest.mark.parametrize("solves", [True, False])
def test_what_is_found_is_read_back(leak_of, solves):
    leak = leak_of(0.1, 0.0, solves)
    if not solves:
        leak = leak._replace(world_seconds=0.0)  # NaN, which it is, equals nothing
    assert parse_leak(json.loads(json.dumps(plain(leak)))) == leak


def test_what_is_found_of_quantized_networks_is_read_back(leak_of):
    leak = leak_of(0.1, 0.0, True)
    (full,), (change,) = leak.variants, leak.by_task[:1]
    rounded = full._replace(beyond=change, rounded=RoundedLeak(full.auc, full.auc, change))
    holders = [
        Holder("snapshot", full.auc, full.auc, None),
        Holder("snapshots", *full[1:3], change),
    ]
    precisions = [PrecisionLeak("nearest-w4", [[full.auc], [full.auc] * 2], holders)]
    leak = leak._replace(variants=[full, rounded], precisions=precisions)
    assert parse_leak(json.loads(json.dumps(plain(leak)))) == leak


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "finetune"),
        ({"joint": True}, "joint"),
        ({"replay": 5}, "replay"),
        ({"ewc": 1.5}, "ewc"),
        ({"learner": "sdmlp", "ewc": 100.0}, "sdmlp-ewc"),
        ({"learner": "ssd", "ewc": 300.0}, "ssd-ewc"),
        ({"learner": "real"}, "real"),
        ({"learner": "acil"}, "acil"),
        ({"learner": "acil", "analytic": {"buffer": 128}}, "acil-128"),
    ],
)
def test_a_fleet_is_named_for_what_learns_the_tasks(name, options, expected):
    assert name(**options) == expected


def test_accuracy_and_facts_of_each_stage_are_those_of_the_records(store, tmp_path):
    """By hand: 0.3 of 0.9 is forgotten by the target whose noise is 0."""
    store("finetune", forgotten=0.3)
    fleet = read(tmp_path)["finetune"]
    assert fleet.accuracy.shape == (8, 3, 3)
    assert fleet.accuracy[5, -1].tolist() == pytest.approx([0.6, 0.6, 0.9])
    assert fleet.facts == {"rows": 140.0, "active": 10.5, "late": 1.0}


def test_kept_fleets_come_in_the_order_of_the_page_and_without_snapshots(store, tmp_path):
    for learner in ("acil", "ssd", "finetune"):
        store(learner)
    fleets = read(tmp_path)
    assert [*fleets] == ["finetune", "ssd", "acil"]
    assert [*fleets["acil"].study.variants] == ["full"]


def test_numbers_by_target_are_kept_right_after_a_task_and_at_the_end(store, tmp_path):
    """Of an attacker who holds one network; what others find is kept as means over tasks."""
    store("acil")
    leak = read(tmp_path)["acil"].leak
    kept = {(1, 1): ["auc", "tpr_1pct"], (1, 2): [], (1, 3): ["auc", "tpr_1pct"]}
    for (task, stage), measures in kept.items():
        rows = leak.cell(task, stage).rows
        assert [[*row.by_target] for row in rows] == [measures] * 4
        assert {row.holds for row in rows} == {"snapshot"}
    assert leak.attackers[1].holds == "state"


def test_a_folder_without_tasks_is_refused(write, tmp_path):
    folder = write(tmp_path, "acil")
    path = folder / "audit" / "results.json"
    content = json.loads(path.read_text())
    content["findings"] = {}
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=r"do not\. Train them by recipes/continual/study\.yaml"):
        keep(folder)


def test_a_record_without_stages_is_refused(write, tmp_path):
    folder = write(tmp_path, "acil")
    (folder / "models" / "target-003" / "full.json").write_text("{}")
    with pytest.raises(ValueError, match=r"target-003/full.json does not say how accurate"):
        keep(folder)


def test_the_page_needs_a_fleet(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"keeps none\. Name its run folder"):
        read(tmp_path)


def test_fleets_of_other_tasks_are_refused(store, tmp_path):
    store("finetune")
    store("acil", continual={"learner": "acil", "order_seed": 1})
    with pytest.raises(
        ValueError, match=r"acil.json differs from finetune in continual.order_seed"
    ):
        read(tmp_path)


def test_a_damaged_file_is_refused(store, tmp_path):
    store("finetune")
    path = tmp_path / "finetune.json"
    path.write_text(path.read_text().replace('"cells"', '"else"'))
    with pytest.raises(ValueError, match=r"finetune.json is damaged: KeyError"):
        read(tmp_path)
