"""Options that were given although nothing reads them; imports no torch."""

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


def refuse_unread(options: "DataclassInstance", prefix: str, needs: Mapping[str, str]) -> None:
    """Refuse options that differ from their defaults, and that nothing reads.

    Args:
        options: a dataclass of options, each with a default.
        prefix: what comes before their names on the command line.
        needs: by option, what would read it, and what was given in its place.

    Raises:
        ValueError: the message names the option and what it needs.
    """
    for field in fields(options):
        make = field.default_factory
        default = field.default if make is MISSING else make()
        if field.name in needs and getattr(options, field.name) != default:
            raise ValueError(f"`{prefix}.{field.name}` needs {needs[field.name]}. Leave it out.")


def needs_learner(readers: Mapping[str, tuple[str, ...]], learner: str) -> dict[str, str]:
    """What options of other learners need, by option.

    Args:
        readers: learners that read each option.
        learner: the learner that was given.
    """
    return {
        name: f"`--continual.learner` {' or '.join(learners)}, got `{learner}`"
        for name, learners in readers.items()
        if learner not in learners
    }
