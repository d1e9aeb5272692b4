#!/bin/sh
# Fission inside TRL on one CUDA device, in about ten minutes, without a download: random weights of Qwen3-0.6B's shape with
# nano's tokenizer. Seconds by phase, and peak memory beside the plan's, go to a folder; what cannot run is left out with
# a line. Needs `pip install 'fission-grpo[trl]'`; a colocated vLLM is tried where vllm is installed.
#
#   benchmarks/gpu_trl.sh gpu_trl_results
#   DEVICE=cpu SHAPE=small benchmarks/gpu_trl.sh out --steps 1 --queries 1 --group 2 --prompt 50 --completion 8
set -u
out=${1:-gpu_trl_results}
[ $# -gt 0 ] && shift
python=${PYTHON:-python}
device=${DEVICE:-cuda}
shape=${SHAPE:-qwen3-0.6b}
mkdir -p "$out"
export PYTORCH_ALLOC_CONF=expandable_segments:True TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1 TRL_EXPERIMENTAL_SILENCE=1
if command -v nvidia-smi >/dev/null; then nvidia-smi | tee "$out/device.txt"; fi

model=$out/model
[ -f "$model/config.json" ] || "$python" benchmarks/gpu_trl.py model "$model" --shape "$shape" || exit 1
: >"$out/table.txt"
for side in trl tree rows vllm; do
    if [ "$side" = vllm ] && ! "$python" -c 'import vllm' 2>/dev/null; then
        echo "vllm   skipped: vllm is not installed" | tee -a "$out/table.txt"
        continue
    fi
    if "$python" benchmarks/gpu_trl.py "$side" "$model" --device "$device" --json "$out/$side.json" "$@" \
        >"$out/$side.txt" 2>"$out/$side.log"; then
        tail -n 1 "$out/$side.txt" | tee -a "$out/table.txt"
    else
        echo "$side   skipped: $(tail -n 1 "$out/$side.log")" | tee -a "$out/table.txt"
    fi
done
