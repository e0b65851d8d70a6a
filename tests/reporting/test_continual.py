"""What is said of learning in tasks: every rule, tables by hand, and an audit through its files."""

from math import nan

import pytest

from attacks.continual.comparisons import Attacker, StateLeak, Transfer
from attacks.continual.leaks import ContinualLeak, TaskCell
from attacks.continual.risk_map import RiskGroup, RiskMap
from attacks.continual.rows import TaskRow
from attacks.continual.utility import Utility
from attacks.continual.variants import VariantLeak
from attacks.metrics.differences import Difference
from attacks.metrics.intervals import Estimate, Summary
from reporting.continual import continual_tables
from reporting.continual_charts import tasks_chart
from reporting.continual_sentences import sentences, show_mean, understated

RATE, LOW = Estimate(0.05, 0.04, 0.06), Estimate(0.01, 0.0, 0.02)


def row(attack, auc, rate=RATE, holds="snapshot", control=False):
    estimate = Estimate(auc, auc - 0.02, auc + 0.02)
    summary = Summary(estimate, estimate, rate, LOW, 8, 90, 720, 7)
    return TaskRow(attack, holds, "shadows", control, summary, {})


def difference(value, p):
    return Difference("", "", Estimate(value, value - 0.01, value + 0.01), p, p)


def transfer(attack, auc, rate, control=False):
    return Transfer(attack, control, {"auc": difference(*auc), "tpr_1pct": difference(*rate)})


@pytest.fixture
def leak():
    """Two tasks of a ridge head, whose leakage rises where a loss attack says that it falls."""
    rows = [row("loss", 0.7), row("residual_lira", 0.85), row("own", 0.99, control=True)]
    cells = [TaskCell(task, stage, rows) for task, stage in ((1, 1), (1, 2), (2, 2))]
    cells[1] = cells[1]._replace(rows=[*rows, row("sum", 0.9, holds="snapshots")])
    share = Estimate(0.9, 0.85, 0.95)
    held = [
        Attacker("snapshot", ["residual_lira"], Estimate(0.85, 0.83, 0.87), RATE, LOW, None),
        Attacker(
            "snapshots", ["sum"], Estimate(0.9, 0.88, 0.92), RATE, LOW, difference(0.05, 0.01)
        ),
        Attacker("state", [*"abcde"], Estimate(0.9, 0.9, 0.9), RATE, LOW, difference(0.0, 1.0)),
    ]
    return ContinualLeak(
        classes=[[0, 1], [2, 3]],
        tasks=[1, 2],
        stages=["task-1", "full"],
        targets=8,
        shadows=16,
        false_positives={"tpr_1pct": 14, "tpr_01pct": 1},
        worlds=8,
        world_seconds=0.25,
        cells=cells,
        utility=Utility([[share], [share, share]], share, share, Estimate(-0.1, -0.2, 0.0)),
        transfers=[
            transfer("strongest", (0.03, 0.01), (0.02, 0.3)),
            transfer("loss", (-0.05, 0.001), (0.0, 1.0)),
            transfer("own", (-0.1, 0.001), (0.0, 1.0), control=True),
        ],
        by_task=[difference(0.03, 0.02)],
        attackers=held,
        state=[
            StateLeak("range_test", Estimate(1.0, 0.99, 1.0), RATE, None, None),
            StateLeak("leverage_float64", share, RATE, Estimate(0.7, 0.6, 0.8), LOW),
        ],
        exemplars=None,
        risk_map=RiskMap("paired", [RiskGroup(9, 0.3, 0.6, 0.014, share)], Estimate(0.9, 0.8, 1)),
        variants=[VariantLeak("full", share, RATE, [share, share], whole=True)],
        left_out=[],
    )  # fmt: skip


def texts(leak, key):
    table = next(table for table in continual_tables(leak) if table.key == key)
    return [[cell.text for cell in line] for line in table.rows], table.note


