"""Every attack on learners of tasks, where nothing leaks and where what leaks is known."""

import pytest
import torch

from attacks.continual import ATTACKS
from attacks.continual.leaks import UNSOLVED, find_continual_leak
from attacks.continual.phi_attacks import PHI_ATTACKS, attack_phi
from attacks.continual.rows import JOINT, STATE_JOINT, Sums, attack_cell
from attacks.metrics.intervals import delong, tail_interval
from attacks.tasks import RoundedWorlds

SUMMED = [f"{name}{JOINT}" for name, attack in ATTACKS.items() if attack.ratio] + [STATE_JOINT]
OF_OTHERS = {"exemplars", "fisher_excess", "fisher_solved", "subnetwork_share"}  # learners


@pytest.fixture(scope="module")
def leak(learners):
    return find_continual_leak(learners)


@pytest.fixture(scope="module")
def nothing(null_learners, cell_of):
    """Scores of every attack on both tasks of learners whose membership was drawn anew."""
    game, sums, found = null_learners, Sums(), {}
    for place, name in enumerate(game.by_stage):
        for task in range(place + 1):
            phi = attack_phi(game, game.tasks, task, name, game.by_stage[name])
            cell = cell_of(game, task, place)
            kept = cell.members & (torch.arange(len(cell.labels)) % 3 == 0)
            # of anybody, as no learner here keeps them
            drawn = torch.rand(cell.members.shape, generator=torch.Generator().manual_seed(task))
            others = dict.fromkeys(OF_OTHERS - {"exemplars"}, drawn)
            cell = cell._replace(exemplars=kept.roll(1, 1), **others)
            found[task, place] = attack_cell(cell, task, sums, phi), cell.members[8]
    return found


@pytest.mark.parametrize("name", [*PHI_ATTACKS, *ATTACKS, *SUMMED])
def test_nothing_is_found_where_nothing_leaks(nothing, name):
    """AUC is 0.5 and TPR is FPR within limits that chance exceeds once in a thousand."""
    cells = [(found[name], members) for found, members in nothing.values() if name in found]
    assert cells
    for found, members in cells:
        scores = found.scores[0]
        area = delong(scores, members, confidence=0.999)
        assert area.low <= 0.5 <= area.high
        for fpr in (0.01, 0.1):
            low, high = tail_interval(scores[members], scores[~members], fpr, 0.999)
            assert low <= fpr <= high


def test_every_attack_is_made_on_each_task_from_its_own_stage_on(leak, learners):
    assert [(cell.task, cell.stage) for cell in leak.cells] == [
        (task, stage) for stage in range(1, 4) for task in range(1, stage + 1)
    ]
    unknown = {name for name, attack in ATTACKS.items() if OF_OTHERS & {*attack.needs}}
    expected = {*PHI_ATTACKS, *ATTACKS, STATE_JOINT} - unknown
    assert {row.attack for row in leak.cell(2, 2).rows} == expected
    later = expected - {"range_test"} | {*SUMMED}
    assert {row.attack for row in leak.cell(2, 3).rows} == later
    assert (leak.targets, leak.shadows, leak.worlds) == (2, 8, 8)
    outside = [int((~learners.audited[:, learners.tasks.task == task]).sum()) for task in range(3)]
    assert leak.false_positives["tpr_1pct"] == int(0.01 * min(outside))
    assert leak.cell(3, 2) is None


def test_what_is_known_of_ridge_heads_is_found(leak):
    """As of numpy: whole vectors tell more than own columns and margins, pairs more than shadows.

    All snapshots tell more than the last, and R tells most.
    """
    for task in (1, 2):
        found = {row.attack: row.summary.auc.value for row in leak.cell(task, 3).rows}
        assert found["residual_lira"] > found["residual_lira_own_columns"] + 0.03
        assert found["residual_lira_paired"] > found["residual_lira"] + 0.03
        assert abs(found["residual_lira_worlds"] - found["residual_lira_paired"]) < 0.05
        assert found["residual_lira_paired"] > found["lira_online_fixed"] + 0.1
        assert found[f"residual_lira_paired{JOINT}"] > found["residual_lira_paired"]
        assert found["leverage_lira_float64"] > 0.9
    last, snapshots, state = leak.attackers
    assert (last.holds, snapshots.holds, state.holds) == ("snapshot", "snapshots", "state")
    assert last.auc.value < snapshots.auc.value < state.auc.value
    assert state.gain.estimate.value == pytest.approx(state.auc.value - snapshots.auc.value)
    tested = {found.attack: found for found in leak.state}
    assert tested["range_test"].auc.value == 1
    assert tested["range_test"].auc_at_end is None
    assert tested["leverage_float64"].auc.value > tested["leverage_float64"].auc_at_end.value
    assert leak.risk_map.correlation.value > 0.5


