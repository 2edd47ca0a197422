#!/usr/bin/env bash
# Sets up and runs the main job on the bundled backbone: a clip's motion is moved to a prompt.
set -euo pipefail
. "$(dirname "$0")/setup.sh"
out=${1:-runs/demo}
if [ -e "$out/metrics.json" ]; then
  echo "$out holds the result of an earlier demo."
else
  python scripts/toy_clip.py "$out-clip.mp4"
  fastvmt transfer "$out-clip.mp4" "a white circle on a navy background" --output "$out"
fi
echo "Look at $out/comparison.mp4: the clip, the prompt without guidance, and the prompt with the clip's motion."
