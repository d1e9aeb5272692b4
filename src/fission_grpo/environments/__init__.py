"""Executable worlds behind one protocol (`base.py`), each judged by its own checker."""
