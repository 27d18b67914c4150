#!/usr/bin/env bash
# Copy what the server's pages need from npm into ota_server/static/, pinned by package-lock.json,
# each with its licence. No script of a package is run.
set -euo pipefail
cd "$(dirname "$0")/.."

target=ota_server/static
scratch=.cache/npm
if [ -d offline ] && [ -e "$target/esptool.js" ]; then
  touch "$target/.ready" # brought along by `make offline`
  exit 0
fi
if ! command -v npm >/dev/null; then
  echo "no npm here: the page for the first flash lacks its flasher; what to do: install npm, make setup"
  exit 0
fi
echo "fetching the parts of the server's pages from npm, once"
mkdir -p "$scratch" "$target"
cp ota_server/package.json ota_server/package-lock.json "$scratch"
npm ci --prefix "$scratch" --ignore-scripts --no-audit --no-fund --silent
modules=$scratch/node_modules
cp "$modules/esptool-js/bundle.js" "$target/esptool.js"
cp "$modules/js-md5/build/md5.min.js" "$target/md5.js"
for licence in "$modules"/{esptool-js,pako,atob-lite,js-md5}/LICENSE*; do
  package=$(basename "$(dirname "$licence")")
  printf '=== %s\n\n' "$package"
  cat "$licence"
  printf '\n'
done > "$target/licenses.txt"
touch "$target/.ready"
