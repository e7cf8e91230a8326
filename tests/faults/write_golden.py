"""Writes the golden checkpoint of this format: `python -m tests.faults.write_golden DIRECTORY_OF_IMAGES`."""

import shutil
import sys
import tempfile
from pathlib import Path

from tests.faults.harness import images_of, train

if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        argv = ["--max_train_steps", 4, "--checkpointing_steps", 1, "--checkpoints_total_limit", 4]
        assert train("jmi", Path(directory), *images_of(sys.argv[1]), *argv) == 0
        golden = Path(__file__).parent / "golden" / "checkpoint-2"
        shutil.copytree(Path(directory) / "checkpoints" / "checkpoint-2", golden)
