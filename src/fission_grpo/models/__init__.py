"""Models by name or folder, in and out; no training."""
