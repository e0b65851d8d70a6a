"""The kept results of the study, and every comparison of its page without a control."""

import pytest

from docs.study.claims import compare_all
from docs.study.numbers import Study
from docs.study.page import KEPT
from reporting.results import parse_results


@pytest.fixture(scope="session")
def study():
    return Study(parse_results(KEPT, "Restore it"))


@pytest.fixture(scope="session")
def comparisons(study):
    return compare_all(study, {})
