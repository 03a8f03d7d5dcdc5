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
says 0 "--config /c.toml mount cn1 $d" cn1 $d -o rw,config=/c.toml,_netdev
says 0 "--tables /t mount cn1 $d" cn1 $d -o tables=/t,x-systemd.automount
says 0 "mount --lower /a:/b --upper /u --work /w $d" none $d -o rw,lowerdir=/a:/b,upperdir=/u,workdir=/w
says 0 "/bin/echo mount cn1 $d" cn1 $d -f -v -n -o defaults
says 1 "option upperdir is missing" none $d -o lowerdir=/a
says 1 "option workdir is missing" none $d -o lowerdir=/a,upperdir=/u
says 1 "option ro is not offered" cn1 $d -o ro
says 1 "can't be remounted" cn1 $d -o remount,ro
says 1 "unknown option metacopy" none $d -o lowerdir=/a,metacopy=on
says 1 "the tables say what cn1" cn1 $d -o lowerdir=/a
says 1 "not both" none $d -o lowerdir=/a,upperdir=/u,workdir=/w,config=/c
says 1 "option config needs a value" cn1 $d -o config=
says 1 "no directory /nonexistent" cn1 /nonexistent
says 1 "no node's name" -x $d
says 1 "an argument too many" cn1 $d more
says 1 "what -z asks for" cn1 $d -z
says 1 "usage:" cn1
STATELITE=/bin/false says 32 "" cn1 $d
STATELITE=/nonexistent says 1 "no program /nonexistent" cn1 $d
if [ -x "$binary" ] && [ "$(id -u)" = 0 ]; then
  STATELITE=$binary; scratch; mkdir "$scratch"/{l,u,w,m}; echo below >"$scratch/l/file"; at_exit unmount "$scratch/m"
  says 0 "" none "$scratch/m" -o "lowerdir=$scratch/l,upperdir=$scratch/u,workdir=$scratch/w"
  expect "and it is mounted" grep -q below "$scratch/m/file"
fi
summary "mount.statelite"
