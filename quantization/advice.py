"""The advice to leave layers at full precision, by patterns of their names."""

import json
import shlex
from collections.abc import Collection, Iterator, Sequence
from fnmatch import fnmatchcase
from glob import escape


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern is a layer's name, whatever its characters, or matches it."""
    return name == pattern or fnmatchcase(name, pattern)


def quoted(names: Sequence[str]) -> str:
    """Names for a message."""
    return ", ".join(f"`{name}`" for name in names)


def leave_out(names: Collection[str], layers: Collection[str]) -> str:
    """The advice to leave layers at full precision, by patterns that match no other layer."""
    bits = shlex.quote(json.dumps(dict.fromkeys(_patterns(set(names), layers), 32)))
    what = "it" if len(names) == 1 else "them"
    return f"Leave {what} at full precision with `--layer_bits {bits}`"


def _patterns(names: set[str], layers: Collection[str]) -> Iterator[str]:
    """The fewest patterns, found greedily, that match exactly `names` among all `layers`."""
    left = set(names)
    while left:
        name = min(left)
        exact = escape(name)  # it may have brackets or stars of its own
        fitting = {exact: {name}}
        for pattern in _generalised(exact):
            matching = {layer for layer in layers if matches(layer, pattern)}
            if matching <= names:
                fitting[pattern] = matching
        best = max(fitting, key=lambda pattern: len(fitting[pattern] & left))
        yield best
        left -= fitting[best]


def _generalised(name: str) -> Iterator[str]:
    """`a.*.c`, `a.*` and the like for the parts of a layer's name, the longest first."""
    parts = name.split(".")
    for start in range(len(parts)):
        for stop in range(len(parts), start, -1):
            before, after = ["*"] * (start > 0), ["*"] * (stop < len(parts))
            pattern = ".".join([*before, *parts[start:stop], *after])
            if pattern != name:
                yield pattern
    yield "*"
