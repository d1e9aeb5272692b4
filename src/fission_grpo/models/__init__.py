"""Models as folders: the catalog, nano, LoRA."""
