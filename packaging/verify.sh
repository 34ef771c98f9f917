#!/usr/bin/env bash
# Checks built packages against Debian's policy, and the units against systemd. Exit code 1 when anything is wrong.
#
#   packaging/verify.sh [--units-only] [FOLDER]     FOLDER holds the .deb files (default: dist)
#
# Needs: apt-get install lintian systemd
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
project="$(dirname "$here")"
units_only=no
if [ "${1:-}" = --units-only ]; then units_only=yes; shift; fi
folder="${1:-$project/dist}"
status=0

# In a root folder of their own, where the programs that they start exist.
root="$(mktemp -d)"
trap 'rm -rf "$root"' EXIT
mkdir -p "$root/usr/lib/systemd/system" "$root/usr/bin" "$root/usr/sbin" "$root/usr/lib/fleven/node/bin" "$root/usr/lib/fleven/server/bin" "$root/bin"
ln -s usr/lib "$root/lib"
cp "$project"/systemd/*.service "$project"/systemd/*.socket "$project"/systemd/*.target "$root/usr/lib/systemd/system/"
# Only for systemd 254 and later, which knows what stands in it.
if [ "$(systemctl --version | sed -n '1s/^systemd \([0-9]*\).*/\1/p')" -ge 254 ]; then
  for unit in fleven-agent fleven-superlink fleven-server; do
    mkdir "$root/usr/lib/systemd/system/$unit.service.d"
    cp "$project/systemd/restart-delay.conf" "$root/usr/lib/systemd/system/$unit.service.d/"
  done
fi
for unit in sysinit.target basic.target shutdown.target multi-user.target network-online.target time-sync.target \
  local-fs.target sockets.target -.slice system.slice -.mount systemd-journald.socket tmp.mount; do
  [ ! -e "/usr/lib/systemd/system/$unit" ] || cp "/usr/lib/systemd/system/$unit" "$root/usr/lib/systemd/system/"
done
for program in usr/bin/fleven-agent usr/bin/fleven-server usr/lib/fleven/node/configured bin/kill \
  usr/sbin/nft usr/lib/fleven/node/bin/python3 usr/lib/fleven/server/bin/python3; do
  printf '#!/bin/sh\n' >"$root/$program"
  chmod 755 "$root/$program"
done
for unit in "$project"/systemd/*.service "$project"/systemd/*.socket "$project"/systemd/*.target; do
  # Man pages are in the packages, not in this root.
  # It also speaks of units of this machine; of those only its exit code, 0 for a warning, would tell.
  if ! said="$(systemd-analyze verify --man=no --root="$root" "/usr/lib/systemd/system/$(basename "$unit")" 2>&1)"; then
    printf '%s: systemd-analyze verify failed\n%s\n' "$(basename "$unit")" "$said"
    status=1
  elif grep -F -e "$(basename "$unit")" -e restart-delay.conf <<<"$said"; then
    status=1
  fi
done
printf 'units: %s checked\n' "$(find "$project/systemd" -name '*.service' -o -name '*.socket' -o -name '*.target' | wc -l)"
[ "$units_only" = no ] || exit "$status"

shopt -s nullglob
packages=("$folder"/fleven-*.deb)
[ ${#packages[@]} -gt 0 ] || { echo "verify: no packages in $folder (build them: packaging/build-deb.sh)" >&2; exit 1; }
check() {
  local ignored=()
  # --fast builds are for trying out: zstd is dpkg's, but not the archive's.
  if ar t "$1" | grep -q '^data.tar.zst'; then ignored=(--suppress-tags malformed-deb-archive); fi
  lintian --fail-on error,warning --tag-display-limit 0 --allow-root "${ignored[@]}" "$1" || return 1
  printf 'lintian: %s is clean\n' "$(basename "$1")"
}
# Side by side: lintian keeps one core busy for a minute with each.
checks=()
for package in "${packages[@]}"; do
  check "$package" &
  checks+=($!)
done
for running in "${checks[@]}"; do wait "$running" || status=1; done
exit "$status"
