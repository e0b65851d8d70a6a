"""Attacks on members that are drawn anew after training, of whom nothing can be found."""

import pytest
import torch

from attacks.metrics.intervals import Estimate
from docs.continual import sentences
from docs.continual.null import count, draw_anew, find_null, write_null
from docs.study.null import FILE, Null, read_nulls


def test_members_are_drawn_anew_within_each_class(tasks_game):
    """By hand: every model keeps its number of members of each class, and pairs stay halves."""
    drawn, labels = draw_anew(tasks_game), tasks_game.tasks.labels
    assert not torch.equal(drawn.members, tasks_game.members)
    for label in labels.unique():
        before, after = (game.members[:, labels == label].sum(1) for game in (tasks_game, drawn))
        assert torch.equal(before, after)
    assert torch.equal(drawn.members[0], ~drawn.members[1])
    assert draw_anew(tasks_game._replace(tasks=None)).members is tasks_game.members


def test_intervals_that_hold_guessing_are_counted(leak_of):
    """By hand: all 18 attacks of a made-up learner have an AUC of 0.6 or more; one is moved."""
    leak = leak_of(0.0, 0.0, False)
    assert count(leak) == Null({"auc": 0, "tpr_1pct": 0}, 18)
    cell = leak.cells[0]
    summary = cell.rows[0].summary._replace(auc=Estimate(0.51, 0.49, 0.53))
    cell.rows[0] = cell.rows[0]._replace(summary=summary)
    assert count(leak).holding == {"auc": 1, "tpr_1pct": 0}


def test_nulls_are_kept_and_told(tmp_path):
    null = {"acil": Null({"auc": 95, "tpr_1pct": 90}, 100)}
    assert read_nulls(tmp_path) == {}
    (tmp_path / FILE).write_text(write_null(null))
    assert read_nulls(tmp_path) == null
    assert sentences.nothing_to_find(null) == (
        "- acil, 100 attacks on all tasks and stages: AUC of 95 hold 0.5 and TPR at 1% FPR of 90 "
        "hold 0.01."
    )
    (tmp_path / FILE).write_text('{"acil": {"else": 1}}')
    with pytest.raises(ValueError, match=r"null.json is damaged: TypeError"):
        read_nulls(tmp_path)


def test_models_that_do_not_learn_in_tasks_are_refused(tasks_game, monkeypatch, tmp_path):
    class Gathered:
        game = tasks_game._replace(tasks=None)

    monkeypatch.setattr("docs.continual.null.gather", lambda *args, **options: Gathered)
    with pytest.raises(ValueError, match=r"`--null` needs networks that learn in tasks, and"):
        find_null(tmp_path)
