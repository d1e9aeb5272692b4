"""Rows of others as tasks of ours: one module for each form, `forms.py` has the table, `conversion.py` does it."""
