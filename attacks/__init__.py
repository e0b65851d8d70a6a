"""Membership-inference attacks and metrics: tensors in, tensors out.

Every attack maps phi of the target `[queries, examples]`, phi of the shadows
`[models, queries, examples]` and who trained on what `[models, examples]` to one score an example;
larger is likelier a member. Targets `[targets, queries, examples]` that share their shadows, which
are then fitted once, get the same scores as alone.
"""

from collections.abc import Callable
from functools import partial

from torch import Tensor

from attacks.lira import lira, lira_carlini, lira_offline
from attacks.threshold import global_threshold

Attack = Callable[[Tensor, Tensor, Tensor], Tensor]

# `example` and `fixed`, not `auto`, so that a name means one formula whatever the fleet's size
ATTACKS: dict[str, Attack] = {
    "global_threshold": global_threshold,
    "lira_online": partial(lira, spread="example"),
    "lira_online_fixed": partial(lira, spread="fixed"),
    "lira_offline": partial(lira_offline, spread="example"),
    "lira_offline_fixed": partial(lira_offline, spread="fixed"),
    "lira_online_carlini": partial(lira_carlini, online=True, fixed=False),
    "lira_online_fixed_carlini": partial(lira_carlini, online=True, fixed=True),
    "lira_offline_carlini": partial(lira_carlini, online=False, fixed=False),
    "lira_offline_fixed_carlini": partial(lira_carlini, online=False, fixed=True),
}
DEFAULT_ATTACKS = tuple(ATTACKS)[:5]
SHADOW_FREE = frozenset({"global_threshold"})  # the same scores whatever the shadows
