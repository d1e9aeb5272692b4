"""The telecom tickets of tau2, played by the official solo protocol."""
