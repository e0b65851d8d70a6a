"""What went wrong in federations, from the records of their training."""

from collections import Counter
from collections.abc import Iterable

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
        counts = Counter(client for clients in left_out.values() for client in clients)
        if counts:
            listed = ", ".join(
                f"client {client} in {count} round{'' if count == 1 else 's'}"
                for client, count in sorted(counts.items())
            )
            sentences.append(
                f"{name} left out uploads that were not finite: {listed}. Lower `--model.lr` if "
                "there are many."
            )
    return sentences
