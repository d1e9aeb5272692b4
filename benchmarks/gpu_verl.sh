#!/bin/sh
# Fission inside verl on one CUDA device with a vLLM beside it, in about ten minutes, without a download: random weights of
# Qwen3-0.6B's shape with nano's tokenizer. Seconds by phase, the share of fission's own code in the driver, and the peak of
# the device beside the plan's, go to a folder; what cannot run is left out with a line. Needs
# `pip install 'fission-grpo[verl]' vllm`; without flash-attn, which verl asks for, attention is PyTorch's.
#
#   benchmarks/gpu_verl.sh gpu_verl_results
#   DEVICE=cpu MODEL=nano benchmarks/gpu_verl.sh out --steps 1 --queries 4 --group 4 --completion 48
set -u
out=${1:-gpu_verl_results}
[ $# -gt 0 ] && shift
python=${PYTHON:-python}
device=${DEVICE:-cuda}
shape=${SHAPE:-qwen3-0.6b}
mkdir -p "$out"
export TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0
if command -v nvidia-smi >/dev/null; then nvidia-smi | tee "$out/device.txt"; fi

model=${MODEL:-$out/model}
if [ -z "${MODEL:-}" ] && [ ! -f "$model/config.json" ]; then
    "$python" benchmarks/gpu_verl.py model "$model" --shape "$shape" || exit 1
fi
: >"$out/table.txt"
if [ "$device" = cuda ] && ! "$python" -c 'import vllm' 2>/dev/null; then
    echo "skipped: vllm is not installed" | tee -a "$out/table.txt"
    exit 1
fi
for side in grpo joint own; do
    rm -rf "$out/$side"
    if "$python" benchmarks/gpu_verl.py "$side" "$model" --device "$device" --output "$out/$side" "$@" \
        >"$out/$side.txt" 2>"$out/$side.log"; then
        tail -n 1 "$out/$side.txt" | tee -a "$out/table.txt"
    else
        echo "$side   skipped: $(grep -v '^ *$' "$out/$side.log" | tail -n 1)" | tee -a "$out/table.txt"
    fi
done
