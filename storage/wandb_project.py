"""Weights & Biases names that training and audits share: project, settings and keys."""

import re

import wandb

from storage.names import WandbMode

PROJECT = "bitleak"
# no global run: if a run cannot be closed, the next one must not log into it
SETTINGS = wandb.Settings(silent=True, console="off", reinit="create_new")


def sortable(variant: str) -> str:
    """A variant's name in letters, digits and underscores, by which W&B can sort and filter.

    Source: https://docs.wandb.ai/support/models/articles/why-cant-i-sort-or-filter-metrics-with-c
    """
    return re.sub(r"\W", "_", variant)


def accuracy_key(variant: str) -> str:
    """Key of a variant's test accuracy: one model's in its run, the targets' mean in the audit."""
    return f"test_accuracy/{sortable(variant)}"


def check_key(mode: WandbMode) -> None:
    """Raise if W&B needs an API key and has none, before any work is done.

    Raises:
        ValueError: `online` without an API key, or with a key that is refused.
    """
    if mode != "online":
        return
    try:
        logged_in = wandb.login(prompt=False)
    except Exception as error:
        raise ValueError(
            f"`--wandb online` could not log in ({error}). Check the key and the network, or pass "
            "`--wandb offline`."
        ) from error
    if not logged_in:
        raise ValueError(
            "`--wandb online` needs an API key and found none. Run `wandb login`, or set "
            "WANDB_API_KEY, or pass `--wandb offline` and later `wandb sync` "
            "RUN_DIR/wandb/offline-run-*."
        )
