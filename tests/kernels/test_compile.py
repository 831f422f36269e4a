"""Laws of the machine code that ptxas makes of each kernel, for GPUs that are not here.

The recorded builds are the budget, so a kernel that became slower fails without a GPU. After an
improvement record new builds: python tests/helpers/compile_ahead.py record
"""

import gzip
import json
from pathlib import Path

import pytest
import triton

from helpers import compile_ahead as aot


RECORD = Path(__file__).parents[2] / "results" / "compile" / "builds.json.gz"
recorded = json.loads(gzip.decompress(RECORD.read_bytes()))


def by_name(rows):
    return {tuple(row[key] for key in ("kernel", "arch", "D", "M", "dtype")): row for row in rows}


@pytest.fixture(scope="module")
def builds():
    return by_name(aot.measure_all("HELD"))


@pytest.fixture
def budgets():
    """The recorded builds, all of one version of Triton."""
    if triton.__version__ != recorded["triton"]:
        pytest.skip(f"recorded with triton {recorded['triton']}, this is {triton.__version__}")
    return by_name(recorded["builds"])


def test_every_kernel_is_recorded(builds):
    assert builds.keys() <= by_name(recorded["builds"]).keys()
    assert {name[0] for name in builds} == {name[0] for name in by_name(recorded["builds"])}


def test_no_kernel_spills_except_those_with_a_recorded_reason(builds, budgets):
    allowed = {name: row["stack"] for name, row in budgets.items()}
    assert {name: b["stack"] for name, b in builds.items() if b["stack"] > allowed[name]} == {}
    spilling = {aot.base(row) for row in recorded["builds"] if row["stack"]}
    assert spilling == set(recorded["reasons"])


def test_shared_memory_fits_and_no_kernel_runs_in_one_or_two_warps(builds):
    for name, build in builds.items():
        assert build["shared"] <= aot.SHARED_LIMIT[build["arch"]], name
        assert build["warps"] >= 4, name
        assert build["registers"] > 32 or build["loop"] < 1000, f"ptxas gave up: {name}"


def test_no_loop_has_grown_and_no_matrix_instruction_is_repeated(builds, budgets):
    for name, build in builds.items():
        budget = budgets[name]
        assert build["mma"] <= budget["mma"], name
        assert build["loop"] * build["warps"] <= 1.05 * budget["loop"] * budget["warps"], name
