"""Pin every package to the lowest version that pyproject.toml claims: constraints for pip.

python .github/lowest_versions.py pyproject.toml > lowest.txt
PIP_CONSTRAINT=lowest.txt pip install -e '.[test]'
"""

import re
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_BOUND = re.compile(r"([\w.-]+)(?:\[[\w,-]+\])?\s*>=\s*([\w.]+)")


def lowest_versions(requirements: Iterable[str]) -> Iterator[str]:
    """Constraints such as `torch==2.6`; a requirement without a lower bound has none."""
    for requirement in requirements:
        if bound := _BOUND.match(requirement):
            yield f"{bound[1]}=={bound[2]}"


def requirements_of(project: dict[str, Any]) -> list[str]:
    """Requirements of the project and all of its extras."""
    extras = project["optional-dependencies"].values()
    return [*project["dependencies"], *(package for extra in extras for package in extra)]


if __name__ == "__main__":
    configuration = tomllib.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print("\n".join(lowest_versions(requirements_of(configuration["project"]))))
