"""Messages <-> tokens, exactly, by a model's own chat template."""
