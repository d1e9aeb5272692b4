"""The Error Simulator, as far as a training run needs it: who writes the feedback on a failed call, who guards it."""
