"""A user's own tools as an environment: a class of them, or functions."""
