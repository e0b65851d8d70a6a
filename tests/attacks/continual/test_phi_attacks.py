"""Attacks on phi on one task, against the same attacks on signals that were cut by hand."""

import torch

from attacks.continual.phi_attacks import PHI_ATTACKS, attack_phi
from attacks.evaluate import score
from attacks.game import Game, ModelSignals


def test_a_task_is_attacked_by_its_own_examples_and_population(learners):
    known = learners.by_stage["task-2"]
    found = attack_phi(learners, learners.tasks, 1, "task-2", known)
    own, others = (torch.isin(labels, torch.tensor([4, 5, 6])) for labels in known.labels)
    cut = ModelSignals(
        known.phi[..., own],
        known.hinge[..., own],
        known.population[..., others],
        known.population_hinge[..., others],
    )
    game = Game({"task-2": cut}, learners.members[:, own], learners.cases)
    alone = score(["gap", "global_threshold"], game, "task-2", "none")
    expected = alone | score(["rmia_online", "lira_online", "lira_online_fixed"], game, "task-2")
    assert found.keys() == {*PHI_ATTACKS}
    for name, scores in found.items():
        assert torch.equal(scores, expected[name])


def test_what_lacks_shadows_or_a_population_is_not_made(learners):
    known = learners.by_stage["full"]
    few = learners._replace(cases=[case._replace(shadows=[0, 1]) for case in learners.cases])
    assert attack_phi(few, few.tasks, 0, "full", known).keys() == {
        "gap",
        "global_threshold",
        "rmia_online",
    }
    nobody = known._replace(labels=(known.labels[0], known.labels[1].clamp_min(4)))
    assert "rmia_online" not in attack_phi(learners, learners.tasks, 0, "full", nobody)
