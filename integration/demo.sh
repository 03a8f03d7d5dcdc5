#!/usr/bin/env bash
# demo.sh: three nodes from one Debian image and a handful of tables. Every line after a prompt is run, what follows is its
# real output, and every "ok" was checked: a claim that does not hold ends the demo with an error. Root.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
root; need debootstrap
[ -x "$STATELITE" ] || die "no $STATELITE: make build"
"$repo/integration/image.sh"
began=$SECONDS
scratch; demo=$scratch
at_exit pkill -f -- "--config $demo/statelite.toml" # a daemon that outlived its views
at_exit unmount_below "$demo"
export LC_ALL=C DEBIAN_FRONTEND=noninteractive

bold='' dim='' plain=''; if [ -t 1 ]; then bold=$'\e[1m' dim=$'\e[2m' plain=$'\e[0m'; fi
title() { printf '\n%s== %s%s\n' "$bold" "$*" "$plain"; }
# run 'COMMAND': shows it, runs it in the directory of the views, shows its output; leaves $out and $status.
run() {
  printf '%s$ %s%s\n' "$bold" "$1" "$plain"; status=0
  (cd "$demo/nodes"; eval "$1") >"$demo/out" 2>&1 </dev/null || status=$?
  out=$(<"$demo/out"); [ -z "$out" ] || sed "s|$demo|DEMO|g; s/^.*demo.sh: line [0-9]*: //; s/^/    /" "$demo/out" | cut -c1-150 | { head -"${lines:-14}"; cat >/dev/null; }
}
in_node() { local n=$1; shift; run "chroot $n $*"; } # the view as a program sees it
claim() { local what=$1; shift; if "$@" >"$demo/why" 2>&1; then passed=$((passed + 1)); printf '  %sok: %s%s\n' "$dim" "$what" "$plain"; else say "FAIL: $what"; cat "$demo/why"; die "the demo stops: not as claimed"; fi; }
works() { [ "$status" = 0 ]; }
has() { [[ $out == *"$1"* ]] || { say "expected: $1"; return 1; }; }
is() { [ "$out" = "$1" ] || { say "expected: $1"; return 1; }; }
refused() { [ "$status" != 0 ] && has "$1"; }
statelite() { "$STATELITE" --config "$demo/statelite.toml" "$@"; }

mkdir -p "$demo"/{tables,image/rootimg,persistent,tmpfs,nodes/{cn1,cn2,login1}} "$demo"/litetree/{site,rack/r1,rack/r2,node/cn1,node/cn2,node/login1}/etc
mount --bind "$cache/image" "$demo/image/rootimg"; mount -o remount,bind,ro "$demo/image/rootimg"
for t in "$repo"/integration/fixtures/demo/*.csv; do case $t in */litefile-*) ;; *) sed "s|@DEMO@|$demo|g" "$t" >"$demo/tables/${t##*/}" ;; esac; done
cat "$repo"/integration/fixtures/demo/litefile-{rh,demo}.csv >"$demo/tables/litefile.csv"
cat >"$demo/statelite.toml" <<TOML
tables = "$demo/tables"
tmpfs_dir = "$demo/tmpfs"
cache_lifetime = "1s"
TOML
cp -L /etc/resolv.conf "$demo/litetree/site/etc/resolv.conf"
cat /etc/hosts >"$demo/litetree/site/etc/hosts"
for r in 1 2; do echo "10.0.$r.254 switch-r$r" >"$demo/litetree/rack/r$r/etc/hosts"; done
for n in cn1 cn2 login1; do echo "Welcome to $n." >"$demo/litetree/node/$n/etc/motd"; echo "127.0.1.1 $n" >"$demo/litetree/node/$n/etc/hosts"; done

title "The tables: the Red Hat list that sites use, and a few rows of our own"
run 'tail -7 ../tables/litefile.csv; tail -3 ../tables/litetree.csv; tail -1 ../tables/statelite.csv'
run 'statelite check'; claim "check finds nothing wrong" works

title "Two nodes, one image: nothing was copied, nothing was prepared in it"
run 'statelite mount cn1 cn1'; claim "cn1 is mounted" mountpoint -q "$demo/nodes/cn1"
run 'statelite mount cn2 cn2'; claim "cn2 is mounted" mountpoint -q "$demo/nodes/cn2"
run 'cat cn1/etc/motd cn2/etc/motd'; claim "each has its own motd, from the litetree" is $'Welcome to cn1.\nWelcome to cn2.'
run 'head -3 cn1/etc/hosts'; claim "/etc/hosts (con) is node, rack and site put together" [ "$(cat "$demo"/litetree/{node/cn1,rack/r1,site}/etc/hosts)" = "$(cat "$demo/nodes/cn1/etc/hosts")" ]
run 'ls cn1/opt; stat -c "%A %U:%G %n" cn1/opt/xcat cn1/etc/yp.conf'; claim "what has a rule and exists nowhere is there, empty" works

title "A write stays in its node"
run 'echo "server time.example" > cn1/etc/ntp.conf; cat cn1/etc/ntp.conf'; claim "cn1 has it" is "server time.example"
run 'cat cn2/etc/ntp.conf'; claim "cn2 has not" is ""
claim "nor has the image" [ ! -s "$demo/image/rootimg/etc/ntp.conf" ]

