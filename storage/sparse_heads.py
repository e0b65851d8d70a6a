"""What went wrong in heads whose neurons are silent for most examples, from training's records."""

from collections.abc import Iterable
from statistics import fmean
from typing import Any

from attacks.game import FULL
from storage.names import ModelName
from storage.records import read_record
from storage.run_folder import RunFolder

FAR = 1.5  # times k: neurons that are active because their inhibition is not complete yet


def describe_sparse_heads(run: RunFolder, names: Iterable[ModelName]) -> list[str]:
    """Sentences on models whose neurons all died, or whose inhibition came late.

    Raises:
        ValueError: a record is damaged.
    """
    dead: list[str] = []
    late: list[tuple[float, int]] = []  # neurons active per example after the first task, and k
    for name in names:
        stages: list[dict[str, Any]] = (read_record(run, name, FULL) or {}).get("stages", [])
        known = [(n, stage) for n, stage in enumerate(stages, 1) if "active" in stage]
        if died := [number for number, stage in known if not stage["active"]]:
            dead.append(f"{name} (task {died[0]})")
        elif known and "switch" in (first := known[0][1]) and first["active"] > FAR * first["k"]:
            late.append((first["active"], first["k"]))
    sentences = []
    if dead:
        sentences.append(
            f"All neurons of a head died, which no later task revives: {', '.join(dead)}. Such a "
            "model tells nothing; lower `--model.lr`, or look for features that are negative."
        )
    if late:
        active = fmean(number for number, _ in late)
        noun = "model" if len(late) == 1 else "models"
        sentences.append(
            f"The inhibition of {len(late)} {noun} was not complete after the first task: "
            f"{active:.0f} neurons were active per example, and k is {late[0][1]}. Lower "
            "`--continual.sdmlp.switch`, or raise `--trainer.max_epochs`."
        )
    return sentences
