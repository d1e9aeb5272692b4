"""BFCL v4 multi-turn by the official protocol, with the official verdicts."""
