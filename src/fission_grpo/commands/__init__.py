"""What a command does once its arguments are read."""