def test_the_matrix_worked_by_hand(leak):
    rows, note = texts(leak, "tasks")
    assert rows[1] == [
        *("1", "2", "90.0% (85.0-95.0)", "0.850 (0.830-0.870)", "residual_lira"),
        *("5.0% (4.0-6.0)", "loss", "1.0% (0.0-2.0)†", "0.700 (0.680-0.720)"),
    ]
    assert "over 8 audited models with 16 shadows against each" in note
    assert "8 heads over each audited model's own features" in note
    assert "one takes 0.25 s" in note


def test_of_many_tasks_the_own_stage_and_the_last_are_shown(leak):
    many = 13
    cells = [
        TaskCell(task, stage, leak.cells[0].rows)
        for stage in range(1, many + 1)
        for task in range(1, stage + 1)
    ]
    share = leak.utility.last
    matrix = [[share] * stage for stage in range(1, many + 1)]
    long = leak._replace(
        classes=[[task] for task in range(many)],
        stages=[*map(str, range(many))],
        tasks=[*range(1, many + 1)],
        cells=cells,
        utility=leak.utility._replace(matrix=matrix),
    )
    rows, note = texts(long, "tasks")
    assert [line[:2] for line in rows[:4]] == [["1", "1"], ["1", "13"], ["2", "2"], ["2", "13"]]
    assert "its own stage and the last are shown" in note
    chart = tasks_chart(long)
    assert {panel.heat.decimals for panel in chart.panels[0]} == {None}


def test_transfers_attackers_state_risk_and_variants_worked_by_hand(leak):
    rows, _ = texts(leak, "task_transfers")
    assert rows[0][1:] == ["+0.030 (+0.020 to +0.040)", "0.010", "+2.0 (+1.0 to +3.0)", "0.300"]
    assert [line[0] for line in rows] == [
        *("strongest", "loss", "own (control)", "strongest, task 1 alone"),
    ]
    rows, _ = texts(leak, "task_attackers")
    assert rows[0] == [
        *("the last snapshot alone", "0.850 (0.830-0.870)", "5.0% (4.0-6.0)", "1.0% (0.0-2.0)†"),
        *("-", "-", "residual_lira"),
    ]
    assert rows[2][-1] == "a, b, c and 2 more"
    rows, _ = texts(leak, "task_state")
    assert rows[0] == ["range_test", "1.000 (0.990-1.000)", "5.0% (4.0-6.0)", "-", "-"]
    rows, note = texts(leak, "task_risk")
    assert rows == [["9", "0.300", "0.600", "1.40%", "0.900 (0.850-0.950)"]]
    assert "mean over targets: 0.900 (0.800-1.000)" in note
    rows, _ = texts(leak, "task_variants")
    assert rows == [
        ["full", "0.900 (0.850-0.950)", "5.0% (4.0-6.0)", "-", "-", *["0.900 (0.850-0.950)"] * 2]
    ]


def test_other_models_have_neither_tables_nor_sentences_nor_figure():
    assert continual_tables(None) == []
    assert sentences(None) == []
    assert tasks_chart(None) is None


def test_learners_without_state_have_no_table_of_it(leak):
    plain = leak._replace(state=[], risk_map=None, variants=[], worlds=0, transfers=[], by_task=[])
    assert [table.key for table in continual_tables(plain)] == ["tasks", "task_attackers"]
    assert not any("Do not ship" in told for told in sentences(plain))


def test_what_is_shown_is_said(leak):
    assert sentences(leak) == [
        "Leakage of earlier tasks rises on average as later tasks come: AUC 0.02 to 0.04 more at "
        "the end.",
        "A loss attack misleads: it would say AUC 0.04 to 0.06 less at the end.",
        "At the end, one who holds the last snapshot alone reaches AUC 0.850 (0.830-0.870), mean "
        "over tasks. Who holds more, step by step: all snapshots: AUC 0.04 to 0.06 more; all "
        "snapshots and the learner's state: no more is shown.",
        "Do not ship R: range_test finds members of a task right after it by AUC 1.000 "
        "(0.990-1.000), and leverage_float64 those of earlier tasks at the end by AUC 0.700 "
        "(0.600-0.800).",
    ]


