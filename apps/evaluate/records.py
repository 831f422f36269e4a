"""Numbers as JSON and in tables, those of a model that diverged too."""

import math
from typing import Any


DIVERGED = "diverged"


def finite(record: Any) -> Any:
    """The same with null for numbers that are not finite, which JSON has no words for."""
    if isinstance(record, dict):
        return {name: finite(x) for name, x in record.items()}
    if isinstance(record, (list, tuple)):
        return [finite(x) for x in record]
    return None if isinstance(record, float) and not math.isfinite(record) else record


def shown(number: float | None, form: str) -> str:
    """A number for a table by its format; empty for None, and for what is not finite, so said."""
    if number is None:
        return ""
    return format(number, form) if math.isfinite(number) else DIVERGED
