#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fetches the RFCs out of the packages doc-rfc-* of Debian (component non-free) or Ubuntu (multiverse) and makes pairs of
# document and abstract, and text to pretrain on. Downloads about 480 MB and needs 700 MB while it runs, 450 MB of which
# stay. Nothing is installed, no root rights are needed, and apt's own lists and sources are left alone.
#
#   examples/data/rfc.sh OUTPUT_DIR [PATH_OF_rfc_pairs [ITS_OPTION...]]
#
# Environment: MIRROR and SUITE, where they are not those of this machine.
set -euo pipefail

if [ $# -lt 1 ]; then
  echo "usage: $0 OUTPUT_DIR [PATH_OF_rfc_pairs [ITS_OPTION...]]" >&2
  exit 2
fi
output=$1
program=${2:-build/examples/rfc_pairs}
if [ ! -x "$program" ]; then
  echo "$program is not a program: build the target example_rfc_pairs, or give its path" >&2
  exit 2
fi
for tool in apt-get dpkg-deb tar; do
  command -v "$tool" >/dev/null || { echo "$0 needs $tool, as Debian and Ubuntu have it" >&2; exit 1; }
done

system() { (. /etc/os-release 2>/dev/null && eval "echo \"\${$1:-}\""); }
component=non-free mirror=http://deb.debian.org/debian keyring=debian-archive-keyring.gpg
if [ "$(system ID)" = ubuntu ]; then
  component=multiverse mirror=http://archive.ubuntu.com/ubuntu keyring=ubuntu-archive-keyring.gpg
fi
suite=${SUITE:-$(system VERSION_CODENAME)}
if [ -z "$suite" ]; then
  echo "$0: this is neither Debian nor Ubuntu; give SUITE=bookworm, for instance" >&2
  exit 1
fi
# The mirror that the machine uses for the same release, if it has one.
own=$(apt-get indextargets --format '$(CODENAME) $(REPO_URI)' 'Created-By: Packages' 2>/dev/null |
  awk -v suite="$suite" '$1 == suite { print $2; exit }')
mirror=${MIRROR:-${own:-$mirror}}

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/packages" "$work/documents"
signed=
[ ! -e "/usr/share/keyrings/$keyring" ] || signed="[signed-by=/usr/share/keyrings/$keyring] "
echo "deb $signed$mirror $suite $component" >"$work/sources.list"
apt_options=(-o "Dir::Etc::SourceList=$work/sources.list" -o Dir::Etc::SourceParts=/dev/null
  -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache" -o Acquire::Languages=none)
[ "$(id -u)" -ne 0 ] || apt_options+=(-o APT::Sandbox::User=root)

echo "$0: downloads about 480 MB from $mirror into a temporary folder" >&2
apt-get "${apt_options[@]}" -q update >&2
packages=()
for name in std std-proposed informational experimental fyi-bcp old-std others misc; do
  packages+=("doc-rfc-$name")
done
(cd "$work/packages" && apt-get "${apt_options[@]}" -q download "${packages[@]}" >&2) || {
  echo "$0: $mirror has no packages doc-rfc-* in $suite/$component; give SUITE or MIRROR of a release that has them" >&2
  exit 1
}
for package in "$work"/packages/*.deb; do
  dpkg-deb --fsys-tarfile "$package" | tar -x -C "$work/documents" --wildcards '*/rfc*.json' '*/rfc*.txt.gz'
  rm "$package"
done

"$program" --input "$work/documents" --output "$output" "${@:3}"
