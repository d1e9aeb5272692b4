"""What a person reads, made from the files of runs and evaluations."""
