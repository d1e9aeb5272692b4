"""Request families over the worlds of the office: one module for each world."""
