"""`tttvideo prepare recall`: generated text with facts and questions, as JSON lines."""

import argparse
import json
from pathlib import Path

from tttvideo.data.recall.texts import recall_documents
from tttvideo.files import replacing
from tttvideo.progress import progress

from . import alone


@alone
def run(options: argparse.Namespace) -> None:
    out, size = Path(options.out), options.size
    written, count = 0, 0
    with (
        replacing(out) as partial,
        open(partial, "w", encoding="utf-8") as file,
        progress("drawing", size, "B") as advance,
    ):
        for text in recall_documents(options.length, options.seed, options.tasks):
            file.write(json.dumps({"text": text}) + "\n")
            advance(len(text))
            written, count = written + len(text), count + 1
            if written >= size:
                break
    print(f"{out}: {count:,} documents, {written:,} bytes")
