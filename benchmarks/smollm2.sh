#!/usr/bin/env bash
# All arms with a real pretrained model, SmolLM2-135M-Instruct, LoRA, two seeds: meant for one GPU (hours on a CPU).
# The quickstart gives the model a warm start first (recipes/warm_starts.py); see docs/results.md for what was run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
.venv/bin/fission quickstart --model smollm2 --output runs/smollm2 --seeds 2 --workers 1 \
    --arms grpo-matched,fission,fission-static,grpo-decision,fission-decision \
    --lora.rank 16 --lora.alpha 32 --precision bf16 \
    --trainer.learning_rate 5e-5 --trainer.steps 150 --trainer.token_budget 32768 \
    --rollouts.max_tokens 128 "$@"
