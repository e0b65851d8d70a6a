"""The table of faults on docs/channel_pruning.md names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_fault_at_the_cut_is_held_by_a_test():
    """Those that the table names are in the file of their row, else in that of the table."""
    page = (ROOT / "docs" / "channel_pruning.md").read_text()
    table = page.partition("\n## Faults\n")[2].partition("\n## ")[0]
    default, _, _, *rows = table.split("\n| ")
    tested = set()
    for row in rows:
        (file,) = re.findall(r"`(tests/[\w/]+\.py)`", row) or re.findall(r"`(tests/.*?)`", default)
        (test,) = re.findall(r"`(test_\w+)`", row)
        assert f"def {test}(" in (ROOT / file).read_text()
        tested.add(test)
    assert len(tested) == len(rows) > 10
