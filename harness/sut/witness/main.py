"""Entry point of the witness engine: `<SUT's venv>/bin/python main.py`, everything else by environment.

SQUALL_WITNESS (options as JSON), SQUALL_WITNESS_TOKEN (control socket), SQUALL_SEGMENTS (a path).
"""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path
from types import ModuleType

from chain import load_vocabulary
from dynamo.common.backend.run import run
from engine import Options, WitnessEngine
from segments import Segments


def load_words(path: Path) -> ModuleType:
    """squall's words module by its path: squall itself isn't installed in this venv."""
    spec = importlib.util.spec_from_file_location("witness_words", path)
    if spec is None or spec.loader is None:
        raise ImportError(f"{path}: no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Serve until told to stop."""
    options = Options(**json.loads(os.environ["SQUALL_WITNESS"]))
    try:
        vocabulary = load_vocabulary(load_words(Path(options.words)), Path(options.model_dir))
    except (KeyError, OSError, ValueError) as error:
        sys.exit(f"witness: {options.model_dir}: no tokenizer of witness words ({error!r})")
    path = os.environ.get("SQUALL_SEGMENTS")
    engine = WitnessEngine(
        options, vocabulary, Segments(Path(path) if path else None), os.environ["SQUALL_WITNESS_TOKEN"]
    )

    async def made(_argv: object) -> tuple[WitnessEngine, object]:
        return engine, engine.worker_config()

    run(WitnessEngine, engine_factory=made)


if __name__ == "__main__":
    main()
