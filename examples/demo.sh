#!/bin/sh
# From nothing to streamed text in one go: `demo.sh DIR` makes a checkpoint there, packs it and generates from it.
# Run by `make demo`, which puts `flashmoe` on the path.
set -eu
here=$(dirname "$0")
dir=$1

say() { printf '\n\033[1m%s\033[0m\n' "$1"; }
show() { printf '\033[2m$ %s\033[0m\n' "$*"; "$@"; }

mkdir -p "$dir"
say "1. A small checkpoint of the Qwen3.5-MoE architecture, as published ones look"
if [ ! -f "$dir/checkpoint/model.safetensors.index.json" ]; then
    show python "$here/make_demo_checkpoint.py" "$dir/checkpoint"
else
    echo "$dir/checkpoint is there already."
fi

say "2. Pack it: experts to 4 bits, one contiguous record each, so that one read brings one expert"
rm -rf "$dir/model"
show flashmoe pack "$dir/checkpoint" "$dir/model"

say "3. Generate, in a quarter of the memory the model takes: experts are read from disk as words ask for them"
echo "The weights are random, so the words are too: what you see is the engine at work, not a model that knows anything."
show flashmoe run "$dir/model" -p "Why do lighthouse keepers count ships?" --max-tokens 64 --memory 8MB --seed 1 --stats

say "Done. The same with a real model: flashmoe pack CHECKPOINT OUT, then flashmoe run OUT -p '...'"
