"""Synthetic tasks over real tools."""
