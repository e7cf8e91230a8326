from tests.faults.harness import RECIPES  # noqa: F401  (the recipes import torch: once, before anything is timed)