def test_transfers_are_means_over_tasks_of_what_the_cells_say(leak):
    for transfer in leak.transfers[1:]:
        change = [
            leak.cell(task, 3).named(transfer.attack).summary.auc.value
            - leak.cell(task, task).named(transfer.attack).summary.auc.value
            for task in (1, 2)
        ]
        assert transfer.by_metric["auc"].estimate.value == pytest.approx(sum(change) / 2)
    controls = [transfer.attack for transfer in leak.transfers if transfer.control]
    assert controls == ["residual_lira_own_columns"]
    assert [transfer.attack for transfer in leak.transfers[:2]] == ["strongest", "loss"]
    mean = sum(difference.estimate.value for difference in leak.by_task) / 2
    assert leak.transfers[0].by_metric["auc"].estimate.value == pytest.approx(mean)


def test_strongest_attacks_are_chosen_on_other_targets(leak):
    """Of two targets, each is attacked by what finds most of the other."""
    chosen = []
    for target in (0, 1):
        rows = [row for row in leak.cell(3, 3).rows if row.holds == "snapshot" and not row.control]
        best = max(rows, key=lambda row: row.by_target["auc"][1 - target])
        chosen.append(best.by_target["auc"][target])
    others = []
    for task in (1, 2):
        cell = leak.cell(task, 3)
        for target in (0, 1):
            rows = [row for row in cell.rows if row.holds == "snapshot" and not row.control]
            best = max(rows, key=lambda row: row.by_target["auc"][1 - target])
            others.append(best.by_target["auc"][target])
    assert leak.attackers[0].auc.value == pytest.approx(sum(chosen + others) / 6)


def test_learners_without_a_matrix_are_attacked_by_outputs(learners):
    stages = [
        stage._replace(leverage={}, outside=None, worlds={}, solved=None)
        for stage in learners.tasks.stages
    ]
    leak = find_continual_leak(learners._replace(tasks=learners.tasks._replace(stages=stages)))
    names = {row.attack for row in leak.cell(1, 3).rows}
    expected = {"loss", "residual_lira", "residual_lira_own_columns", f"residual_lira{JOINT}"}
    assert names == {*PHI_ATTACKS} | expected
    assert leak.state == []
    assert leak.risk_map is None
    assert [attacker.holds for attacker in leak.attackers] == ["snapshot", "snapshots"]


def test_normal_equations_that_were_not_recorded_are_named(leak, learners):
    assert not leak.left_out
    stages = [stage._replace(solved=None) for stage in learners.tasks.stages]
    lacking = find_continual_leak(learners._replace(tasks=learners.tasks._replace(stages=stages)))
    assert lacking.left_out == [UNSOLVED]
    assert {found.attack for found in leak.state} - {found.attack for found in lacking.state} == {
        "normal_equations"
    }


def test_kept_exemplars_are_counted(learners):
    kept = learners.members & (torch.arange(450) % 3 == 0)
    stages = [stage._replace(exemplars=kept) for stage in learners.tasks.stages]
    leak = find_continual_leak(learners._replace(tasks=learners.tasks._replace(stages=stages)))
    old = learners.tasks.task < 2
    share = (kept & old)[8:].sum(1) / (learners.members & old)[8:].sum(1)
    assert leak.exemplars.value == pytest.approx(share.mean().item())
    row = leak.cell(1, 3).named("exemplars")
    first = learners.tasks.task == 0
    areas = 0.5 + (kept & first)[8:].sum(1) / (learners.members & first)[8:].sum(1) / 2
    assert row.summary.auc.value == pytest.approx(areas.mean().item())


def test_variants_at_the_end_are_attacked_task_by_task(learners):
    signals = learners.signals["full"]
    noisy = signals._replace(phi=torch.randn_like(signals.phi), hinge=None, population=None)
    game = learners._replace(signals={"full": signals, "nearest-w2": noisy})
    full, noise = find_continual_leak(game).variants
    assert (full.variant, noise.variant) == ("full", "nearest-w2")
    assert full.auc.value == pytest.approx(sum(e.value for e in full.by_task) / 3)
    assert full.auc.value > 0.6
    assert noise.auc.low < 0.5 < noise.auc.high


