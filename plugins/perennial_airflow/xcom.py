"""XCom carries references only (invariant 1)."""

from __future__ import annotations

import json
from typing import Any, Final

from airflow.sdk.bases.xcom import BaseXCom
from airflow.sdk.exceptions import AirflowFailException

MAX_XCOM_BYTES: Final = 2048


class ReferenceXComBackend(BaseXCom):
    """Refuses values larger than 2 KiB.

    `[core] xcom_backend` applies to every DAG of an Airflow, not only to Perennial's. The links' URLs pass by it:
    Airflow writes them to its database itself.
    """

    @staticmethod
    def serialize_value(
        value: Any,
        *,
        key: str | None = None,
        task_id: str | None = None,
        dag_id: str | None = None,
        run_id: str | None = None,
        map_index: int | None = None,
    ) -> str:
        """Airflow's own serialisation, after the size was checked.

        Raises:
            AirflowFailException: larger than 2 KiB; the task fails without a retry.
        """
        serialized: str = BaseXCom.serialize_value(
            value, key=key, task_id=task_id, dag_id=dag_id, run_id=run_id, map_index=map_index
        )
        size_bytes = len(json.dumps(serialized, default=str).encode("utf-8"))
        if size_bytes > MAX_XCOM_BYTES:
            raise AirflowFailException(
                f"XCom {key!r} of task {dag_id}.{task_id} is {type(value).__name__} of {size_bytes} bytes; "
                f"at most {MAX_XCOM_BYTES} are allowed. Put the data on S3 (or in MLflow) and return a reference to it"
            )
        return serialized
