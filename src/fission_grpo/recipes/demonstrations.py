"""The recipe of the supervised baseline: what `fission supervise` and the quickstart do unless told otherwise."""

from __future__ import annotations

DIALOGUES = 300
"""Demonstrations of an error and its fix."""
UPDATES = 100
LEARNING_RATE = 1e-3
"""Peak."""
