"""The built-in model: where its folder is. What it is and how it was trained: `model/MODEL_CARD.md`, `training/`."""

from pathlib import Path

MODEL_DIR = Path(__file__).parent / "model"
