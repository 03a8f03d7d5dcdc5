#!/usr/bin/env bash
# setup.sh: what `make setup` does. Installs only what is missing; asks nothing.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
packages=(acl attr build-essential busybox ca-certificates debootstrap dnsmasq-base dracut-core dracut-network e2fsprogs fio fuse3 initramfs-tools-core iproute2 jq libacl1-dev libcap2-bin libnfs-dev libnfs-utils nfs-common nfs-ganesha nfs-ganesha-vfs nfs-kernel-server pkg-config procps python3 rpcbind shellcheck strace stress-ng systemd xfsprogs)
# What guests boot with: a kernel that is a program, the loader that they fetch, and what dracut's initramfs asks for an address with.
packages+=(iputils-arping isc-dhcp-client kmod pxelinux udev user-mode-linux zstd)
crates=(pjdfstest@0.2.2 fsx@0.3.2 cargo-fuzz@0.13.2)

missing=()
for p in "${packages[@]}"; do [ "$(dpkg-query -W -f '${db:Status-Status}' "$p" 2>/dev/null)" = installed ] || missing+=("$p"); done
if [ ${#missing[@]} -gt 0 ]; then
  root; command -v apt-get >/dev/null || die "this is no Debian: install the likes of ${missing[*]} yourself"
  say "setup: apt-get install ${missing[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get -qq update
  apt-get -qq -y --no-install-recommends install "${missing[@]}" >/dev/null 2> >(grep -v "^debconf: delaying" >&2)
fi
command -v cargo >/dev/null || [ ! -x "$HOME/.cargo/bin/cargo" ] || PATH=$HOME/.cargo/bin:$PATH
command -v cargo >/dev/null || die "no cargo in PATH, and Debian's is too old: install Rust $(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$repo/Cargo.toml") or later with rustup (https://rustup.rs), then again make setup"
for part in fmt clippy; do
  cargo $part --version >/dev/null 2>&1 || { command -v rustup >/dev/null && rustup -q component add "${part/fmt/rustfmt}"; } || say "setup: no cargo $part here, .ci/run wants it"
done
for c in "${crates[@]}"; do
  if [ "$("$tools/${c%@*}" --version 2>/dev/null)" = "${c/@/ }" ]; then continue; fi
  say "setup: cargo install $c"
  cargo install --quiet --locked --root "${tools%/bin}" "$c"
done
[ -e /dev/fuse ] || modprobe fuse 2>/dev/null || say "setup: no /dev/fuse here: views can't be mounted"
say "setup: all there"
