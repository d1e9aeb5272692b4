"""The workshop of a learned Error Simulator: its records, its training, its audit."""
