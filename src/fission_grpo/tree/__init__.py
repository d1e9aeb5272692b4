"""Prefix trees: every unique token of an update goes through the model once, with the same gradient."""
