"""The user's own typed functions and classes."""
