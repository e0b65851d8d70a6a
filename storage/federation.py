"""What went wrong in federations, from the records of their training."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from attacks.game import FULL
from storage.names import ModelName
from storage.records import read_record
from storage.run_folder import RunFolder


def describe_left_out(run: RunFolder, names: Iterable[ModelName]) -> list[str]:
    """A sentence per model whose clients uploaded weights that are not finite.

    Raises:
        ValueError: a record is damaged.
    """
    sentences = []
    for name in names:
        left_out = (read_record(run, name, FULL) or {}).get("left_out", {})
        sentences += name_left_out(str(name), left_out, "Lower `--model.lr` if there are many.")
    return sentences


def name_left_out(name: str, left_out: Mapping[str, Sequence[int]], way_out: str) -> list[str]:
    """A sentence on clients whose uploads were left out in some rounds, if there are any.

    Args:
        name: of the model.
        left_out: round -> clients.
        way_out: what to do about it, a sentence.
    """
    counts = Counter(client for clients in left_out.values() for client in clients)
    if not counts:
        return []
    listed = ", ".join(
        f"client {client} in {count} round{'' if count == 1 else 's'}"
        for client, count in sorted(counts.items())
    )
    return [f"{name} left out uploads that were not finite: {listed}. {way_out}"]
