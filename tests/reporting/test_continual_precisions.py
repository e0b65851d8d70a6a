"""What is said of quantized snapshots: every rule, tables by hand, and an audit of a fleet."""

import pytest

import train
from attacks.continual.precisions import Holder, PrecisionLeak
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate
from reporting.continual_precisions import holders_table, precision_sentences, precisions_table
from reporting.dashboard import _summary_of_tasks
from storage.run_folder import RunFolder

RATE = Estimate(0.05, 0.04, 0.06)


def around(value):
    return Estimate(value, value - 0.02, value + 0.02)


def holder(holds, auc, change=None, p=0.01):
    beyond = None
    if change is not None:
        beyond = Difference("", "", Estimate(change, change - 0.01, change + 0.01), p, p)
    return Holder(holds, around(auc), RATE, beyond)


@pytest.fixture
def leak(bare_leak):
    """Two tasks, of which 4 bits tell less only to one who holds the last snapshot."""
    precisions = [
        PrecisionLeak(
            "full",
            [[around(0.8)], [around(0.85), around(0.9)]],
            [holder("snapshot", 0.85), holder("snapshots", 0.9)],
        ),
        PrecisionLeak(
            "nearest-w4",
            [[around(0.6)], [around(0.65), around(0.7)]],
            [holder("snapshot", 0.65, -0.2), holder("snapshots", 0.88, -0.02, p=0.3)],
        ),
    ]
    return bare_leak._replace(precisions=precisions)


def texts(table):
    return [[cell.text for cell in line] for line in table.rows]


def test_tables_worked_by_hand(leak):
    table = precisions_table(leak)
    assert table.columns == ("task", "after stage", "AUC, full", "AUC, nearest-w4")
    assert texts(table) == [
        ["1", "1", "0.800 (0.780-0.820)", "0.600 (0.580-0.620)"],
        ["1", "2", "0.850 (0.830-0.870)", "0.650 (0.630-0.670)"],
        ["2", "2", "0.900 (0.880-0.920)", "0.700 (0.680-0.720)"],
    ]
    rows = texts(holders_table(leak))
    assert rows[0] == [
        *("full", "the last snapshot alone", "0.850 (0.830-0.870)", "5.0% (4.0-6.0)†", "-", "-"),
    ]
    assert rows[3] == [
        *("nearest-w4", "all snapshots", "0.880 (0.860-0.900)", "5.0% (4.0-6.0)†"),
        *("-0.020 (-0.030 to -0.010)", "0.300"),
    ]


def test_of_a_task_that_is_left_out_others_keep_their_place(leak):
    first, second = leak.precisions
    part = [first._replace(auc=[[], [around(0.9)]]), second._replace(auc=[[], [around(0.7)]])]
    rows = texts(precisions_table(leak._replace(tasks=[2], precisions=part)))
    assert rows == [["2", "2", "0.900 (0.880-0.920)", "0.700 (0.680-0.720)"]]


def test_what_is_shown_is_said(leak):
    assert precision_sentences(leak) == [
        "Of earlier tasks, one who only ever gets nearest-w4 finds at the end, beside one who gets "
        "unquantized networks: the last snapshot alone: AUC 0.19 to 0.21 less; all snapshots: no "
        "difference is shown. All snapshots still find members of earlier tasks, by AUC 0.880 "
        "(0.860-0.900)."
    ]


@pytest.mark.parametrize(
    ("everything", "told"),
    [
        (holder("snapshots", 0.51, -0.4), "All snapshots are not shown to find members of"),
        (holder("snapshots", 0.95, 0.05), "all snapshots: AUC 0.04 to 0.06 more. All snapshots s"),
    ],
    ids=["nothing", "more"],
)
def test_other_rules(leak, everything, told):
    full, quantized = leak.precisions
    changed = quantized._replace(holders=[quantized.holders[0], everything])
    assert told in precision_sentences(leak._replace(precisions=[full, changed]))[0]


def test_nothing_is_said_without_quantized_snapshots(leak):
    plain = leak._replace(precisions=())
    assert precision_sentences(None) == precision_sentences(plain) == []
    assert precisions_table(plain).rows == holders_table(plain).rows == []


@pytest.mark.fleet
def test_an_audit_tells_of_quantized_snapshots(toy, tmp_path, quick_audit, results_of):
    folder = tmp_path / "run"
    options = (
        "--fleet.shadows 4 --fleet.targets 2 --snapshots --continual.tasks 2 --data.pool_size 240 "
        "--continual.learner acil --continual.analytic.buffer 64 --trainer.max_epochs 2 "
        "--quantize nearest-w4"
    )
    train.main(toy(folder, f"{options} --quantize_snapshots true"))
    printed, results = quick_audit(RunFolder(folder)), results_of(RunFolder(folder))
    # a state that lacks tasks is compared with no variant
    assert {row["variant"] for row in results["rows"]} == {"full", "nearest-w4"}
    tables = {table["key"]: table for table in results["tables"]}
    assert len(tables["task_precisions"]["rows"]) == 3
    assert len(tables["task_precision_holders"]["rows"]) == 4
    told = [t for t in results["sentences"] if t.startswith("Of earlier tasks, one who only ever")]
    assert len(told) == 1
    assert told[0] in printed
    leak = results["findings"]["continual"]
    summary = _summary_of_tasks(leak)
    _, quantized = leak["precisions"]
    prefix = "continual/precision/nearest-w4"
    assert summary[f"{prefix}/task-1/after-2/auc"] == quantized["auc"][1][0]["value"]
    assert summary[f"{prefix}/holds/snapshots/auc"] == quantized["holders"][1]["auc"]["value"]
    RunFolder(folder).signals(RunFolder(folder).read().names[0], "task-1-nearest-w4").unlink()
    with pytest.raises(SystemExit, match=r"unfinished: shadow-000\. Run train\.py again"):
        quick_audit(RunFolder(folder))
