#!/usr/bin/env bash
# Builds the Debian packages, on any Debian machine, for either architecture, without emulation.
#
#   packaging/build-deb.sh [--suite bookworm|trixie] [--arch amd64|arm64] [options] [node|server|all]
#
#   --suite SUITE    Debian release to build for (default: this machine's)
#   --arch ARCH      architecture to build for (default: this machine's)
#   --output FOLDER  where the packages go (default: dist)
#   --fast           compress quickly: for trying out, about 15 % larger
#   --keep           keep the build folder and print its name
#
# Needs: apt-get install debhelper dpkg-dev binutils python3-venv python3-docutils
# and for the other architecture its binutils: binutils-aarch64-linux-gnu or binutils-x86-64-linux-gnu.
# Wheels are fetched by uv as pip and uv are set up on this machine, checked against packaging/requirements, and kept in
# uv's cache; the tools are kept in $XDG_CACHE_HOME/fleven.
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
project="$(dirname "$here")"
fail() { printf 'build-deb: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"; }

# shellcheck source=/dev/null
suite="$(. /etc/os-release && echo "${VERSION_CODENAME:-}")"
arch="$(dpkg --print-architecture)"
output="$project/dist"
compression="-Zxz -z6"
keep=no
roles=(node server)
while [ $# -gt 0 ]; do
  case "$1" in
    --suite) suite="${2:?--suite needs a value}"; shift 2 ;;
    --arch) arch="${2:?--arch needs a value}"; shift 2 ;;
    --output) mkdir -p "${2:?--output needs a value}"; output="$(cd "$2" && pwd)"; shift 2 ;;
    --fast) compression="-Zzstd -z3"; shift ;;
    --keep) keep=yes; shift ;;
    node | server) roles=("$1"); shift ;;
    all) shift ;;
    -h | --help) usage; exit 0 ;;
    *) printf 'build-deb: unknown argument "%s"\n\n' "$1" >&2; usage >&2; exit 2 ;;
  esac
done

case "$suite" in
  bookworm) python=3.11 python_next=3.12 suffix=+deb12 systemd=252 ;;
  trixie) python=3.13 python_next=3.14 suffix=+deb13 systemd=257 ;;
  *) printf 'build-deb: unknown suite "%s" (bookworm, trixie)\n' "$suite" >&2; exit 2 ;;
esac
case "$arch" in
  amd64) strip=x86_64-linux-gnu-strip strip_package=binutils-x86-64-linux-gnu ;;
  arm64) strip=aarch64-linux-gnu-strip strip_package=binutils-aarch64-linux-gnu ;;
  *) printf 'build-deb: unknown architecture "%s" (amd64, arm64)\n' "$arch" >&2; exit 2 ;;
esac

# Debian's own interpreter, never one that a version manager put before it on PATH.
system_python=/usr/bin/python3
missing=()
for need in dh:debhelper dpkg-buildpackage:dpkg-dev readelf:binutils rst2man:python3-docutils "$strip:$strip_package"; do
  command -v "${need%%:*}" >/dev/null || missing+=("${need#*:}")
