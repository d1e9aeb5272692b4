"""The telecom domain of TAU2 in solo mode as an environment."""
