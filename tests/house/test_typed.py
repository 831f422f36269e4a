"""Laws of values from files: each field of a dataclass is of its type, or refused in one line."""

from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import pytest

from tttvideo.backbone import BackboneConfig
from tttvideo.typed import typed
from tttvideo.video.address import AddressConfig
from tttvideo.video.frame_model import FrameModelConfig


@dataclass
class Part:
    size: int = 3


@dataclass
class Whole:
    name: str
    rate: float = 0.5
    grid: tuple[int, int] | None = None
    levels: tuple[int, ...] = (8, 5)
    notes: list[str] = field(default_factory=list)
    order: Literal["raster", "diagonal"] | None = None
    flag: bool = False
    part: Part = field(default_factory=Part)
    free: Any = None


def test_a_dataclass_is_built_from_what_json_makes_of_it():
    values = {
        "name": "a",
        "rate": 2,
        "grid": [2, 3],
        "levels": [1],
        "part": {"size": 4},
        "free": {},
    }
    whole = Whole("a", 2, (2, 3), (1,), part=Part(4), free={})
    assert typed(Whole, values) == whole == typed(Whole, asdict(whole))


@pytest.mark.parametrize(
    "config",
    [BackboneConfig(), BackboneConfig(grid=(2, 3)), FrameModelConfig(mixer=None)]
    + [AddressConfig("moves", moves=[(0.0, 1.0)])],
    ids=lambda config: type(config).__name__,
)
def test_every_config_is_read_back(config):
    assert typed(type(config), asdict(config)) == config


REFUSED = [
    ({}, "name is missing"),
    ([], "a list stands where Whole should"),
    ({"name": 3}, "name is 3; it must be text"),
    ({"rate": "x"}, "rate is 'x'; it must be a finite number"),
    ({"rate": float("nan")}, "rate is nan; it must be a finite number"),
    ({"rate": True}, "rate is True; it must be a finite number"),
    ({"grid": [2]}, "grid is a list; it must be a list of 2 values, each an integer or null"),
    ({"grid": [2, 2.5]}, "grid is 2.5; it must be an integer"),
    ({"levels": 8}, "levels is 8; it must be a list of values, each an integer"),
    ({"notes": [3]}, "notes is 3; it must be text"),
    ({"order": "spiral"}, "order is 'spiral'; it must be one of raster, diagonal or null"),
    ({"order": []}, "order is a list; it must be one of"),
    ({"flag": 1}, "flag is 1; it must be true or false"),
    ({"part": 3}, "3 stands where Part should"),
    ({"part": {"size": 10**5000}}, "size is a int; it must be an integer"),
    ({"nme": 3}, "'nme' is unknown"),
    (
        {"name": "x" * 999, "rate": "y" * 999},
        "rate is 'yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy...; it",
    ),
]


@pytest.mark.parametrize("values, message", REFUSED, ids=[message for _, message in REFUSED])
def test_a_value_of_another_type_is_named_with_what_is_allowed(values, message):
    with pytest.raises(ValueError) as raised:
        typed(Whole, values if not values or "name" in values else {"name": "a", **values})
    assert message in str(raised.value) and "\n" not in str(raised.value)
