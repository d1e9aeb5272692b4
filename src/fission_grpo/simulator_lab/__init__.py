"""Data, training and audit of a learned Error Simulator."""
