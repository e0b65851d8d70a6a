"""Keys of an audit in Weights & Biases. Saved dashboards hold them, so they must not change."""

from attacks.evaluate import Row
from reporting.results import Results
from reporting.tables import Table
from storage.wandb_project import sortable

# of its four statements
ANSWER_KEYS = "answer/leak", "answer/variants", "answer/knowledge", "answer/frontier"

# findings whose rows are attacks on rounds
FEDERATED = "federated_server", "federated_client", "federated_subtracting"


def risk_key(metric: str, variant: str) -> str:
    """Key of the highest value of one metric that any attack reaches on a variant."""
    return f"risk/{metric}/{sortable(variant)}"


def finding_key(table: Table) -> str:
    """Key of the table of a finding."""
    return f"findings/{table.key}"


def figure_key(name: str) -> str:
    """Key of a figure."""
    return f"figures/{name}"


def roc_key(row: Row) -> str:
    """Key of the ROC curves of one attack with one kind of shadows, for all variants."""
    return f"roc/{row.knowledge}/{row.attack}"


def federated_key(threat: str, knowledge: str, attack: str, metric: str) -> str:
    """Key of what one attack on the rounds of federated training finds."""
    return f"federated/{threat}/{knowledge}/{attack}/{metric}"


def task_key(task: int, stage: int, metric: str) -> str:
    """Key of what the strongest attack finds of a task after a stage, both from 1."""
    return f"continual/task-{task}/after-{stage}/{metric}"


def transfer_key(attack: str, metric: str) -> str:
    """Key of what an attack finds of tasks at the end beyond what it finds right after them."""
    return f"continual/transfer/{attack}/{metric}"


def holder_key(holds: str, metric: str) -> str:
    """Key of what one finds of tasks at the end who holds a snapshot, all of them, or the state."""
    return f"continual/holds/{holds}/{metric}"


def precision_key(precision: str, *what: str) -> str:
    """Key of the AUC of snapshots of one precision, task by task and by what one holds."""
    return f"continual/precision/{precision}/{'/'.join(what)}/auc"


def audit_id(results: Results) -> str:
    """Id of the W&B run of an audit."""
    experiment = results.experiment  # None for models that were trained elsewhere
    return f"{experiment.id if experiment else results.inputs[:16]}-audit"
