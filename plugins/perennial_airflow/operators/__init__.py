"""One operator a stage."""

from perennial_airflow.operators.approval import ApproveOperator
from perennial_airflow.operators.data import SnapshotOperator, ValidateOperator
from perennial_airflow.operators.monitor import ObserveOperator, SendAlertsOperator
from perennial_airflow.operators.promotion import DecideOperator, PromoteOperator
from perennial_airflow.operators.rollback import RollbackOperator
from perennial_airflow.operators.rollout import RolloutOperator, SmokeTestOperator
from perennial_airflow.operators.training import EvaluateOperator, TrainModelOperator

__all__ = [
    "ApproveOperator",
    "DecideOperator",
    "EvaluateOperator",
    "ObserveOperator",
    "PromoteOperator",
    "RollbackOperator",
    "RolloutOperator",
    "SendAlertsOperator",
    "SmokeTestOperator",
    "SnapshotOperator",
    "TrainModelOperator",
    "ValidateOperator",
]
