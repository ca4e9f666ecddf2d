from __future__ import annotations

import io
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from flights.faults import FAULTS
from flights.publisher import main, publish, publish_corrupted
from flights.source import SCHEMA

MARCH_1, MARCH_2, MARCH_4 = date(2013, 3, 1), date(2013, 3, 2), date(2013, 3, 4)


def objects(s3: Any) -> dict[str, bytes]:
    listing = s3.list_objects_v2(Bucket="perennial").get("Contents", [])
    return {item["Key"]: s3.get_object(Bucket="perennial", Key=item["Key"])["Body"].read() for item in listing}


def test_publish_lands_one_file_a_day(s3: Any, cache: Path) -> None:
    uris = publish(MARCH_1, MARCH_4, client=s3, cache=cache)
    landed = objects(s3)
    assert list(landed) == [f"landing/flights/dt=2013-03-0{day}/flights.parquet" for day in (1, 2, 3)]
    assert uris == [f"s3://perennial/{key}" for key in landed]
    for key, content in landed.items():
        table = pq.read_table(io.BytesIO(content))
        assert table.schema.equals(SCHEMA)
        assert set(table["service_date"].to_pylist()) == {key.split("dt=")[1][:10]}


def test_publish_again_gives_equal_bytes(s3: Any, cache: Path) -> None:
    publish(MARCH_1, MARCH_4, client=s3, cache=cache)
    first = objects(s3)
    publish(MARCH_1, MARCH_4, client=s3, cache=cache)
    assert objects(s3) == first


def test_a_days_bytes_do_not_depend_on_the_range_it_was_published_in(s3: Any, cache: Path) -> None:
    publish(MARCH_1, MARCH_4, client=s3, cache=cache)
    as_one_of_three = objects(s3)["landing/flights/dt=2013-03-01/flights.parquet"]
    publish(MARCH_1, MARCH_2, client=s3, cache=cache)
    assert objects(s3)["landing/flights/dt=2013-03-01/flights.parquet"] == as_one_of_three


def test_landing_without_a_final_slash_is_the_same_folder(s3: Any, cache: Path) -> None:
    (uri,) = publish(MARCH_1, MARCH_2, landing="s3://perennial/elsewhere", client=s3, cache=cache)
    assert uri == "s3://perennial/elsewhere/dt=2013-03-01/flights.parquet"
    assert list(objects(s3)) == ["elsewhere/dt=2013-03-01/flights.parquet"]


def test_corrupted_day_replaces_the_good_one_with_the_same_schema(s3: Any, cache: Path) -> None:
    (good,) = publish(MARCH_1, MARCH_2, client=s3, cache=cache)
    before = objects(s3)
    assert publish_corrupted(MARCH_1, client=s3, cache=cache) == good
    after = objects(s3)
    assert list(after) == list(before)
    assert after != before
    (content,) = after.values()
    assert pq.read_table(io.BytesIO(content)).schema.equals(SCHEMA)
    publish(MARCH_1, MARCH_2, client=s3, cache=cache)
    assert objects(s3) == before


def test_unknown_fault_names_those_that_exist(s3: Any, cache: Path) -> None:
    with pytest.raises(ValueError, match="there is no fault 'gremlins'; there are metric_weather"):
        publish_corrupted(MARCH_1, faults=["gremlins"], client=s3, cache=cache)


def test_corrupting_a_day_without_flights_is_refused(s3: Any, cache: Path) -> None:
    with pytest.raises(ValueError, match="no flights on 2014-01-01"):
        publish_corrupted(date(2014, 1, 1), client=s3, cache=cache)


@pytest.mark.parametrize(
    ("arguments", "files"),
    [
        (["--from", "2013-03-01", "--to", "2013-03-03"], 2),
        (["--corrupted", "2013-03-01", "--fault", next(iter(FAULTS))], 1),
    ],
    ids=["days", "corrupted"],
)
def test_command_prints_what_it_landed(
    s3: Any, cache: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], files: int
) -> None:
    assert main([*arguments, "--cache", str(cache)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed == [f"s3://perennial/{key}" for key in objects(s3)]
    assert len(printed) == files


def test_command_without_days_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([])
    assert "give --from and --to, or --corrupted" in capsys.readouterr().err
