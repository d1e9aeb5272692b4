"""The official BFCL multi-turn classes as an environment."""
