"""A user's own class of tools as an environment."""