title "Outside every rule the image is read-only"
run 'touch cn1/usr/bin/ls'; claim "EROFS" refused "Read-only file system"
run 'rm cn1/bin/true'; claim "EROFS" refused "Read-only file system"
run 'echo mine > cn1/etc/motd'; claim "and where the rule says ro" refused "Read-only file system"

title "Why is that file as it is?"
run 'statelite explain cn1 /etc/motd'; claim "it names the litetree" has "litetree/node/cn1"
run 'statelite explain cn1 /var/log/messages'; claim "it names the rule" has "/var/"
run 'statelite explain cn1 /usr/bin/ls'; claim "no rule: the image" has "image"

title "A litetree is live: edit it, and the running node has it"
run 'echo "Maintenance at noon." >> ../litetree/node/cn1/etc/motd'
claim "cn1 shows it within its cache's second" within 10 grep -q noon "$demo/nodes/cn1/etc/motd"
run 'cat cn1/etc/motd'

title "A reboot forgets tmpfs and keeps what is persistent"
run 'mkdir cn1/home/ada && echo thesis > cn1/home/ada/work && echo scratch > cn1/var/tmp/scratch && ls cn1/home cn1/var/tmp'
claim "both are there" works
run 'umount cn1 && statelite reset cn1 && statelite mount cn1 cn1'; claim "reset and mounted again" works
run 'cat cn1/home/ada/work'; claim "the persistent file is there" is thesis
run 'cat cn1/var/tmp/scratch'; claim "the other is gone" refused "No such file"
run 'cat cn1/etc/ntp.conf'; claim "and ntp.conf is the original again" is ""
claim "the store holds the persistent file under the node's name" grep -q thesis "$demo/persistent/cn1/home/ada/work"

title "Real programs, in cn1 under the rules of the list"
# What an init would mount: /proc, a /dev and a /run of the node's own.
boot() {
  local v=$demo/nodes/$1
  mount -t proc proc "$v/proc"; mount -t tmpfs -o mode=755 none "$v/run"; mount -t tmpfs -o mode=755 none "$v/dev"
  mknod -m 666 "$v/dev/null" c 1 3; mknod -m 666 "$v/dev/zero" c 1 5; mknod -m 666 "$v/dev/random" c 1 8; mknod -m 666 "$v/dev/urandom" c 1 9; ln -s /proc/self/fd "$v/dev/fd"
}
boot cn1
in_node cn1 "ssh-keygen -A"; claim "ssh-keygen made this node's keys" works
run 'ls -l cn1/etc/ssh | grep key; ls cn2/etc/ssh'; claim "with their modes" [ "$(stat -c %a "$demo/nodes/cn1/etc/ssh/ssh_host_ed25519_key")" = 600 ]
claim "cn2 has none of them" [ ! -e "$demo/nodes/cn2/etc/ssh/ssh_host_ed25519_key" ]
run 'getcap cn1/usr/bin/ping'; claim "capabilities are seen through the view" has cap_net_raw
# rsyslog for its own /dev/log alone: the kernel's log is the machine's, not the node's.
cat >"$demo/nodes/cn1/etc/rsyslog.conf" <<'CONF'
module(load="imuxsock")
*.* /var/log/messages
CONF
chroot "$demo/nodes/cn1" rsyslogd -n -i NONE >"$demo/rsyslog.out" 2>&1 </dev/null & rsyslog=$!
at_exit kill "$rsyslog"
claim "rsyslogd has its socket" within 10 test -S "$demo/nodes/cn1/dev/log"
in_node cn1 "logger -t demo 'hello from cn1'"; claim "logger reached it" works
claim "and the line is in /var/log/messages" within 10 grep -q 'hello from cn1' "$demo/nodes/cn1/var/log/messages"
run 'tail -1 cn1/var/log/messages'
kill "$rsyslog"; wait "$rsyslog" 2>/dev/null || true

title "login1: the rule for / makes the whole root an overlay, and the other rules hold inside it"
run 'statelite mount login1 login1'; claim "login1 is mounted" works
boot login1
in_node login1 "useradd --create-home --shell /bin/sh ada"; claim "useradd" works
in_node login1 "su ada -c 'id; touch ~/x; ls -l ~'"; claim "ada can work, at home (persistent)" [ -e "$demo/persistent/login1/home/ada/x" ]
lines=4 in_node login1 "apt-get -q update"; claim "apt-get update" works
lines=8 in_node login1 "apt-get -qy --no-install-recommends install tree"; claim "apt-get install" works
in_node login1 "tree -L 1 /home"; claim "the new program runs" has ada
run 'ls cn1/usr/bin/tree'; claim "no other node has it" refused "No such file"
claim "and the image has not" [ ! -e "$demo/image/rootimg/usr/bin/tree" ]

title "Unmounted again"
unmount_below "$demo"
claim "nothing is left mounted" [ -z "$(mounts_below "$demo")" ]
say; say "demo: $passed claims held, in $((SECONDS - began)) s"
