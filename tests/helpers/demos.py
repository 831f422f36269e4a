"""The demo on fewer and shorter videos."""

import pytest

from tttvideo.apps.demo import shapes, world


def small_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"CLIPS": 4, "HELD_OUT": 4, "FRAMES": 34, "AHEAD": (4, 16)}.items():
        monkeypatch.setattr(shapes, name, value)
    for name, value in {"WORLDS": 20, "TESTED": 2, "SEEN": 20}.items():
        monkeypatch.setattr(world, name, value)
