"""Test-Time Training layers for long text and dense video."""

from pathlib import Path


_here = Path(__file__).parent
if _broken := [n for n in ("apps", "configs", "data", "kernels") if (_here / n).is_file()]:
    raise ImportError(
        f"{', '.join(_broken)} in {_here} must be links to the folders of the same names one level "
        "up, but are plain files: this copy was made without symbolic links. Clone the repository "
        "with git (core.symlinks=true), or unpack it with a program that keeps links"
    )
