"""The official multi-turn classes of `bfcl-eval`."""