@pytest.mark.parametrize(
    ("auc", "rate", "told"),
    [
        ((-0.03, 0.01), (-0.02, 0.01), "falls as later tasks come: AUC 0.02 to 0.04 less and TPR"),
        ((0.03, 0.2), (-0.02, 0.01), "falls in the tail as later tasks come: TPR at 1% FPR 1.0 to"),
        (
            (0.03, 0.01),
            (-0.02, 0.01),
            "As later tasks come, leakage of earlier tasks rises on average (AUC 0.02 to 0.04 more",
        ),
        (
            (0.03, 0.2),
            (0.02, 0.2),
            "to change as later tasks come (AUC +0.020 to +0.040 before correction for the number",
        ),
    ],
    ids=["both", "tail", "opposite", "neither"],
)
def test_a_rise_or_fall_is_said_where_it_is_shown(leak, auc, rate, told):
    transfers = [transfer("strongest", auc, rate), *leak.transfers[1:]]
    assert told in sentences(leak._replace(transfers=transfers))[0]


def test_a_loss_attack_misleads_only_if_it_is_shown_to_have_the_opposite_sign(leak):
    strongest, loss, _ = leak.transfers

    def second(first, other):
        return sentences(leak._replace(transfers=[first, other]))[1]

    assert second(strongest, loss).startswith("A loss attack misleads")
    assert second(transfer("strongest", (-0.03, 0.01), (0, 1)), loss) == (
        "A loss attack says the same: AUC 0.04 to 0.06 less at the end."
    )
    assert second(transfer("strongest", (-0.02, 0.01), (0, 1)), loss) == (
        "A loss attack overstates this: it would say AUC 0.04 to 0.06 less at the end."
    )
    assert second(transfer("strongest", (0.03, 0.2), (0, 1)), loss) == (
        "A loss attack would say AUC 0.04 to 0.06 less at the end, where the strongest attack is "
        "not shown to change."
    )
    assert "loss" not in second(strongest, transfer("loss", (-0.05, 0.06), (0, 1)))


def test_a_head_is_said_to_tell_who_was_learnt_where_its_equations_do(leak):
    found = StateLeak("normal_equations", Estimate(0.9, 0.8, 0.95), RATE, None, None)
    assert sentences(leak._replace(state=[found]))[-1] == (
        "A head alone tells who was learnt: one whose candidates hold every training example "
        "solves the normal equations of its weight, by AUC 0.900 (0.800-0.950) right after each "
        "task."
    )
    found = found._replace(auc_at_end=Estimate(0.8, 0.7, 0.9), auc=Estimate(0.52, 0.49, 0.55))
    assert not any("A head alone" in told for told in sentences(leak._replace(state=[found])))


def test_a_fisher_is_not_to_be_shipped_where_an_attack_on_it_finds_members(leak):
    """Told of the best of those whose whole interval lies above guessing."""
    found = StateLeak("fisher_equations", Estimate(0.9, 0.8, 0.95), RATE, None, None)
    bound = StateLeak("fisher_bound", Estimate(0.6, 0.55, 0.65), RATE, None, None)
    assert sentences(leak._replace(state=[bound, found]))[-1] == (
        "Do not ship EWC's Fisher: fisher_equations finds members of a task right after it by AUC "
        "0.900 (0.800-0.950), by one whose candidates hold every member of the task."
    )
    found = found._replace(auc=Estimate(0.9, 0.49, 1.0))
    assert sentences(leak._replace(state=[bound, found]))[-1] == (
        "Do not ship EWC's Fisher: fisher_bound finds members of a task right after it by AUC "
        "0.600 (0.550-0.650)."
    )
    bound = bound._replace(auc=Estimate(0.6, 0.49, 0.65))
    assert not any("Fisher" in told for told in sentences(leak._replace(state=[bound, found])))


