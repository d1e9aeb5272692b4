"""Tables and pictures, made from the files that runs and evaluations left."""
