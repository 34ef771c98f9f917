#!/usr/bin/env bash
# Builds twice, at different times and in different folders, and compares the packages bit by bit.
#
#   packaging/reproduce.sh [arguments of build-deb.sh]        for example: packaging/reproduce.sh --fast --arch arm64 node
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir "$work/first" "$work/second" "$work/temporary"
"$here/build-deb.sh" "$@" --output "$work/first"
TMPDIR="$work/temporary" "$here/build-deb.sh" "$@" --output "$work/second"
status=0
for first in "$work"/first/*.deb; do
  name="$(basename "$first")"
  if cmp -s "$first" "$work/second/$name"; then
    printf 'same: %s  %s\n' "$(sha256sum "$first" | cut -c1-64)" "$name"
  else
    printf 'different: %s\n' "$name"
    status=1
    for part in control data; do
      diff <(dpkg-deb --"$([ "$part" = control ] && echo ctrl || echo fsys)"-tarfile "$first" | tar -tvf - --full-time) \
        <(dpkg-deb --"$([ "$part" = control ] && echo ctrl || echo fsys)"-tarfile "$work/second/$name" | tar -tvf - --full-time) |
        head -n 20 || true
    done
  fi
done
exit "$status"