@pytest.mark.parametrize(("high", "warned"), [(0.82, True), (0.83, False), (0.9, False)])
def test_a_headline_below_what_tasks_tell_is_warned_of(leak, high, warned):
    """By hand: one who holds the last snapshot alone reaches 0.83 at least."""
    found = understated(leak, Estimate(high - 0.02, high - 0.04, high))
    assert found == warned * [
        "The headline understates what full leaks: its attacks look at the scaled logit alone. "
        "Task by task, one who holds the last snapshot alone reaches AUC 0.850 (0.830-0.870)."
    ]
    assert understated(None, Estimate(0.5, 0.4, 0.6)) == []


def test_r_may_be_shipped_where_no_test_finds_members(leak):
    nothing = Estimate(0.51, 0.49, 0.53)
    state = [StateLeak("leverage_int8", nothing, LOW, nothing, LOW)]
    assert not any("Do not ship" in told for told in sentences(leak._replace(state=state)))
    late = [StateLeak("leverage_int8", nothing, LOW, Estimate(0.6, 0.55, 0.65), LOW)]
    assert sentences(leak._replace(state=late))[-1] == (
        "Do not ship R: leverage_int8 finds members of earlier tasks at the end by AUC 0.600 "
        "(0.550-0.650)."
    )


def test_exemplars_are_said_to_be_members(leak):
    kept = leak._replace(exemplars=Estimate(0.033, 0.03, 0.036))
    assert sentences(kept)[-1] == (
        "Exemplars for replay are members for certain: who sees the memory knows 3.3% (3.0-3.6) of "
        "the members of earlier tasks."
    )
    assert "3.3% (3.0-3.6) are kept" in texts(kept, "task_state")[1]


def test_a_single_target_has_no_interval_of_its_accuracy():
    assert show_mean(Estimate(0.5, nan, nan)) == "0.500"
    assert show_mean(Estimate(0.5, nan, nan), percent=True) == "50.0%"
    assert show_mean(Estimate(nan, nan, nan)) == "unknown"


def test_matrices_stand_side_by_side(leak):
    (panels,) = tasks_chart(leak).panels
    assert [panel.title for panel in panels] == [
        *("test accuracy", "AUC, strongest attack"),
        *("TPR at 1% FPR, strongest attack", "AUC, loss attack"),
    ]
    accuracy, auc, rate, loss = (panel.heat for panel in panels)
    assert accuracy.values[0] == [0.9, 0.9]
    assert accuracy.number(accuracy.values[0][0]) == "90"
    assert accuracy.number(accuracy.values[1][0]) == ""  # task 2 is not learned in stage 1
    assert (auc.number(auc.values[1][1]), loss.number(loss.values[1][1])) == ("0.85", "0.70")
    assert rate.texts[0][1] == "task 1 after stage 2: 5.0% (4.0-6.0)"
    assert panels[0].y.limits == (2.5, 0.5)  # task 1 on top


def test_an_audit_of_learners_shows_them_in_every_view(
    task_learners, quick_audit, results_of, empty_figures
):
    printed = quick_audit(task_learners)
    results = results_of(task_learners)
    found = results["findings"]["continual"]
    page = (task_learners.path / "audit" / "report.html").read_text()
    assert {row["variant"] for row in results["rows"]} == {"full"}
    tables = [table["key"] for table in results["tables"] if table["key"].startswith("task")]
    assert tables == ["tasks", "task_transfers", "task_attackers", "task_state", "task_risk"]
    assert (found["stages"], found["targets"], found["shadows"]) == (
        ["task-1", "task-2", "full"], 2, 8
    )  # fmt: skip
    told = next(told for told in results["sentences"] if told.startswith("Do not ship R: range"))
    assert told in printed
    assert "tasks" in results["figures"]
    assert "What a learner&#39;s state gives away" in page or "What a learner's state" in page
    assert results["basis"]["tasks"] == "3 of 4, 3, 3 classes, learner acil"
    assert results["basis"]["fewer rows than features"].startswith("tasks 1, 2, 3: ")
    assert "Nothing has changed" in quick_audit(task_learners)
