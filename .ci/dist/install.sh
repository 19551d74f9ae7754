#!/bin/sh
# Installs abide from a release: `install.sh URL-or-FOLDER`. It takes the .deb where dpkg is, else the
# static binary to /usr/local/bin, and installs nothing whose SHA-256 sum is not that of SHA256SUMS.
set -eu

say() { printf 'install.sh: %s\n' "$*"; }
die() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }

[ $# = 1 ] || die "usage: install.sh URL-or-FOLDER of the release"
release=${1%/}
[ "$(id -u)" = 0 ] || die "needs root: sudo sh install.sh $release"
[ "$(uname -s)-$(uname -m)" = Linux-x86_64 ] || die "there is a binary for Linux on x86-64 alone; build abide from source"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

take() { # NAME: copies or fetches one file of the release.
  case $release in
    http://* | https://*)
      if command -v curl >/dev/null; then curl --fail --silent --show-error --location --output "$work/$1" "$release/$1"
      else wget --quiet --output-document "$work/$1" "$release/$1"
      fi || die "$release/$1 cannot be fetched" ;;
    *) cp "$release/$1" "$work/$1" || die "$release has no $1: is it the folder of a release?" ;;
  esac
}

verify() { # NAME: compares it with its sum.
  line=$(grep " [ *]$1\$" "$work/SHA256SUMS") || die "SHA256SUMS names no $1"
  (cd "$work" && printf '%s\n' "$line" | sha256sum --check --status) ||
    die "$1 does not have the sum that SHA256SUMS gives: fetch the release again, and do not install it"
}

take SHA256SUMS
if command -v dpkg >/dev/null; then
  package=$(sed -n 's/.* [ *]\(abide_.*_amd64\.deb\)$/\1/p' "$work/SHA256SUMS" | head -n 1)
  [ -n "$package" ] || die "SHA256SUMS names no package"
  take "$package"
  verify "$package"
  dpkg --install "$work/$package" >&2 || die "dpkg did not take $package; 'apt-get install --fix-broken' may tell what is missing"
  say "installed $package: $(abide --version)"
else
  take abide-x86_64-linux
  verify abide-x86_64-linux
  install -m 0755 "$work/abide-x86_64-linux" /usr/local/bin/abide
  say "installed /usr/local/bin/abide: $(abide --version)"
fi
say "next: docs/install.md, or 'abide doctor' to see what this host still needs"
