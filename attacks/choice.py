"""Which attacks the signals and shadows of a game suffice for, and on which of its examples."""

from collections.abc import Sequence
from difflib import get_close_matches
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from attacks import ATTACKS, RMIA
from attacks.cases import by_shadows
from attacks.game import Game
from attacks.quantile import FEWEST

Sides = tuple[int, int]

DEFAULT = "default"  # stands for all attacks that are run unasked

WORDS = {  # fields of `ModelSignals` to users
    "hinge": "logits",
    "population": "signals on a population",
    "population_hinge": "logits on a population",
    "features": "the images",
    "labels": "the classes",
    "embeddings": "embeddings, which `train.py --record_embeddings true` adds",
    "population_embeddings": "embeddings of a population",
}
FINDINGS: dict[str, Sides] = {"z_scores": (0, 2), "joint_lira": (2, 2)}  # shadows that they need
# Least share of the examples that an audit keeps. An example with too few shadows for one attack is
# left out of all attacks, so that they stay comparable. Intervals become up to 12% wider
# (1 / sqrt(0.8)), and a TPR rests on up to a fifth fewer false positives. In return, online LiRA,
# which needs 2 shadows with an example and 2 without it, can be run where shadows were not trained
# in complementary halves. Beside the examples that are set apart (see `_FEWEST`), 0.05% lack these
# for 16 shadows by fair coins, 11% for 7, 19% for 6, and 12% for 16 that each train on a fifth of
# the pool. With 5 by fair coins (33%) or 12 that train on a fifth (22%), the attack is left out
# instead. Examples are left out by the shadows' membership alone, not by a score or by the target's
# membership, so that the rest is a fair sample.
_LEAST = 0.8
# Fewest members and non-members of each audited model beside the examples that are in all of its
# shadows or in none. Examples of these two kinds go whatever their number, because no attack can
# compare shadows with and without them; on 20 and 20 others an AUC is known to about 0.18.
_FEWEST = 20


class Lack(NamedTuple):
    """Why a game does not suffice for an attack or finding.

    Attributes:
        signals: what it needs that is not known of every variant, in words.
        sides: how many shadows with and without each example it needs, if the signals are known.
        examples: number of examples that have fewer.
    """

    signals: tuple[str, ...]
    sides: Sides
    examples: int


class Choice(NamedTuple):
    """The attacks of an audit, and the examples that all of its attacks and findings are on.

    Attributes:
        attacks: names in `ATTACKS`.
        usable: examples that have the shadows that every attack and finding needs.
        sides: how many shadows with and without it each of these examples has at least.
        left_out: default attacks, and names in `FINDINGS`, that the game does not suffice for.
        every: examples that were set apart because every shadow of a case trained on them.
        none: other examples that were set apart because no shadow of a case did.
    """

    attacks: list[str]
    usable: Bool[Tensor, " examples"]
    sides: Sides
    left_out: dict[str, Lack]
    every: Bool[Tensor, " examples"]
    none: Bool[Tensor, " examples"]

    @property
    def mixed(self) -> Bool[Tensor, " examples"]:
        """Examples that were not set apart."""
        return ~(self.every | self.none)


def choose_attacks(asked: Sequence[str] | None, game: Game) -> Choice:
    """Choose the attacks to run: those named, and for `DEFAULT` all that the game suffices for.

    All attacks and findings are on the same examples, so that they can be compared in pairs. From
    the least demanding on, an attack or finding is kept if the examples that it and all kept before
    it can score suffice for an audit (`suffices`); otherwise it is left out. The findings count
    even beside attacks that need less, so that the examples do not depend on what is asked for.
    Before all that, examples that are in every shadow or in none are set apart, if enough others
    remain; where these are all there are, as with shadows of other data, none is.

    Raises:
        ValueError: an attack does not exist, or one that was asked for cannot be kept.
    """
    named = [name for name in asked or (DEFAULT,) if name != DEFAULT]
    for name in named:
        if name not in ATTACKS:
            near = get_close_matches(name, ATTACKS, n=1)
            hint = f"Did you mean `{near[0]}`?" if near else f"Take one of {', '.join(ATTACKS)}."
            raise ValueError(f"`--attacks` must name attacks, got `{name}`. {hint}")
    unasked = default_attacks(game) if DEFAULT in (asked or (DEFAULT,)) else []
    wanted = list(dict.fromkeys([*unasked, *named]))
    needs = {name: ATTACKS[name].sides for name in wanted} | FINDINGS
    every, none = set_apart(game)
    mixed = ~(every | none)
    game = game._replace(members=game.members[:, mixed])  # no signal is read here
    known = {sides: scorable(game, sides) for sides in set(needs.values())}
    lacks = {}
    for name, sides in needs.items():
        signals = tuple(unknown(name, game))
        lacks[name] = Lack(signals, (0, 0), 0)
        if not signals:
            lacks[name] = Lack((), sides, int((~known[sides]).sum()))
    usable, kept = torch.ones(game.members.shape[1], dtype=torch.bool), []
    for name in sorted(needs, key=lambda name: lacks[name].examples):
        both = usable & known[needs[name]]
        if not lacks[name].signals and suffices(both, game):
            usable = both
            kept.append(name)
        elif name in named:
            raise ValueError(_refuse(name, lacks[name], len(usable)))
    sides = max(needs[name][0] for name in kept), max(needs[name][1] for name in kept)
    left_out = {name: lack for name, lack in lacks.items() if name not in kept}
    attacks = [name for name in wanted if name in kept]
    return Choice(attacks, mixed.masked_scatter(mixed, usable), sides, left_out, every, none)


