"""Lower bounds are what was tested: `constraints-lowest.txt` pins each at its floor, `constraints.txt` above it."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
USED = [
    *PROJECT["dependencies"],
    *(each for name in ("cluster", "postgresql", "mysql", "onnx", "transformers") for each in EXTRAS[name]),
]
BOUND = re.compile(r"([\w.-]+)(?:\[\w+\])?>=([\d.]+)")


def bounds(needed):
    return [BOUND.fullmatch(each).groups() for each in needed if "headmask[" not in each and ">=" in each]


def pins(name):
    lines = (ROOT / name).read_text().splitlines()
    return {normal(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}


def normal(name):
    return name.lower().replace("_", "-")


def numbers(version):
    return [int(number) for number in re.findall(r"\d+", version)]


@pytest.mark.parametrize(("package", "floor"), bounds(USED))
def test_the_oldest_versions_are_pinned_at_the_floor(package, floor):
    pinned = numbers(pins("constraints-lowest.txt")[normal(package)])
    assert pinned[: len(numbers(floor))] == numbers(floor)


@pytest.mark.parametrize("name", ["constraints-lowest.txt", "constraints.txt"])
def test_pinned_versions_are_not_below_a_floor(name):
    pinned = pins(name)
    needed = bounds([*USED, *EXTRAS["test"]])
    below = [package for package, floor in needed if numbers(pinned.get(normal(package), "999")) < numbers(floor)]
    assert below == []


def test_extras_that_install_the_same_package_have_one_floor():
    floors = {}
    for package, floor in bounds([*PROJECT["dependencies"], *(each for extra in EXTRAS.values() for each in extra)]):
        floors.setdefault(normal(package), set()).add(floor)
    assert {package: found for package, found in floors.items() if len(found) > 1} == {}