done
"$system_python" -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
[ ${#missing[@]} = 0 ] || fail "missing on this machine: apt-get install ${missing[*]}"

# The three places that hold the version must agree; the suite is appended, so that a release upgrade upgrades too.
version="$("$system_python" "$here/versions.py")" || exit 1

cache="${XDG_CACHE_HOME:-$HOME/.cache}/fleven"
tools="$cache/tools-$(sha256sum "$here/requirements/build.txt" | cut -c1-12)"
mkdir -p "$cache"
(
  flock 9
  if [ ! -x "$tools/bin/uv" ]; then
    rm -rf "$tools"
    "$system_python" -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check --require-hashes --requirement "$here/requirements/build.txt"
  fi
) 9>"$cache/tools.lock"
export PATH="$tools/bin:/usr/sbin:/usr/bin:/sbin:/bin"

build="$(mktemp -d "${TMPDIR:-/tmp}/fleven-build.XXXXXX")"
if [ "$keep" = yes ]; then printf 'build-deb: %s\n' "$build"; else trap 'rm -rf "$build"' EXIT; fi
# Temporary names would differ from build to build; files made here are as old as the changelog says.
SOURCE_DATE_EPOCH="$(dpkg-parsechangelog -l "$here/debian/changelog" -S Timestamp)"
export SOURCE_DATE_EPOCH LC_ALL=C.UTF-8 TZ=UTC
umask 022

# The project's own files, without what a working tree collects.
mkdir "$build/project"
for path in pyproject.toml README.md LICENSE fleven fleven_agent; do
  tar -C "$project" --exclude=__pycache__ --exclude='*.egg-info' -cf - "$path" | tar -C "$build/project" -xf -
done
uv build --quiet --wheel --no-build-isolation --python "$tools/bin/python3" --out-dir "$build/wheel" "$build/project"

tree="$build/fleven-$version"
mkdir -p "$tree/environment" "$tree/app/fleven" "$tree/etc" "$tree/completions" "$tree/man"
cp -r "$here/debian" "$project/systemd" "$tree/"
cp -r "$project/etc/fleven" "$tree/etc/"
# What lands in /etc: see packaging/conffiles/README.md.
cp -r "$here/conffiles" "$tree/"
cp "$here"/man/*.[18].rst "$tree/man/"
for role in node server; do
  "$tools/bin/python3" "$here/man_keys.py" "$project/etc/fleven/$role.toml" "$here/man/$role.toml.5.head.rst" \
    "$here/man/$role.toml.5.tail.rst" >"$tree/man/$role.toml.5.rst"
done
cp "$here"/completions/* "$tree/completions/"
# Of the agent's own command line, so that it cannot miss an option.
for shell in bash:fleven-agent zsh:_fleven-agent; do
  PYTHONPATH="$build/project" "$tools/bin/python3" -m fleven_agent completion "${shell%:*}" >"$tree/completions/${shell#*:}"
done
cp "$project/pyproject.toml" "$tree/app/"
cp "$project/fleven/__init__.py" "$tree/app/fleven/"
tar -C "$project/fleven" --exclude=__pycache__ -cf - app | tar -C "$tree/app/fleven" -xf -
sed -i "1s/^fleven ([^)]*) [^;]*;/fleven ($version$suffix) $suite;/" "$tree/debian/changelog"
if [ "$systemd" -ge 254 ]; then
  for service in fleven-agent:node fleven-superlink:server fleven-server:server; do
    printf 'systemd/restart-delay.conf usr/lib/systemd/system/%s.service.d\n' "${service%:*}" \
      >>"$tree/debian/fleven-${service#*:}.install"
  done
fi
profiles=(nocheck)
for role in node server; do
  case " ${roles[*]} " in
    *" $role "*)
      "$tools/bin/python3" "$here/environment.py" "$role" --suite "$suite" --arch "$arch" --wheel "$build"/wheel/*.whl \
        --destination "$tree/environment/$role" --copyright "$tree/debian/fleven-$role.copyright" || exit 1 ;;
    *) profiles+=("pkg.fleven.no$role") ;;
  esac
done

export FLEVEN_PYTHON="$python" FLEVEN_PYTHON_NEXT="$python_next" FLEVEN_COMPRESSION="$compression"
export DEB_BUILD_PROFILES="${profiles[*]}" DEB_BUILD_OPTIONS="nocheck noautodbgsym"
# No compiler runs, so the cross compiler that -a wants to see is not needed (-d); nothing is signed.
if ! (cd "$tree" && dpkg-buildpackage --build=binary --host-arch "$arch" -d -us -uc --no-pre-clean) >"$build/log" 2>&1; then
  tail -n 30 "$build/log" >&2
  fail "dpkg-buildpackage failed"
fi
mkdir -p "$output"
mv "$build"/*.deb "$output/"
for role in "${roles[@]}"; do
  deb="$output/fleven-${role}_$version${suffix}_$arch.deb"
  printf '%s  %s MB, %s MB installed\n' "$deb" "$(($(stat -c %s "$deb") / 1000000))" \
    "$(($(dpkg-deb -f "$deb" Installed-Size) * 1024 / 1000000))"
done