def default_attacks(game: Game) -> list[str]:
    """Attacks to run unasked: the default ones, and optional ones of which all needs are known."""
    return [
        name
        for name, attack in ATTACKS.items()
        if attack.default or (attack.optional and not unknown(name, game))
    ]


def unknown(name: str, game: Game) -> list[str]:
    """Signals that an attack needs and that some variant lacks, in words; none for a finding."""
    missing = []
    needs = ATTACKS[name].needs if name in ATTACKS else ()
    if name in RMIA and game.rmia.population == "pool":
        needs = ()  # the audited examples are the population
    for field in needs:
        signals = [getattr(known, field) for known in game.signals.values()]
        if any(signal is None for signal in signals):
            missing.append(WORDS[field])
        elif field == "population_hinge" and signals[0].shape[-1] < FEWEST:
            missing.append(f"a population of {FEWEST}")
    return missing


def set_apart(game: Game) -> tuple[Bool[Tensor, " examples"], Bool[Tensor, " examples"]]:
    """Examples in every shadow of some case, and others in none; no example if few would remain.

    Few are less than half of an audited model's members or non-members, and less than `_FEWEST`.
    """
    every = torch.zeros(game.members.shape[1], dtype=torch.bool)
    none = every.clone()
    for shadows in by_shadows(game.cases):
        rows = game.members[list(shadows)]
        every |= rows.all(0)
        none |= ~rows.any(0)
    none &= ~every
    sides = torch.stack([game.audited, ~game.audited])
    remaining, number = (sides & ~(every | none)).sum(-1), sides.sum(-1)
    if ((remaining >= _FEWEST) | (2 * remaining >= number)).all():
        return every, none
    return torch.zeros_like(every), torch.zeros_like(none)


def scorable(game: Game, sides: Sides) -> Bool[Tensor, " examples"]:
    """Which examples have so many shadows with and without them, in every case."""
    usable = torch.ones(game.members.shape[1], dtype=torch.bool)
    for shadows in by_shadows(game.cases) if any(sides) else ():
        inside = game.members[list(shadows)].sum(0)
        usable &= (inside >= sides[0]) & (len(shadows) - inside >= sides[1])
    return usable


def suffices(usable: Bool[Tensor, " examples"], game: Game) -> bool:
    """Whether some examples suffice for an audit.

    They are four fifths of all, and half of each audited model's members and of its non-members,
    so that no model is left without either.
    """
    if usable.all():
        return True
    sides = torch.stack([game.audited, ~game.audited])
    halves = 2 * (sides & usable).sum(-1) >= sides.sum(-1)
    return bool(usable.double().mean() >= _LEAST and halves.all())


def in_words(sides: Sides) -> str:
    """A number of shadows with and without each example, in words."""
    parts = zip(sides, ("with", "without"), strict=True)
    (first, side), *rest = [(least, side) for least, side in parts if least]
    noun = "shadow" if first == 1 else "shadows"
    return " and ".join([f"{first} {noun} {side}", *(f"{least} {side}" for least, side in rest)])


def more_shadows(sides: Sides) -> str:
    """What to do about missing shadows."""
    return f"Train more shadows; in complementary halves, {max(4, 2 * max(sides))} suffice"


def _refuse(name: str, lack: Lack, examples: int) -> str:
    """Why an attack that was asked for cannot be run, and the way out."""
    if lack.signals:
        return (
            f"`{name}` needs {' and '.join(lack.signals)}, which not every variant has. Leave it "
            "out of `--attacks`."
        )
    return (
        f"`{name}` needs {in_words(lack.sides)} each example, which {lack.examples:,} of "
        f"{examples:,} examples lack. An audit leaves out a fifth of its examples at most, and "
        f"half of a target's members or non-members. {more_shadows(lack.sides)}, or leave it out "
        "of `--attacks`."
    )
