"""One self-contained HTML page for runs, evaluations, comparisons and quickstarts: numbers in Python, life in a script."""
