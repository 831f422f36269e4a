import pytest

from helpers.exported import load, new_backbone


@pytest.fixture
def both(request, tmp_path):
    """Our backbone, and the model that transformers loads from its export."""
    backbone = new_backbone(request.param)
    return backbone, load(backbone, tmp_path)
