"""The simulation of the frontier draws what its seed says."""

import pytest

from benchmarks import frontier


@pytest.mark.parametrize(("arguments", "seed"), [([], 0), (["--seed", "3"], 3)])
def test_every_setting_is_drawn_by_the_generator_of_the_seed(arguments, seed, monkeypatch, capsys):
    drawn = []

    def report(rng, setting, repetitions):
        drawn.append((int(rng.integers(1 << 30)), repetitions))
        return "done"

    monkeypatch.setattr(frontier, "report", report)
    frontier.main(["--repetitions", "2", *arguments])
    rng = frontier.np.random.default_rng(seed)
    assert drawn == [(int(rng.integers(1 << 30)), 2) for _ in drawn]
    assert len(drawn) == capsys.readouterr().out.count("done") == 44
