import os
import socket

import pytest

from perennial_demo.errors import PortError
from perennial_demo.ports import Ports, free_port, require_free


def test_no_variable_set_gives_the_documented_ports():
    assert Ports.from_environ({}) == Ports(airflow=8080, mlflow=5000, s3=9000, scoring=8000)


def test_variable_set_moves_one_service():
    assert Ports.from_environ({"PERENNIAL_MLFLOW_PORT": "5001"}) == Ports(mlflow=5001)


@pytest.mark.parametrize("value", ["0", "65536", "-1", "80a", "8080.0", "٣٣٣", " "])
def test_value_that_is_no_port_names_the_variable_and_what_is_allowed(value):
    with pytest.raises(PortError, match=r"PERENNIAL_S3_PORT=.* is not a port; allowed is a number from 1 to 65535"):
        Ports.from_environ({"PERENNIAL_S3_PORT": value})


@pytest.mark.parametrize("service", ["MLFLOW", "S3", "SCORING"])
def test_one_port_for_two_services_names_both_variables(service):
    with pytest.raises(PortError, match=f"PERENNIAL_AIRFLOW_PORT and PERENNIAL_{service}_PORT are both 8080"):
        Ports.from_environ({f"PERENNIAL_{service}_PORT": "8080"})


def test_free_port_is_accepted():
    require_free("airflow", free_port())


def test_taken_port_names_the_port_its_holder_and_the_variable():
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        stranger.listen()
        port = stranger.getsockname()[1]
        with pytest.raises(PortError) as error:
            require_free("mlflow", port, patience_s=0)
    message = str(error.value)
    assert f"Port {port}, wanted for mlflow, is taken by process {os.getpid()}" in message
    assert "PERENNIAL_MLFLOW_PORT=" in message


def test_port_taken_on_every_interface_is_noticed():
    with socket.socket() as stranger:
        stranger.bind(("", 0))
        stranger.listen()
        with pytest.raises(PortError):
            require_free("s3", stranger.getsockname()[1], patience_s=0)
