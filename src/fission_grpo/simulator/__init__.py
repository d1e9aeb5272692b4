"""The Error Simulator: who writes the feedback on a failure."""
