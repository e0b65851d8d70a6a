"""A user's own attack: checked before anything is read, then run like ours."""

import inspect
from collections.abc import Callable, Collection, Mapping
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from attacks import ATTACKS, Attack
from attacks.choice import DEFAULT, Sides
from attacks.game import Shadows, Target
from quantization.imported import explain

Function = Callable[[Tensor, Tensor, Tensor], Tensor]

SIGNATURE = (
    "attack(target [queries, examples], shadows [models, queries, examples], included bool "
    "[models, examples]) -> scores [examples]"
)


def register(functions: Mapping[str, Function]) -> dict[str, str]:
    """Check some attacks, and enter them in `ATTACKS`.

    Args:
        functions: import path -> function.

    Returns:
        Import path -> name in `ATTACKS`.

    Raises:
        ValueError: a function is no attack; one line with the signature that is expected.
    """
    names = shorten(functions)
    for path, function in functions.items():
        run, sides = partial(_run, path, function), check(path, function)
        ATTACKS[names[path]] = Attack(run, default=False, sides=sides, path=path)
    return names


def shorten(paths: Collection[str]) -> dict[str, str]:
    """Name each path by as few of its last parts as tell it from our attacks and from the others.

    `my_package.my_attack` is `my_attack`, unless that is ours or another path ends so too.
    """
    taken = {DEFAULT, *(name for name, attack in ATTACKS.items() if not attack.path)}
    names = {}
    for path in paths:
        parts = path.split(".")
        ends = (".".join(parts[-count:]) for count in range(1, len(parts)))
        names[path] = next(
            (
                end
                for end in ends
                if end not in taken
                and not any(f".{other}".endswith(f".{end}") for other in paths if other != path)
            ),
            path,
        )
    return names


def check(path: str, function: Function) -> Sides:
    """Call an attack on small random signals; returns how many shadows on each side it needs.

    These are the function's attribute `sides`; without it, one with and one without each example.

    Raises:
        ValueError: its signature or its scores are not those of an attack, it writes to its
            arguments, or two calls differ.
    """
    try:
        inspect.signature(function).bind(*"abc")
    except (TypeError, ValueError) as error:
        raise _wrong(path, f"take three arguments ({error})") from error
    sides = getattr(function, "sides", (1, 1))
    is_pair = isinstance(sides, tuple) and len(sides) == 2
    if not is_pair or not all(isinstance(side, int) and side >= 0 for side in sides):
        raise ValueError(
            f"`{path}.sides` must be how many shadows with and without each example the attack "
            f"needs, such as (0, 2), got {sides!r}."
        )
    rng = torch.Generator().manual_seed(0)
    included = torch.rand(2 * max(4, *sides), 12, generator=rng).argsort(0) < max(4, *sides)
    shadows = torch.randn(len(included), 2, 12, generator=rng) + included[:, None]
    target = torch.randn(2, 12, generator=rng)
    given = [tensor.clone() for tensor in (target, shadows, included)]
    scores = _score(path, function, *given)
    if not all(map(torch.equal, given, (target, shadows, included))):
        raise _wrong(path, "leave its arguments as they are: work on a copy")
    if not torch.equal(scores, _score(path, function, *given)):
        raise _wrong(
            path, "give the same scores twice: draw from a torch.Generator with a fixed seed"
        )
    return sides


def _run(path: str, function: Function, target: Target, shadows: Shadows) -> Tensor:
    """Score each target against the shadows, read into memory."""
    phi, included = shadows.phi[..., :], shadows.included
    return torch.stack([_score(path, function, own, phi, included) for own in target.phi])


def _score(
    path: str,
    function: Function,
    target: Float[Tensor, "queries examples"],
    shadows: Float[Tensor, "models queries examples"],
    included: Bool[Tensor, "models examples"],
) -> Float[Tensor, " examples"]:
    try:
        scores = function(target, shadows, included)
    except (Exception, SystemExit) as error:  # the function is the user's, and may do anything
        raise _wrong(path, f"run on {len(shadows)} shadows ({explain(error)})") from error
    expected = f"return a float tensor of {target.shape[-1]} finite scores"
    if not isinstance(scores, Tensor):
        raise _wrong(path, f"{expected}, got {type(scores).__name__}")
    if not scores.is_floating_point() or scores.shape != target.shape[-1:]:
        raise _wrong(path, f"{expected}, got {list(scores.shape)} of {scores.dtype}")
    if broken := int((~scores.isfinite()).sum()):
        raise _wrong(path, f"{expected}, got {broken} that are not")
    return scores.detach().double().cpu()


def _wrong(path: str, must: str) -> ValueError:
    return ValueError(f"`--attacks`: `{path}` must {must}. Expected is {SIGNATURE}.")
