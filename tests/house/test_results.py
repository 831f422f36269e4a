"""Laws of results/: small, with raw series compressed."""

import gzip
import json
from pathlib import Path

import pytest


RESULTS = Path(__file__).parents[2] / "results"
RAW = sorted(RESULTS.rglob("*.json.gz"))


@pytest.mark.parametrize("path", RAW, ids=lambda path: path.relative_to(RESULTS).as_posix())
def test_raw_series_can_be_read_and_hold_no_time(path):
    data = path.read_bytes()
    assert data[4:8] == bytes(4)  # the same content gives the same file
    assert json.loads(gzip.decompress(data))


def test_raw_series_are_compressed_and_all_results_are_small():
    files = [path for path in RESULTS.rglob("*") if path.is_file()]
    assert RAW and not [path for path in files if path.stat().st_size > 300_000]
    assert not [path for path in files if path.suffix == ".json"]
    assert sum(path.stat().st_size for path in files) < 1_500_000
