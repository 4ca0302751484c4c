#!/usr/bin/env bash
# Installs what the tests need and this machine lacks, on Debian 12 and 13 and Ubuntu 22.04 and 24.04.
# Uses no network when nothing is missing. `--all` adds what only `tests/run.sh --all` uses; `--quickstart`
# installs what examples/quickstart.sh uses, and nothing else.
set -euo pipefail

needed=(g++ cmake ninja-build libeigen3-dev catch2)
# Each of these switches on a part of the build; one that the distribution does not carry is left out.
wanted=(ccache nlohmann-json3-dev libsentencepiece-dev libdnnl-dev libtbb-dev libthrust-dev libicu-dev zlib1g-dev
        libcli11-dev libfmt-dev libxtensor-dev libboost-dev pkg-config clang libclang-rt-dev libomp-dev libopenmpi-dev openmpi-bin
        python3)
case ${1:-} in
  --all) wanted+=(clang-format-14 libbenchmark-dev) ;;
  --quickstart)
    needed=(g++ cmake ninja-build libeigen3-dev nlohmann-json3-dev libsentencepiece-dev libicu-dev libcli11-dev)
    wanted=(ccache libdnnl-dev zlib1g-dev gnuplot-nox)
    ;;
esac

installed() { [ "$(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }
# A tool that did not come as a package serves as well.
tool() {
  case $1 in
    g++ | cmake | ccache | clang | pkg-config | python3) command -v "$1" >/dev/null ;;
    ninja-build) command -v ninja >/dev/null ;;
    gnuplot-nox) command -v gnuplot >/dev/null ;;
    clang-format-14) command -v clang-format-14 >/dev/null ;;
    *) return 1 ;;
  esac
}

if ! command -v dpkg-query >/dev/null; then
  echo "install_deps.sh: not a Debian or Ubuntu system; needed: ${needed[*]}; wanted: ${wanted[*]}" >&2
  exit 0
fi

missing=()
for package in "${needed[@]}" "${wanted[@]}"; do
  tool "$package" || installed "$package" || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "install_deps.sh: not root and no sudo; install by hand: ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi

is_needed() { case " ${needed[*]} " in *" $1 "*) return 0 ;; *) return 1 ;; esac; }
offered() { [ -n "$(apt-cache show "$1" 2>/dev/null)" ]; }

echo "Installing: ${missing[*]}"
"${as_root[@]}" apt-get update -qq || echo "install_deps.sh: apt-get update failed; using the lists at hand" >&2
now=()
for package in "${missing[@]}"; do
  if offered "$package"; then
    now+=("$package")
  elif is_needed "$package"; then
    echo "install_deps.sh: this distribution offers no package $package" >&2
    exit 1
  else
    echo "Left out, not offered by this distribution: $package"
  fi
done
[ ${#now[@]} -eq 0 ] || "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
  apt-get install -qq -y --no-install-recommends "${now[@]}" >/dev/null
