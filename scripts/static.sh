#!/usr/bin/env bash
# Copy what the server's pages need from npm into ota_server/static/, pinned by package-lock.json,
# each with its licence. No script of a package is run.
set -euo pipefail
cd "$(dirname "$0")/.."

target=ota_server/static
scratch=.cache/npm
if [ -d offline ] && [ -e "$target/xterm.js" ]; then
  cp ota_server/package-lock.json "$target/.ready" # brought along by `make offline`
  exit 0
fi
if ! command -v npm >/dev/null; then
  echo "no npm here: the server's pages lack their style, flasher and terminal; what to do: install npm, make setup"
  exit 0
fi
echo "fetching the parts of the server's pages from npm, once"
mkdir -p "$scratch" "$target"
cp ota_server/package.json ota_server/package-lock.json "$scratch"
npm ci --prefix "$scratch" --ignore-scripts --no-audit --no-fund --silent
modules=$scratch/node_modules
cp "$modules/esptool-js/bundle.js" "$target/esptool.js"
cp "$modules/js-md5/build/md5.min.js" "$target/md5.js"
cp "$modules/@xterm/xterm/lib/xterm.mjs" "$target/xterm.js"
cp "$modules/@xterm/xterm/css/xterm.css" "$target/xterm.css"
cp "$modules/@xterm/addon-fit/lib/addon-fit.mjs" "$target/fit.js"
cp "$modules/@picocss/pico/css/pico.min.css" "$target/pico.css"
cp "$modules/htmx.org/dist/htmx.min.js" "$target/htmx.js"
cp "$modules/axe-core/axe.min.js" "$scratch/axe.js" # for tests: it is not served
for licence in "$modules"/{esptool-js,pako,atob-lite,js-md5,@xterm/{xterm,addon-fit},@picocss/pico,htmx.org}/LICENSE*; do
  package=$(dirname "${licence#"$modules"/}")
  printf '=== %s\n\n' "$package"
  cat "$licence"
  printf '\n'
done > "$target/licenses.txt"
cp ota_server/package-lock.json "$target/.ready"
