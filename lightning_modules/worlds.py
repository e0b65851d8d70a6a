"""What an attacker can make of an analytic learner's state, and of its backbone.

Who holds the backbone solves for heads of as many random halves of the pool as wanted: worlds, in
place of shadow models, which differ from the audited model only in the rows that the head learnt.
"""

from time import perf_counter
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from continual.leave_one_out import leverages
from continual.normal_equations import MOST, solve_membership
from continual.state_exposure import as_float16, as_int8, share_outside
from datamodules.membership import membership
from datamodules.seeds import derive_seed
from lightning_modules.regressions import Regression
from lightning_modules.ridge_head import UNSEEN, Rows

AT_ONCE = 1024  # rows that a world learns at once; batches change nothing


class Pool(NamedTuple):
    """The examples of the pool, as a regression sees them.

    Attributes:
        rows: their random features.
        targets: with a column for each class of all tasks, in the order of the tasks.
        task: the task of each.
        ends: number of classes known after each task.
    """

    rows: Rows
    targets: Float64[Tensor, "examples classes"]
    task: Int64[Tensor, " examples"]
    ends: list[int]

    def known(self, task: int) -> int:
        """Number of classes before a task."""
        return self.ends[task - 1] if task else 0


def expose(
    before: Float64[Tensor, "columns columns"],
    after: Float64[Tensor, "columns columns"],
    rows: Float64[Tensor, "examples columns"],
    count: int,
) -> dict[str, Tensor]:
    """What R gives away of each example after a task, as it is and stored in fewer bits.

    Args:
        before: R when the task began.
        after: R when it ended.
        rows: random features of the pool.
        count: rows of the task that were learnt.
    """
    return {
        "leverage": leverages(after, rows),
        "leverage_float16": leverages(as_float16(after), rows),
        "leverage_int8": leverages(as_int8(after), rows),
        "outside": share_outside(before, after, rows, count),
    }


def solve_members(
    pool: Pool, weight: Float64[Tensor, "inputs classes"], gamma: float, stage: int
) -> dict[str, Tensor]:
    """Who was learnt up to a stage, solved for from the released weight of the main stream.

    Args:
        pool: the candidates, of which those of later tasks are left out.
        weight: of the linear layer, with columns as the pool's targets have them.
        gamma: the ridge.
        stage: the last task that was learnt.

    Returns:
        `solved`: about 1 for examples that were learnt, and 0 for others and for later tasks;
        nothing for more candidates than can be solved for.
    """
    rows, seen = (pool.task <= stage).nonzero().flatten(), pool.ends[stage]
    if len(rows) > MOST:
        return {}
    features = pool.rows.features[rows]
    main = weight[: features.shape[1], :seen]
    solved = pool.targets.new_zeros(len(pool.task))
    solved[rows] = solve_membership(features, pool.targets[rows, :seen], main, gamma)
    return {"solved": solved}


def draw_worlds(seed: int, worlds: int, examples: int) -> Bool[Tensor, "worlds examples"]:
    """Random halves of the pool, each by the complement of the one before it."""
    pairs = worlds + worlds % 2
    return membership(derive_seed(seed, "worlds"), pairs, 0, examples)[:worlds]


def solve_worlds(
    regression: Regression[Any], pool: Pool, members: Bool[Tensor, "worlds examples"], stage: int
) -> dict[str, Tensor]:
    """Learn the tasks up to a stage from each of some halves of the pool.

    Args:
        regression: what learns.
        pool: the pool.
        members: which examples each world learns.
        stage: the last task to be learnt.

    Returns:
        By name: outputs of each world on the pool, in the order of the tasks' classes; leverages;
        members; and the seconds that one world takes, without the features.
    """
    outputs, leverage, start = [], [], perf_counter()
    joined = pool.rows.joined()
    for own in members:
        state = solve_world(regression, pool, own, stage)
        scores = joined @ regression.weight(state)
        unseen = scores.new_full((len(scores), pool.ends[-1] - scores.shape[1]), UNSEEN)
        outputs.append(torch.cat([scores, unseen], 1))
        leverage.append(leverages(regression.inverse(state), pool.rows.features))
    seconds = (perf_counter() - start) / len(members)
    return {
        "world_outputs": torch.stack(outputs),
        "world_leverage": torch.stack(leverage),
        "world_members": members,
        "world_seconds": torch.tensor([seconds], dtype=torch.float64),
    }


def solve_world(
    regression: Regression[Any], pool: Pool, own: Bool[Tensor, " examples"], stage: int
) -> Any:  # noqa: ANN401  # the state of whichever regression
    """The state after the tasks up to a stage, of which some examples are learnt."""
    device = pool.targets.device
    state = regression.unpack(
        {k: v.to(device) for k, v in regression.pack(regression.start()).items()}
    )
    for task in range(stage + 1):
        chosen = (own.to(device) & (pool.task == task)).nonzero().flatten()
        for start in range(0, len(chosen), AT_ONCE):
            part = chosen[start : start + AT_ONCE]
            wanted = pool.targets[part, : pool.ends[task]]
            state = regression.update(state, pool.rows.take(part), wanted, pool.known(task))
        state = regression.finish(state, pool.known(task))
    return state
