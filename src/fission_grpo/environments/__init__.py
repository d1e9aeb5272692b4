"""Executable worlds: what they must do, the ones that ship, and checks and limits around them."""
