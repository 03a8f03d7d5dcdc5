#!/usr/bin/env bash
# mount-helper.sh: what mount.statelite makes of mount(8)'s words, and its errors. The last check mounts, where the binary is built.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
helper=$repo/mount-helpers/mount.statelite binary=$STATELITE
export STATELITE=/bin/echo
# says STATUS TEXT ARGUMENTS...
says() {
  local status=$1 text=$2 out got=0; shift 2
  out=$("$helper" "$@" 2>&1) || got=$?
  case $out in *"$text"*) ;; *) got="$got, and said: $out" ;; esac
  if [ "$got" = "$status" ]; then pass "mount.statelite $*"; else fail "mount.statelite $*: status $got"; fi
}
d=/tmp
says 0 "mount cn1 $d" cn1 $d
says 0 "mount -o rw,config=/c.toml,_netdev cn1 $d" cn1 $d -o rw,config=/c.toml -o _netdev
says 0 "mount -o lowerdir=/a b:/b,upperdir=/u,workdir=/w none $d" none $d -o "lowerdir=/a b:/b,upperdir=/u,workdir=/w"
says 0 "/bin/echo mount -o defaults cn1 $d" cn1 $d -f -v -n -o defaults
says 1 "no directory /nonexistent" cn1 /nonexistent
says 1 "no node's name" -x $d
says 1 "an argument too many" cn1 $d more
says 1 "what -z asks for" cn1 $d -z
says 1 "usage:" cn1
STATELITE=/bin/false says 32 "" cn1 $d
STATELITE=/nonexistent says 1 "no program /nonexistent" cn1 $d
if [ -x "$binary" ] && [ "$(id -u)" = 0 ]; then
  STATELITE=$binary; scratch;
  # The program's own parser, that of the command line.
  says 0 "" cn1 $d -f -o rw,config=/dev/null,_netdev,x-systemd.automount
  says 1 "upper" none $d -o lowerdir=/a
  says 1 "work" none $d -o lowerdir=/a,upperdir=/u
  says 1 "option ro is not offered" cn1 $d -o ro
  says 1 "can't be remounted" cn1 $d -o remount,ro
  says 1 "unknown option metacopy" none $d -o lowerdir=/a,metacopy=on
  says 1 "no node, but cn1 was named" cn1 $d -o lowerdir=/a,upperdir=/u,workdir=/w
  says 1 "none is no node" none $d
  says 1 "not both" none $d -o lowerdir=/a,upperdir=/u,workdir=/w,tables=/t
  says 1 "option config needs a value" cn1 $d -o config=
  says 1 "threads" cn1 $d -f -o threads=many
  says 1 "cannot be used multiple times" cn1 $d -f -o tables=/a,tables=/b
  says 32 "/nonexistent" cn1 $d -o config=/nonexistent
  mkdir "$scratch"/{l,u,w,m}; echo below >"$scratch/l/file"; at_exit unmount "$scratch/m"
  says 0 "" none "$scratch/m" -o "lowerdir=$scratch/l,upperdir=$scratch/u,workdir=$scratch/w"
  expect "and it is mounted" grep -q below "$scratch/m/file"
fi
summary "mount.statelite"
