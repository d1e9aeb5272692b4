#!/bin/sh
# The training pass and generation on one CUDA device in bf16, random weights of Qwen3-1.7B's and Qwen3-8B's shape. Tables and
# JSON go to a folder; what fails is left out. Needs `pip install trl==1.16 datasets prefix-grouper==0.0.1.post1`, and
# flash-attn if TRL shall use it.
#
#   PEAK_TFLOPS=989 benchmarks/gpu.sh gpu_results           all of it (989: bf16 without sparsity, H100 SXM and H200)
#   benchmarks/gpu.sh gpu_results kernel qwen3-1.7b         two parts of it
set -u
out=${1:-gpu_results}
[ $# -gt 0 ] && shift
parts="$*"
peak=${PEAK_TFLOPS:-989}
python=${PYTHON:-python}
mkdir -p "$out"
export PYTORCH_ALLOC_CONF=expandable_segments:True TOKENIZERS_PARALLELISM=false HF_HUB_OFFLINE=1
attention=$("$python" -c 'from importlib.util import find_spec as f; print("flash_attention_2" if f("flash_attn") else "sdpa")')
nvidia-smi | tee "$out/device.txt"

wanted() { case " ${parts:-$1} " in *" $1 "*) ;; *) return 1 ;; esac; }
compare() { # name, then arguments
    wanted "$1" || return 0
    name=$1
    shift
    "$python" benchmarks/tree.py --device cuda --dtype bfloat16 --prompt 6000 --completion 100 --rounds 3 \
        --token-budget 16384 --attention "$attention" --peak-tflops "$peak" \
        --sides tree floor rows trl trl-batch prefix-grouper --json "$out/$name.json" "$@" | tee "$out/$name.md"
}
longest() {
    wanted "$1" || return 0
    name=$1
    shift
    "$python" benchmarks/longest.py --device cuda --dtype bfloat16 --completion 100 --fission \
        --json "$out/$name.json" "$@" | tee "$out/$name.md"
}

# The compiled kernel and its backward pass against a dense mask, before anything is timed.
wanted kernel && "$python" -m pytest tests/tree/test_tree_attention.py -k compiled | tee "$out/kernel.txt"
compare qwen3-1.7b --shape qwen3-1.7b
compare qwen3-1.7b-checkpointed --shape qwen3-1.7b --checkpoint
compare qwen3-8b-checkpointed --shape qwen3-8b --checkpoint
wanted generation && "$python" benchmarks/generation.py --device cuda --dtype bfloat16 --shape qwen3-1.7b --prompt 6000 \
    --completion 100 --rounds 3 --json "$out/generation.json" | tee "$out/generation.md"
for part in heads passes; do
    wanted "$part" && "$python" benchmarks/decoding.py "$part" --device cuda --dtype bfloat16 --model nano smollm2 \
        --json "$out/$part.json" | tee "$out/$part.md"
done
longest longest-qwen3-1.7b --shape qwen3-1.7b --step 4000
longest longest-qwen3-1.7b-checkpointed --shape qwen3-1.7b --checkpoint --step 32000
longest longest-qwen3-8b-checkpointed --shape qwen3-8b --checkpoint --step 16000
