"""Fission inside the engines of others. Each is an extra of its own, and nothing below imports one."""
