"""`python -m fission_grpo.cli`."""

from fission_grpo.cli import main

main()
