"""Do comparisons of experiments find a difference in 5% where there is none, paired or not?

    OMP_NUM_THREADS=1 python -m benchmarks.experiments   # 200 simulations per setting

Signals are Gaussian: phi of an example is its difficulty, plus noise of the model and the leak of
members. Paired experiments have the pool in common and what each target trained on, and, as fleets
of one seed, what each shadow trained on; others have nothing in common. LiRA attacks both. The
plain rule in brackets is a t over the targets, which does not see the draw of the shadows.

Seed 0, 200 simulations per setting (standard errors of 1 to 2 points), 1.5 CPU minutes on one
thread of a shared 2-core EPYC:

    shadows  targets  paired (plain)  Welch (plain)
          8        8    4.0 (8.0)%      4.5 (6.0)%
         16        4    2.0 (3.0)%      4.0 (4.0)%
         16        8    4.0 (5.5)%      2.5 (6.0)%
         16        0    2.5 (13.5)%      1.5 (10.5)%
"""

import argparse

import numpy as np
import torch
from torch import Tensor

from attacks.cases import make_cases
from attacks.evaluate import score
from attacks.game import Game, ModelSignals
from attacks.metrics.between import paired, welch
from attacks.metrics.differences import Outcome
from attacks.metrics.measures import area
from attacks.shadow_halves import by_shadow_halves, is_round_robin
from datamodules.membership import membership

ATTACK, LEAK, EXAMPLES = "lira_online_fixed", 1.0, 100
SETTINGS = ((8, 8), (16, 4), (16, 8), (16, 0))  # shadows and targets; 0: shadows audit each other


def draw(rng: np.random.Generator, difficulty: np.ndarray, game: Game) -> Outcome:
    """What LiRA finds on newly trained models, and what it finds with halves of the shadows."""
    shape = tuple(game.members.shape)
    own = rng.normal(0, 0.3, (shape[0], 1)) + rng.normal(size=shape) + difficulty
    phi = torch.from_numpy(own) + LEAK * game.members
    trained = game._replace(signals={"full": ModelSignals(phi[:, None].float())})
    halves = by_shadow_halves(trained, (2, 2), lambda half: _areas(half)[None])
    found = area(score([ATTACK], trained, "full")[ATTACK], trained.audited)
    return Outcome(found, None if halves is None else halves[0], is_round_robin(trained))


def _areas(game: Game) -> Tensor:
    return area(score([ATTACK], game, "full")[ATTACK], game.audited).values


def simulate(rng: np.random.Generator, shadows: int, targets: int) -> list[bool]:
    """Whether a difference is found: paired and by the plain rule, Welch's and its plain rule."""
    found = []
    for test in (paired, welch):
        seeds = [int(rng.integers(1 << 31))] * 2
        pools = [rng.normal(2, 2, EXAMPLES)] * 2
        if test is welch:
            seeds[1], pools[1] = int(rng.integers(1 << 31)), rng.normal(2, 2, EXAMPLES)
        outcomes = []
        for seed, difficulty in zip(seeds, pools, strict=True):
            members = membership(seed, shadows, targets, EXAMPLES)
            outcomes.append(draw(rng, difficulty, Game({}, members, make_cases(shadows, targets))))
        plain = [outcome._replace(halves=None) for outcome in outcomes]
        found += [test(*outcomes)[1] < 0.05, test(*plain)[1] < 0.05]
    return found


def main() -> None:
    """Print how often a difference is found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repetitions", type=int, default=200, help="simulations per setting")
    repetitions = parser.parse_args().repetitions
    torch.set_num_threads(1)
    print("shadows  targets  paired (plain)  Welch (plain)")
    for shadows, targets in SETTINGS:
        rng = np.random.default_rng(0)
        found = [simulate(rng, shadows, targets) for _ in range(repetitions)]
        ours, plain, other, plainer = (100 * np.mean(found, 0)).tolist()
        line = f"{ours:.1f} ({plain:.1f})%      {other:.1f} ({plainer:.1f})%"
        print(f"{shadows:>7}  {targets:>7}    {line}", flush=True)


if __name__ == "__main__":
    main()
