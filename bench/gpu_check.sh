#!/usr/bin/env bash
# Everything that a GPU is needed for, in under eight minutes: builds fusedstep, runs the tests that need a GPU, times
# each case, and prints one short table last. `bash bench/gpu_check.sh`; it needs an NVIDIA driver, Python and a C++
# compiler. What it makes, figures included, lies in build/gpu. Packages that are installed are used: peers too.
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=build/gpu
title=start
step() {
  title=$1
  printf '\n=== [%3d s] %s\n' "$SECONDS" "$title"
}
stop() {
  printf 'gpu_check: %s\n' "$1" >&2
  exit 1
}
trap 'printf "\n=== [%3d s] FAILED: %s (line %d)\n" "$SECONDS" "$title" "$LINENO" >&2' ERR

step "The GPU"
command -v python3 > /dev/null || stop "python3 is not installed"
command -v nvidia-smi > /dev/null || stop "there is no NVIDIA driver on this machine (nvidia-smi): nothing can run here"
gpus=$(nvidia-smi --query-gpu=name,compute_cap,driver_version,memory.total --format=csv,noheader 2>&1) ||
  stop "the NVIDIA driver finds no GPU: $gpus"
echo "$gpus"
[[ $gpus == *,* ]] || stop "the NVIDIA driver finds no GPU: $gpus"
capability=$(echo "$gpus" | head -1 | cut -d, -f2 | tr -d ' .')
command -v c++ > /dev/null || command -v g++ > /dev/null || stop "a C++ compiler is not installed"

step "Build for sm_$capability"
python3 -m venv --system-site-packages "$work/venv"
python="$work/venv/bin/python"
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_PROGRESS_BAR=off
timeout 240 "$python" -m pip install -q --config-settings "build-dir=$work/build" \
  --config-settings cmake.define.FUSEDSTEP_CUDA=ON --config-settings "cmake.define.FUSEDSTEP_CUDA_ARCHITECTURES=$capability" \
  '.[cuda13,test]'
"$python" -m fusedstep info

step "Tests"
timeout 120 "$python" -m pytest -q -m gpu tests/cuda

step "Times"
timeout 200 "$python" -m bench --device cuda --json "$work/bench.json" > "$work/bench.txt" ||
  { tail -n 40 "$work/bench.txt" && false; }
echo "all tables: $work/bench.txt; all figures: $work/bench.json"

step "Summary"
"$python" -m bench.short "$work/bench.json"
