# SPDX-License-Identifier: Apache-2.0
# What the tests that run programs share. Sourced, it makes a folder of its own, which is removed at the end, and goes there.
# shellcheck shell=bash
export OMP_WAIT_POLICY=passive
support=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
checks=0
# mpirun of Open MPI 5 writes zeros beside what its ranks write, before a line or after it.
grep() { command grep -a "$@"; }
without_zeros() { tr -d '\000' <err.txt >err.text && mv err.text err.txt; }

# fail WHAT: ends the test, and shows what the last program has written.
fail() {
  echo "FAILED: $*" >&2
  tail -n 40 out.txt err.txt >&2
  exit 1
}
# check WHAT COMMAND...
check() {
  local what=$1
  shift
  checks=$((checks + 1))
  "$@" >/dev/null 2>&1 || fail "$what"
}
# refused CODE TEXT ARGUMENT...: run CODE ARGUMENT..., with TEXT in the one line on standard error.
refused() {
  local code=$1 text=$2
  shift 2
  run "$code" "$@"
  [ "$(wc -l <err.txt)" -eq 1 ] || fail "not one line on standard error: $*"
  grep -qF -- "$text" err.txt || fail "no \"$text\" on standard error: $*"
}

# example_pairs COUNT: so many pairs, as JSON lines; texts of 1 to 13 words.
example_pairs() {
  local words=(segment recurrence attention query key value memory leak reset model) i w text
  for ((i = 0; i < $1; ++i)); do
    text=
    for ((w = 0; w <= i % 13; ++w)); do text+="${words[(i * 7 + w * w) % 10]} "; done
    echo "{\"text\": \"$text.\", \"summary\": \"${words[i % 10]} ${words[i * 7 % 10]}.\"}"
  done
}
