"""What a run leaves on disk: its folder, metrics, traces, and how it is interrupted."""
