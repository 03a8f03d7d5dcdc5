# shellcheck shell=bash disable=SC2034,SC2154
# Shared by what runs in a machine of the tests of guests (machine.sh): its network, its guests, their firmware.
# The sourcing script sets $dir, a directory on a disk, before it calls anything here.
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"
boot=$repo/integration/boot
server=10.77.0.1
fixtures=$repo/integration/fixtures/boot
# What the image of a node that boots has, beside debootstrap's least.
image_packages=apt,dbus,iproute2,kmod,passwd,procps,systemd-sysv,udev
declare -A guests=()

# network NODE...: a bridge of the server's, and a plug for each node.
network() {
  local node
  ip link add br0 type bridge; ip addr add $server/24 dev br0; ip link set br0 up
  for node; do ip tuntap add "tap-$node" mode tap; ip link set "tap-$node" master br0 up; done
}
mac() { echo "02:00:00:77:00:1${1#cn}"; }

# guest NAME SECONDS KERNEL WORD...: a User-mode Linux for at most that long. Its console is $dir/NAME.console; lines that begin
# with NODE come to standard output.
guest() {
  local name=$1 limit=$2; shift 2
  : >"$dir/$name.console"
  timeout --kill-after=5 "$limit" "$1" uml_dir="$dir" umid="$name" con=null con0=null,fd:1 "${@:2}" </dev/null 2>&1 |
    tee "$dir/$name.console" | sed -un "s/\r//g; s/^.*NODE /  $name: /p" &
  guests[$name]=$!
}
plug() { echo "vec0:transport=tap,ifname=tap-$1,depth=128,gro=1,mac=$(mac "$1")"; }
# The lines of a guest that speak for the test. No pipe to grep -q: it would end the other side too early.
lines() { sed -n 's/\r//g; s/^.*NODE //p' "$dir/$1.console"; }
# said NAME REGEX: a line begins so. has NAME TEXT...: each is a line of its own.
said() { grep -aEq "^$2" < <(lines "$1"); }
has() { local name=$1 text; shift; for text; do grep -aqxF -- "$text" < <(lines "$name") || { say "$name did not say: $text"; return 1; }; done; }
ended() { wait "${guests[$1]}" || true; }
console() { say "--- the end of the console of $1"; tail -n "${2:-40}" "$dir/$1.console" | sed 's/\r//g; s/^/    /'; }

# room: a scratch directory for a machine. One that is killed may write for a moment yet; what guests and servers said stays.
room() {
  scratch
  at_exit within 60 rm -rf --one-file-system "$scratch"
  at_exit keep "$scratch"
}
keep() { mkdir -p "$cache/boot/said"; cp "$1"/*.console "$1"/*.log "$cache/boot/said/"; }

# firmware NODE: what a network card's firmware and PXELINUX do. Leaves what was fetched in $dir/NODE.pxe: kernel, initrd, append.
firmware() {
  local node=$1 at=$dir/$1.pxe
  rm -rf "$at"; mkdir "$at"
  ip netns add "$node"
  ip link add "fw-$node" type veth peer name eth0 address "$(mac "$node")" netns "$node"
  ip link set "fw-$node" master br0 up; ip -n "$node" link set eth0 up
  (cd "$at" && ip netns exec "$node" "$boot/firmware.sh") >"$at/log" 2>&1 || { cat "$at/log"; return 1; }
  ip link del "fw-$node"; ip netns del "$node"
}

# in_machine SCRIPT ARGUMENT...: runs it again in a machine of its own, with a directory before its arguments; it ends with that.
in_machine() {
  [ -x "$STATELITE" ] || die "no $STATELITE: make build"
  room; export STATELITE
  # shellcheck disable=SC2016 # for the shell inside
  "$boot/machine.sh" "$scratch" "$cache" -- bash -euc '
    install -m 755 "$STATELITE" /usr/local/sbin/statelite
    # Where modprobe looks in a guest, and where that mounts.
    mkdir -p /usr/lib/uml/root/lib /etc/statelite /etc/exports.d; ln -s /usr/lib/uml/modules /usr/lib/uml/root/lib/modules
    exec "$@"' in_machine "$(realpath "$1")" "$scratch" "${@:2}"
}

# litetrees DIR: those of the nodes, below DIR. An image brings the modules of its kernel along; this one has none, so a litetree does.
litetrees() {
  local modules lib=$1/litetree/site/usr/lib/modules
  modules=$(echo /usr/lib/uml/modules/*)
  cp -a "$fixtures/litetree" "$1/"
  mkdir -p "$lib/${modules##*/}"; (cd "$modules" && cp -a --parents modules.* kernel/fs/autofs "$lib/${modules##*/}")
}
# uml_modules DIR: User-mode Linux' modules and configuration where a kernel's package puts what mkinitramfs and dracut look for; a
# configuration for mkinitramfs is in /tmp/conf.
uml_modules() {
  mkdir -p /lib/modules; cp -a "$1" /lib/modules/
  zcat /usr/share/doc/user-mode-linux/config.gz >"/boot/config-${1##*/}"
  mkdir /tmp/conf; cp -a /etc/initramfs-tools/. /tmp/conf/; sed -i "s/^MODULES=.*/MODULES=netboot/" /tmp/conf/initramfs.conf
}

# checks NAME: what client.py has said in a guest, for each of $versions.
checks() {
  local version verdict check
  expect "the guest came to its end" said "$1" 'done$'
  while read -r version verdict check; do
    case $verdict in ok) pass "$version: $check" ;; FAIL) fail "$version: $check" ;; esac
  done < <(lines "$1" | grep -E '^v[0-9.]+ (ok|FAIL) ')
  for version in ${versions//,/ }; do expect "v$version: the client came to its end" said "$1" "v$version ended"; done
  [ "$failed" = 0 ] || console "$1" 60
}

# What runs beside a test, with what it says in $dir; $last is its process.
program() { "$@" >>"$dir/${1%%.*}.out.log" 2>&1 & last=$!; at_exit kill $last; }
listens() { [ -n "$(ss -Hltn "sport = :$1")" ]; }
# As BOOTING.md has it, without its grace period.
ganesha_conf() {
  cat >/etc/ganesha/ganesha.conf <<'CONF'
NFS_CORE_PARAM { mount_path_pseudo = true; fsid_device = false; }
NFSv4 { Minor_Versions = 0, 1; Graceless = true; }
%include "/etc/ganesha/statelite.conf"
CONF
}
# It wants rpcbind, and the file that the daemon writes.
ganesha_runs() {
  mkdir -p /run/rpcbind /run/ganesha
  program rpcbind -f
  within 60 test -S /run/rpcbind.sock
  program ganesha.nfsd -F -L "$dir/ganesha.log" -f /etc/ganesha/ganesha.conf
  within 120 listens 2049
}
