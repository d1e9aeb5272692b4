"""Fission-GRPO inside verl's synchronous trainer on Ray: dialogues in its workers, one fission source in its driver."""
