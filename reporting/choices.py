"""Choices of attacks that change their scores, in words."""

from collections.abc import Sequence

from attacks import RMIA
from attacks.evaluate import Row
from storage.evidence import Evidence


def describe_rmia(evidence: Evidence, rows: Sequence[Row]) -> dict[str, str]:
    """RMIA's population and reference, by label; nothing if it was not run."""
    game, attacks = evidence.game, {row.attack for row in rows}
    if not attacks.intersection(RMIA):
        return {}
    populations = (signals.population for signals in game.signals.values())
    sizes = [population.shape[-1] for population in populations if population is not None]
    if game.rmia.population == "pool":
        words = f"the other examples of the pool, {game.members.shape[1] - 1:,} examples"
    else:
        words = f"{'test split' if evidence.experiment else 'as given'}, {max(sizes):,} examples"
    words = f"population: {words}"
    if "rmia_offline" in attacks:
        chosen = sorted({a for by_case in game.tuned.values() for a in by_case})
        ends = " to ".join(dict.fromkeys(str(a) for a in (*chosen[:1], *chosen[-1:])))
        words += (
            f"; a tuned on shadows that pose as targets: {ends}"
            if chosen
            else f"; a = {game.rmia.a}"
        )
    return {"RMIA": words}
