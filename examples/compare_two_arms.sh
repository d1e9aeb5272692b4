#!/usr/bin/env bash
# Does fission help on these tools? Two arms at the same rollout budget, judged on the same held-out tasks, paired.
# From the folder of this repository: examples/compare_two_arms.sh [SETTINGS], for instance trainer.seed=1
set -euo pipefail

fission train --recipe nano --config examples/own_tools.yaml --arm grpo-matched --output runs/own-grpo "$@"
fission train --recipe nano --config examples/own_tools.yaml --arm fission --output runs/own-fission "$@"
fission eval tasks examples/own_tools_heldout.jsonl --run runs/own-grpo
fission eval tasks examples/own_tools_heldout.jsonl --run runs/own-fission
fission compare runs/own-grpo runs/own-fission
