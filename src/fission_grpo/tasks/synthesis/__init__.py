"""Tasks drawn without end over the official classes, each proved by its own gold chain."""
