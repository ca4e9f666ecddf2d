"""Perennial's runtime from Airflow's connections."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from airflow.sdk.bases.hook import BaseHook
from airflow.sdk.exceptions import AirflowNotFoundException

from perennial.errors import TransientError
from perennial.settings import Settings, load_settings
from perennial_airflow.hooks.mlflow import MlflowRegistryHook

if TYPE_CHECKING:
    import boto3

    from perennial.ports import ObjectStore
    from perennial.runtime import Runtime

S3_CONN_ID: Final = "perennial_s3"
MLFLOW_CONN_ID: Final = MlflowRegistryHook.default_conn_name
SAGEMAKER_CONN_ID: Final = "perennial_sagemaker"


class PerennialHook(BaseHook):
    """Builds what the stages need: store and SageMaker from `aws` connections, the registry from an `mlflow` one.

    A connection that does not exist is no error: boto3's and MLflow's own look-up (environment, profile, role) is used,
    as the command `perennial` does. The store's place and the specs' folder come from PERENNIAL_STORE and
    PERENNIAL_SPECS.
    """

    def __init__(self, *, s3_conn_id: str = S3_CONN_ID, mlflow_conn_id: str = MLFLOW_CONN_ID, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.s3_conn_id = s3_conn_id
        self.mlflow_conn_id = mlflow_conn_id

    @cached_property
    def settings(self) -> Settings:
        """Locations: the environment's, with the connections' addresses in front."""
        settings = load_settings()
        mlflow = MlflowRegistryHook(self.mlflow_conn_id)
        if self._exists(self.mlflow_conn_id):
            settings = replace(settings, mlflow_tracking_uri=mlflow.tracking_uri)
            os.environ.update(mlflow.credentials())  # this process's only; MLflow looks nowhere else
        return replace(settings, s3_endpoint=self._s3[1] or settings.s3_endpoint)

    def runtime(self) -> Runtime:
        """Everything that a cycle needs of the world."""
        from perennial.runtime import build_runtime

        return build_runtime(self.settings, session=self._s3[0], sagemaker_session=self._sagemaker_session)

    def store(self) -> ObjectStore:
        """The object store alone; nothing of MLflow is looked up or imported."""
        from perennial.adapters.s3 import S3Store

        session, endpoint = self._s3
        return S3Store.from_session(session, endpoint_url=endpoint or load_settings().s3_endpoint)

    @property
    def has_s3_connection(self) -> bool:
        """Whether the store is reached by the connection's word, and not by the environment's."""
        return self._s3[0] is not None

    @cached_property
    def _s3(self) -> tuple[boto3.Session | None, str | None]:
        if not self._exists(self.s3_conn_id):
            return None, None
        from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook

        hook = AwsBaseHook(aws_conn_id=self.s3_conn_id, client_type="s3")
        if not hook.conn_config:  # Airflow's hook looks the connection up itself, and makes do without it
            raise TransientError(f"the Airflow connection {self.s3_conn_id} was there, and could not be read again")
        return hook.get_session(), hook.conn_config.get_service_endpoint_url("s3")

    def _sagemaker_session(self) -> boto3.Session | None:
        """Looked up only for a model that is deployed there. The store may well be another account, or not AWS."""
        if not self._exists(SAGEMAKER_CONN_ID):
            return None
        from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook

        session: boto3.Session = AwsBaseHook(aws_conn_id=SAGEMAKER_CONN_ID, client_type="sagemaker").get_session()
        return session

    def _exists(self, conn_id: str) -> bool:
        try:
            self.get_connection(conn_id)
        except AirflowNotFoundException:
            self.log.info("no Airflow connection %s; using the environment's own settings", conn_id)
            return False
        return True
