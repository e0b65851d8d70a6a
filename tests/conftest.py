"""Fixtures for every test."""

import pytest
import torch


@pytest.fixture
def rng() -> torch.Generator:
    """A generator of its own for each test, so that order and selection change nothing."""
    return torch.Generator().manual_seed(0)
