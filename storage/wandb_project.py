"""What training and audits agree on in Weights & Biases: the project, the settings, the keys."""

import re

import wandb

from storage.names import WandbMode

PROJECT = "bitleak"
# no global run: where one cannot be closed, the next must not log into it
SETTINGS = wandb.Settings(silent=True, console="off", reinit="create_new")


def sortable(variant: str) -> str:
    """A variant's name as W&B sorts and filters by it: letters, digits and underscores.

    Source: https://docs.wandb.ai/support/models/articles/why-cant-i-sort-or-filter-metrics-with-c
    """
    return re.sub(r"\W", "_", variant)


def accuracy_key(variant: str) -> str:
    """Key of a variant's test accuracy: of one model in its run, mean over targets in the audit."""
    return f"test_accuracy/{sortable(variant)}"


def check_key(mode: WandbMode) -> None:
    """Raise before any work if W&B needs an API key and has none.

    Raises:
        ValueError: `online` without an API key, or with one that is refused.
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
