#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Fetches the English package descriptions of this machine's Debian or Ubuntu release (16 MB for
# Debian 12) into a folder of its own, and makes pairs of them. Needs no root rights and leaves apt's
# own lists alone.
#
#   examples/data/debian.sh OUTPUT_DIR [PATH_OF_debian_descriptions [ITS_OPTION...]]
set -euo pipefail

if [ $# -lt 1 ]; then
  echo "usage: $0 OUTPUT_DIR [PATH_OF_debian_descriptions [ITS_OPTION...]]" >&2
  exit 2
fi
output=$1
program=${2:-build/examples/debian_descriptions}
if [ ! -x "$program" ]; then
  echo "$program is not a program: build the target example_debian_descriptions, or give its path" >&2
  exit 2
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
mkdir -p "$work/lists/partial" "$work/cache/archives/partial"
apt_options=(-o Acquire::Languages=en -o "Dir::State::lists=$work/lists" -o "Dir::Cache=$work/cache")

apt-get "${apt_options[@]}" -q update >&2

# list KIND FILE: the text of all lists that apt made for KIND, whatever their compression
list() {
  local path
  apt-get "${apt_options[@]}" indextargets --format '$(FILENAME)' "Created-By: $1" |
    while read -r path; do
      [ ! -e "$path" ] || { /usr/lib/apt/apt-helper cat-file "$path" && echo; }
    done >"$2"
  [ -s "$2" ] || { echo "apt has no $1 lists: see that its sources name a Debian or Ubuntu mirror" >&2; exit 1; }
}
list Packages "$work/packages"
list Translations "$work/translations"

"$program" --packages "$work/packages" --translations "$work/translations" --output "$output" "${@:3}"
