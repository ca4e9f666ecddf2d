"""The hooks in tests/conftest.py: they refuse skips in CI, and tell what was measured."""

import pytest

from perennial_demo.home import REPOSITORY

pytest_plugins = ["pytester"]


@pytest.fixture
def suite(pytester, monkeypatch):
    pytester.makeconftest((REPOSITORY / "tests" / "conftest.py").read_text())
    pytester.maketxtfile(allowed_skips="# a comment\nno such device")
    pytester.makepyfile("import pytest\ndef test_one(): pass\ndef test_two(): pytest.skip('no such device: /dev/x')")
    monkeypatch.setenv("CI", "true")
    return pytester


def test_allowed_reason_passes(suite):
    assert suite.runpytest_subprocess().ret == 0


@pytest.mark.parametrize("arguments", [(), ("-n", "2")], ids=["one-process", "two-workers"])
def test_other_reason_fails_and_is_named(suite, arguments):
    suite.makepyfile(test_other="import pytest\npytest.skip('felt like it', allow_module_level=True)")
    result = suite.runpytest_subprocess(*arguments)
    assert result.ret == 1
    result.stdout.fnmatch_lines(["SKIP NOT ALLOWED test_other.py: *felt like it*"])


def test_expected_failure_is_no_skip(suite):
    suite.makepyfile(test_other="import pytest\n@pytest.mark.xfail\ndef test_three(): assert 0")
    assert suite.runpytest_subprocess().ret == 0


def test_skips_on_a_developers_machine_pass(suite, monkeypatch):
    monkeypatch.delenv("CI")
    suite.makepyfile(test_other="import pytest\ndef test_three(): pytest.skip('no network')")
    assert suite.runpytest_subprocess().ret == 0


def test_measurement_is_told_once_at_the_end(suite):
    suite.makepyfile(test_other="def test_three(record_property): record_property('way_back_s', 3.5)")
    result = suite.runpytest_subprocess()
    assert result.stdout.str().count("MEASURED way_back_s = 3.5") == 1