def test_whole_outputs_of_variants_are_attacked_where_all_are_known(learners):
    """Outputs without noise are those of `full`, which a vector attack finds more in than phi."""
    end, signals = learners.tasks.stages[2], learners.signals["full"]
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(end.outputs.shape, generator=generator)
    outputs = {"nearest-w8": end.outputs, "nearest-w2": noise}
    game = learners._replace(signals={"full": signals} | dict.fromkeys(outputs, signals))
    by_phi = find_continual_leak(game).variants
    assert not any(found.whole for found in by_phi)
    assert len({found.auc.value for found in by_phi}) == 1
    tasks = learners.tasks._replace(outputs=outputs)
    full, same, noisy = find_continual_leak(game._replace(tasks=tasks)).variants
    assert full.whole
    assert full.auc == same.auc
    assert full.auc.value > by_phi[0].auc.value + 0.05
    assert noisy.auc.value < full.auc.value
    partly = tasks._replace(outputs={"nearest-w8": end.outputs})
    assert find_continual_leak(game._replace(tasks=partly)).variants == by_phi


def test_variants_are_compared_with_full_by_attacks_that_both_are_open_to(learners):
    """Rounded worlds that are the worlds of `full` find the same, and vague ones no more."""
    end, signals = learners.tasks.stages[2], learners.signals["full"]
    names = ["nearest-w8", "nearest-w4", "brecq-w2"]
    worlds = {"nearest-w8": _both_sides(learners), "nearest-w4": _both_sides(learners, noise=9.0)}
    tasks = learners.tasks._replace(outputs=dict.fromkeys(names, end.outputs), worlds=worlds)
    game = learners._replace(signals={"full": signals} | dict.fromkeys(names, signals))
    full, same, vague, without = find_continual_leak(game._replace(tasks=tasks)).variants
    cells = [c.rows for c in find_continual_leak(learners).cells if c.stage == 3]
    named = [next(row for row in rows if row.attack == "residual_lira_worlds") for rows in cells]
    expected = sum(row.summary.auc.value for row in named) / 3
    assert same.rounded.worlds.value == pytest.approx(expected)
    assert same.rounded.gain.estimate.value > 0.01
    assert same.beyond.estimate.value == pytest.approx(0, abs=1e-3)  # float64 or float32 residuals
    assert vague.rounded.worlds.value < same.rounded.worlds.value - 0.05
    assert vague.rounded.shadows == same.rounded.shadows
    assert full.rounded is full.beyond is without.rounded is None
    # brecq-w2 has the outputs of `full`, and is compared with it by what both are open to
    assert without.beyond.estimate.value == 0
    assert full.auc.value > without.auc.value


def _both_sides(game, noise=0.0):
    """What worlds in closed form say, as if it had been recorded behind a rounding."""
    sides, truth = {}, torch.eye(10)[game.tasks.labels.long()]
    for row, worlds in game.tasks.stages[2].worlds.items():
        learnt = worlds.members[..., None]
        h = torch.where(worlds.members, worlds.leverage, worlds.leverage / (1 + worlds.leverage))
        out = truth - worlds.outputs
        other = torch.where(learnt, out / (1 - h[..., None]), out * (1 - h[..., None]))
        both = torch.where(learnt, out, other), torch.where(learnt, other, out)
        draws = torch.Generator().manual_seed(row)
        sides[row] = RoundedWorlds(
            *(truth - s + noise * torch.randn(s.shape, generator=draws) for s in both)
        )
    return sides


def test_a_task_without_members_is_left_out_and_named(learners):
    members = learners.members.clone()
    members[8, learners.tasks.task == 1] = False
    leak = find_continual_leak(learners._replace(members=members))
    assert leak.tasks == [1, 3]
    assert leak.left_out == [
        "Task 2 was left out of the attacks on tasks: an audited model has 0 members or "
        "non-members of it, and 2 are needed. Take fewer tasks, or a larger pool."
    ]


def test_models_without_tasks_have_no_such_leak(learners):
    assert find_continual_leak(learners._replace(tasks=None)) is None
