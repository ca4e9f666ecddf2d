"""One operator a stage."""

from perennial_airflow.operators.data import SnapshotOperator, ValidateOperator
from perennial_airflow.operators.promotion import DecideOperator, PromoteOperator
from perennial_airflow.operators.training import EvaluateOperator, TrainModelOperator

__all__ = [
    "DecideOperator",
    "EvaluateOperator",
    "PromoteOperator",
    "SnapshotOperator",
    "TrainModelOperator",
    "ValidateOperator",
]
