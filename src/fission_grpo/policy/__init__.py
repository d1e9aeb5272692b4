"""Whoever makes tokens: the seam, a scripted one, and our own sampler."""
