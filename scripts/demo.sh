#!/bin/sh
# `npm run demo`: ef from nothing to a synced cache, in a throw-away HOME. Leaves nothing behind but dist/ef.
set -eu
cd "$(dirname "$0")/.."

if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$(printf '\033[1m') dim=$(printf '\033[2m') off=$(printf '\033[0m'); else bold='' dim='' off=''; fi
title() { printf '\n%s%s%s\n' "$bold" "$1" "$off"; }
shown() { printf '%s$ %s%s\n' "$dim" "$1" "$off"; }

title "1. Build one binary (Bun comes from npm)"
if ! command -v rsync >/dev/null; then
  echo "rsync is missing: installing it"
  if [ "$(id -u)" = 0 ]; then sudo=''; else sudo='sudo -n'; fi
  { $sudo apt-get update -q && $sudo apt-get install -y -q rsync; } >/dev/null 2>&1 || {
    echo "rsync cannot be installed here (no root?). ef copies with it: install rsync 3.1 or newer, then run this again." >&2
    exit 1
  }
fi
sh scripts/with-bun scripts/build.ts

dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
trap 'exit 130' INT TERM HUP
mkdir -p "$dir/home" "$dir/scratch" "$dir/bin"
cp dist/ef "$dir/bin/ef"
export HOME="$dir/home" SCRATCH="$dir/scratch" PATH="$dir/bin:$PATH"
unset EF_CONFIG HF_HOME TORCH_HOME PIP_CACHE_DIR

title "2. A home directory with what a researcher has in it"
cache="$HOME/.cache"
blob() { # blob DIR SIZE_MB NAME: a blob and the snapshot link to it, as the Hugging Face hub lays them out
  mkdir -p "$1/blobs" "$1/snapshots/main"
  head -c "$(($2 * 1000000))" /dev/urandom >"$1/blobs/$3"
  ln -s "../../blobs/$3" "$1/snapshots/main/model-$3.safetensors"
}
for model in bert-base llama-tiny whisper-small; do
  blob "$cache/huggingface/hub/models--demo--$model" 40 "$(printf %s "$model" | cksum | cut -d' ' -f1)"
done
mkdir -p "$cache/huggingface/hub/.locks" "$cache/torch/hub/checkpoints" "$cache/pip/http-v2"
head -c 30000000 /dev/urandom >"$cache/torch/hub/checkpoints/resnet50.pth"
i=0
while [ $i -lt 600 ]; do
  mkdir -p "$cache/pip/http-v2/$((i % 40))"
  head -c $((i * 13 % 9000 + 500)) /dev/urandom >"$cache/pip/http-v2/$((i % 40))/$i"
  i=$((i + 1))
done
du -sh "$cache"/* | sed "s|$HOME|~|"

title "3. Say once what to stage"
shown "ef init --input-json config.json"
cat >"$dir/config.json" <<EOF
{
  "scratch_base": "\$SCRATCH",
  "vars": {
    "HF_HOME": { "source": "$cache/huggingface" },
    "TORCH_HOME": { "source": "$cache/torch" },
    "PIP_CACHE_DIR": { "source": "$cache/pip" }
  }
}
EOF
ef init --input-json "$dir/config.json"

title "4. The line of every job script"
shown 'eval "$(ef sync)"'
eval "$(ef sync)"
shown 'env | grep scratch'
env | grep -E '^(HF_HOME|TORCH_HOME|PIP_CACHE_DIR)=' | sort

title "5. What is where"
shown "ef status"
ef status

title "6. The next job finds it done"
shown 'time eval "$(ef sync)"'
start=$(date +%s%N)
eval "$(ef sync)"
end=$(date +%s%N)
echo "$(((end - start) / 1000000)) ms"

title "Next"
echo "cp dist/ef ~/bin on your cluster, then: ef init"
