"""Attacks with shadow federations, each of which gives the series of all of its clients."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from attacks.cases import Case, by_shadows
from attacks.federated.discriminant import discriminate
from attacks.federated.reference import Reference
from attacks.federated.series_network import CELLS, score_series
from attacks.federated.view import View, mean_over_rounds, took_part
from attacks.rounds import NOBODY, RoundSignal

Prepare = Callable[[Tensor], Tensor]  # what is done to a federation's signal first


def keep(signal: Float[Tensor, "rounds clients examples"]) -> Tensor:
    """Leave a signal as it is."""
    return signal


def sum_z(view: View, shadows: View, cases: Sequence[Case], name: RoundSignal) -> Tensor:
    """Score by one signal's z among clients that do not hold the example, mean over rounds.

    Offline LiRA in every round, with a spread pooled over examples; rounds count as independent.
    """
    scores = _empty(view, cases)
    for group, positions in by_shadows(cases).items():
        rows = list(group)
        reference = Reference(shadows.signals[name][rows], shadows.holder[rows])
        for position in positions:
            own = view.signals[name][cases[position].target].double()
            scores[position] = mean_over_rounds(reference.z(own))
    return scores


def lda(
    view: View,
    shadows: View,
    cases: Sequence[Case],
    prepare: Mapping[RoundSignal, Prepare],
) -> Tensor:
    """Score by a linear discriminant of the z of all rounds and signals.

    It is fitted to the shadows, each of which gets its z from the others. A round without the
    client tells nothing: its z is 0. Examples that another client holds are left out of the fit.

    Args:
        view: the audited federations.
        shadows: the shadow federations, in the rows of the cases.
        cases: who is attacked by whom.
        prepare: what is done first to each signal that is used.
    """
    scores = _empty(view, cases)
    for group, positions in by_shadows(cases).items():
        rows = list(group)
        prepared = {
            name: torch.stack([make(shadows.signals[name][row].double()) for row in rows])
            for name, make in prepare.items()
        }
        holder = shadows.holder[rows]
        references = {name: Reference(signal, holder) for name, signal in prepared.items()}
        parts = (
            _cells([reference.z_of_shadow(s) for reference in references.values()], holder[s])
            for s in range(len(rows))
        )
        weights = discriminate(parts)
        for position in positions:
            own = view.of(cases[position].target)
            z = [references[name].z(make(own[name])) for name, make in prepare.items()]
            present = view.took_part(cases[position].target).any(0)
            score = _stack(z) @ weights
            scores[position] = score.where(present[:, None], torch.nan)
    return scores


def series(
    view: View,
    shadows: View,
    cases: Sequence[Case],
    prepare: Mapping[RoundSignal, Prepare],
    score: Callable[..., list[Tensor]] = score_series,
) -> Tensor:
    """Score by a network that was trained on the series of the shadows' clients.

    Every shadow gives its members' series, and for each example that nobody holds there the series
    of one client, drawn at random: members and non-members are about as many.

    Args:
        view: the audited federations.
        shadows: the shadow federations, in the rows of the cases.
        cases: who is attacked by whom.
        prepare: what is done first to each signal; the series of several are joined.
        score: trains the networks and scores by them.
    """
    generator, groups = torch.Generator().manual_seed(0), by_shadows(cases)
    drawn = {
        row: _draw(_join(shadows, row, prepare), shadows.holder[row], generator)
        for row in sorted({row for group in groups for row in group})
    }
    sides = [
        [torch.cat(side) for side in zip(*(drawn[row] for row in group), strict=True)]
        for group in groups
    ]
    count = min(CELLS, *(len(side) for pair in sides for side in pair))
    known = torch.stack(
        [torch.cat([_sample(side, count, generator) for side in pair]) for pair in sides]
    )
    members = (torch.arange(2 * count) >= count).expand(len(known), -1)
    asked = [
        torch.cat([_cells_of(view, cases[position], prepare) for position in positions])
        for positions in groups.values()
    ]
    scores = _empty(view, cases)
    for positions, found in zip(groups.values(), score(known, members, asked), strict=True):
        scores[positions] = found.reshape(len(positions), *scores.shape[1:])
    absent = torch.stack([~view.took_part(case.target).any(0) for case in cases])
    return scores.masked_fill(absent[:, :, None], torch.nan)


def _join(
    view: View, federation: int, prepare: Mapping[RoundSignal, Prepare]
) -> Float[Tensor, "features clients examples"]:
    """The series of several signals, one after the other."""
    own = view.of(federation)
    return torch.cat([make(own[name]) for name, make in prepare.items()])


def _cells_of(view: View, case: Case, prepare: Mapping[RoundSignal, Prepare]) -> Tensor:
    """The series of all clients on all examples, one below the other."""
    return _join(view, case.target, prepare).movedim(0, -1).flatten(0, 1)


def _draw(
    signal: Float[Tensor, "rounds clients examples"],
    holder: Int64[Tensor, " examples"],
    generator: torch.Generator,
) -> list[Float[Tensor, "_ rounds"]]:
    """Series of a client on each example that nobody holds, and of the holders on the others."""
    present = took_part(signal).any(0).nonzero().flatten()
    outside = (holder == NOBODY).nonzero().flatten()
    clients = present[torch.randint(len(present), (len(outside),), generator=generator)]
    inside = torch.isin(holder, present).nonzero().flatten()
    return [signal[:, clients, outside].T, signal[:, holder[inside], inside].T]


def _sample(
    cells: Float[Tensor, "cells rounds"], count: int, generator: torch.Generator
) -> Float[Tensor, "count rounds"]:
    return cells[torch.randperm(len(cells), generator=generator)[:count]]


def _cells(
    z: Sequence[Float[Tensor, "rounds clients examples"]], holder: Int64[Tensor, " examples"]
) -> tuple[Float[Tensor, "_ features"], Bool[Tensor, " _"]]:
    """Features of the holders and of the clients of examples that nobody holds; who holds them."""
    present = took_part(z[0]).any(0)[:, None]
    inside = holder == torch.arange(len(present))[:, None]
    chosen = (inside | (holder == NOBODY)) & present
    return _stack(z)[chosen], inside[chosen]


def _empty(view: View, cases: Sequence[Case]) -> Tensor:
    clients, examples = view.signals["phi"].shape[2:]
    return torch.empty(len(cases), clients, examples, dtype=torch.float64)


def _stack(
    signals: Sequence[Float[Tensor, "rounds clients examples"]],
) -> Float[Tensor, "clients examples features"]:
    """Features of each client and example: every round of every signal, 0 where it is unknown."""
    return torch.cat(list(signals)).movedim(0, -1).nan_to_num(0)
