"""`python -m benchmarks.driver`: its keys are there, and bad input is one message."""

import json

from benchmarks.driver import driver


def test_the_driver_is_timed_with_simulated_replicas(command):
    flags = ["--trials", 500, "--replicas", 8, "--evaluation-ms", 2, "--json"]
    code, printed, _ = command(driver, "benchmarks.driver", *flags)
    found = json.loads(printed)
    assert code == 0
    assert (found["trials"], found["replicas"], found["grid"]) == (500, 8, "24x16")
    assert 0 < found["replica_efficiency"] <= 1
    keys = "masks_per_s", "driver_ms_per_mask", "resume_s"
    assert all(found[key] > 0 for key in keys)
    assert "bytes_per_trial" in found


def test_bad_input_is_one_message(command):
    code, printed, said = command(driver, "benchmarks.driver", "--replicas", 0)
    assert (code, printed) == (2, "")
    assert said.startswith("headmask: Invalid value for '--replicas'")
    assert said.count("\n") == 1
