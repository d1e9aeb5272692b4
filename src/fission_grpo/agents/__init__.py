"""Whoever answers in a dialogue: a local policy behind a prompt format, or a server behind an endpoint."""
