"""`python -m fission_grpo.cli`."""

from fission_grpo.cli import main

if __name__ == "__main__":  # not in the processes that a command starts
    main()
