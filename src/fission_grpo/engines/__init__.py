"""Fission and our prefix tree inside the training engines that others maintain; each an extra of its own."""
