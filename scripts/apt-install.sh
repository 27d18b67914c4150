#!/usr/bin/env bash
# Install what the tests need from Debian: `apt-install.sh COMMAND=PACKAGE...` installs the package
# of each command that is not here; a pattern may stand for a path. Where that cannot be, it names them in one line and goes on:
# the tests that need them are skipped then, which CI does not allow.
set -euo pipefail

missing=()
for pair in "$@"; do
  command=${pair%%=*}
  command -v "$command" >/dev/null || compgen -G "$command" >/dev/null || missing+=("${pair#*=}")
done
((${#missing[@]})) || exit 0

as_root=()
if ((EUID)); then as_root=(sudo -n); fi

install() {
  command -v apt-get >/dev/null && "${as_root[@]}" true 2>/dev/null || return
  echo "installing ${missing[*]}, once"
  "${as_root[@]}" apt-get -qq update >/dev/null 2>&1 || true # the index at hand may do
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get -qq install --yes --no-install-recommends "${missing[@]}" >/dev/null 2>&1
}

install ||
  echo "not installed: ${missing[*]} (tests that need them are skipped); what to do: sudo apt install ${missing[*]}"
