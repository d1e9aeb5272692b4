"""One HTML file for runs, evaluations, comparisons and quickstarts: numbers in Python, what moves in a script."""
