#!/usr/bin/env bash
# systemd.sh: what `make install` puts there, under a real systemd: process 1 of namespaces of its own, over this machine's
# files, with the units of statelite and empty ones for the targets that they name.
# shellcheck disable=SC2016 # what other shells are to run stands in single quotes
set -euo pipefail
. "$(dirname "$0")/lib.sh"
root; need unshare nsenter systemctl systemd-escape
[ -x /lib/systemd/systemd ] || die "no systemd here: make setup installs it"
[ -x "$STATELITE" ] || die "no $STATELITE: make build"
scratch; s=$scratch
mkdir -p "$s"/{etc,local,sbin,units,image/rootimg/{etc,var},store,tables} "$s"/work/{etc,local,sbin}
for t in sysinit basic multi-user shutdown local-fs local-fs-pre remote-fs remote-fs-pre network-online network umount final; do
  printf '[Unit]\nDescription=%s\nDefaultDependencies=no\n' "$t" >"$s/units/$t.target"
done
# In the place of NFS-Ganesha: it starts well if it finds a root.
printf '%s\n' '[Service]' Type=oneshot RemainAfterExit=yes 'ExecStart=mountpoint /run/statelite/roots/cn1' >"$s/units/nfs-ganesha.service"
# No journal here.
mkdir "$s/units/service.d"; printf '[Service]\nStandardOutput=append:%s\nStandardError=append:%s\n' "$s/console" "$s/console" >"$s/units/service.d/log.conf"
echo image >"$s/image/rootimg/etc/motd"
printf '%s\n' '#node,groups' cn1,compute cn2,compute >"$s/tables/nodelist.csv"
printf '%s\n' '#node,provmethod' compute,tiny >"$s/tables/nodetype.csv"
printf '%s\n' '#imagename,provmethod' tiny,statelite >"$s/tables/osimage.csv"
printf '%s\n' '#imagename,rootimgdir' "tiny,$s/image" >"$s/tables/linuximage.csv"
printf '%s\n' '#image,file,options' ALL,/etc/motd,tmpfs ALL,/var/,persistent >"$s/tables/litefile.csv"
printf '%s\n' '#node,image,statemnt' "compute,,$s/store" >"$s/tables/statelite.csv"
mkdir -p "$s/etc/statelite"
printf '%s\n' "tables = \"$s/tables\"" 'tmpfs_size = "16M"' 'watch_tables = false' >"$s/etc/statelite/statelite.toml"

# A file system that nobody mounts by itself, with the store of nodes, and roots by fstab.
where=/srv/statelite-test; mount_of_cn1=$(systemd-escape -p --suffix=mount $where/cn1)
truncate -s 16M "$s/disk"; mkdir -p "$s/content"/{upper,work}; mkfs.ext4 -qF -d "$s/content" "$s/disk"
cat >"$s/fstab" <<FSTAB
$s/disk $s/store ext4 loop,noauto
cn1 $where/cn1 statelite noauto
none $where/plain statelite noauto,lowerdir=$s/image/rootimg,upperdir=$s/store/upper,workdir=$s/store/work
cn1 $where/wrong statelite noauto,config=$s/nowhere.toml
FSTAB

# The machine's own /etc, /usr/local and /sbin are below, untouched.
cat >"$s/first" <<'FIRST'
set -eu
s=$1 repo=$2
mount --make-rprivate /
over() { mount -t overlay -o "lowerdir=$1,upperdir=$s/$2,workdir=$s/work/$2" overlay "$1"; }
over /etc etc; over /usr/local local; over "$(realpath /sbin)" sbin
cp "$s/fstab" /etc/fstab
"$repo/integration/install.sh"
mkdir -p "$s/srv" /srv; mount -t tmpfs srv /srv; mkdir -p /srv/statelite-test/cn1 /srv/statelite-test/plain
mount -t tmpfs run /run; mkdir /run/lock; mount -t proc proc /proc
mount -t tmpfs cgroup /sys/fs/cgroup; mkdir /sys/fs/cgroup/systemd
mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd
systemd-tmpfiles --create /usr/local/lib/tmpfiles.d/statelite.conf
export container=test SYSTEMD_UNIT_PATH=$s/units:/etc/systemd/system:/run/systemd/generator:/usr/local/lib/systemd/system
exec /lib/systemd/systemd --system --unit=basic.target --log-target=console --log-level=info --show-status=no
FIRST
STATELITE=$STATELITE unshare --pid --fork --kill-child --mount --net --uts --ipc --cgroup bash "$s/first" "$s" "$repo" >"$s/console" 2>&1 &
outer=$!; at_exit wait "$outer"; at_exit kill -9 "$outer"
manager() { init=$(cat "/proc/$outer/task/$outer/children") && [ -n "$init" ] && [ "$(cat "/proc/${init% }/comm")" = systemd ]; }
inside() { nsenter -t "${init% }" --all -- "$@"; }
up() { manager && inside systemctl is-active basic.target; }
within 60 up || { cat "$s/console"; die "systemd did not start"; }

is() { [ "$(inside systemctl show -P "$2" "$1")" = "$3" ] || { inside systemctl show -P "$2" "$1"; return 1; }; }
unit=statelite.service roots=/run/statelite/roots
failing() { if "$@"; then echo "succeeded"; return 1; fi; }

modes() { [ "$(inside stat -c %a.%u /run/statelite /run/statelite/{roots,tmpfs} | tr '\n' ' ')" = "755.0 700.0 700.0 " ]; }
expect "root alone enters where roots and tmpfs uppers are" modes
expect "systemctl start, as at boot" inside systemctl start statelite nfs-ganesha
expect "NFS-Ganesha, beside it, comes after the roots" is nfs-ganesha.service Result success
expect "it can be stopped by itself" inside systemctl stop nfs-ganesha
expect "it is active once the nodes are served" inside cat $roots/cn1/etc/motd $roots/cn2/etc/motd
expect "its status line" is $unit StatusText "serving 2 of 2 nodes"
expect "the roots are in the machine's own mount namespace" inside mountpoint -q $roots/cn1
expect "a node writes" inside sh -c "echo mine >$roots/cn1/etc/motd && mkdir $roots/cn1/var/log && echo line >$roots/cn1/var/log/x"
# With no more rights than the unit leaves the daemon.
expect "a node makes what only root can make" inside sh -ec "
  cd $roots/cn1/var; cp /bin/true x; chown 12:34 x; chmod 6755 x; setcap cap_net_raw+ep x; getcap x | grep -q net_raw
  mknod null c 1 3; mkdir d; chown 12:34 d; chmod 3777 d; setfattr -n trusted.x -v y d; ln x y; mv y d/z; touch -d @1 d/z
  [ \$(stat -c %a.%u.%g.%Y.%h d/z) = 6755.12.34.1.2 ]
  setpriv --reuid 12 --regid 34 --clear-groups sh -ec 'echo user >>d/u; [ \$(stat -c %u d/u) = 12 ]'"
main() { inside systemctl show -P MainPID $unit; }
worker() { inside statelite --json status | sed -n '/"worker"/,/}/s/.*"pid": \([0-9]*\).*/\1/p'; }
# What the unit says holds for both processes: a filter of system calls, no new privileges, and none that the unit does not leave.
fenced() {
  local pid bounds; bounds=$(inside systemctl show -P CapabilityBoundingSet $unit | tr ' ' '\n' | sort)
  for pid in "$(main)" "$(worker)"; do
    [ "$(inside grep -cxE 'Seccomp:.2|NoNewPrivs:.1' "/proc/$pid/status")" = 2 ] || { inside cat "/proc/$pid/status"; return 1; }
    [ "$(capsh --decode="$(inside sed -n 's/^CapBnd:.//p' "/proc/$pid/status")" | sed 's/.*=//' | tr ',' '\n' | sort)" = "$bounds" ] || { inside grep Cap "/proc/$pid/status"; echo "$bounds"; return 1; }
  done
}
expect "both processes are fenced in" fenced
before=$(main)
printf '%s\n' cn3,compute >>"$s/tables/nodelist.csv"
expect "systemctl reload" inside systemctl reload statelite
expect "a new node is there" inside cat $roots/cn3/etc/motd
expect "the same process" test "$(main)" = "$before"
cp "$s/tables/litefile.csv" "$s/good"; echo 'ALL,/etc/x,nonsense' >>"$s/tables/litefile.csv"
expect "systemctl reload of tables with an error fails" failing inside systemctl reload statelite
expect "and all goes on" inside grep -q mine $roots/cn1/etc/motd
expect "the unit is active" is $unit ActiveState active
cp "$s/good" "$s/tables/litefile.csv"
expect "systemctl reload when it is mended" inside systemctl reload statelite
# Programs that use the roots meanwhile: one reads what is cold, one has a file open and appends to it.
cat >"$s/uses" <<'USES'
set -eu
cd /run/statelite/roots/cn2
exec 3>>etc/motd
n=0
while [ ! -e "$1/enough" ]; do
  cat "/run/statelite/roots/cn1/etc/motd" >/dev/null
  echo "line $n" >&3; n=$((n + 1)); sync -f etc/motd; echo "$n" >"$1/count"
  [ "$(tail -n +2 etc/motd | wc -l)" = "$n" ]
done
USES
{ status=0; inside sh "$s/uses" "$s" >"$s/uses.said" 2>&1 || status=$?; echo "$status" >"$s/uses.code"; } &
at_exit touch "$s/enough"
mounts() { inside sh -c "grep $roots /proc/self/mountinfo | cut -d' ' -f1 | tr '\n' ' '"; }
goes_on() { local at; at=$(cat "$s/count"); more() { [ "$(cat "$s/count")" -gt "$((at + 2))" ]; }; within 60 more; }
expect "programs use the roots" within 60 test -s "$s/count"
mounted=$(mounts)
before=$(main)
old=$(worker); inside kill -9 "$old"
other_worker() { local now; now=$(worker); [ -n "$now" ] && [ "$now" != "$old" ]; }
expect "a worker that is killed is replaced" within 60 other_worker
expect "and the unit does not know" test "$(main)" = "$before"
expect "programs go on" goes_on
inside kill -9 "$(main)"
again() { is $unit NRestarts 1 && is $unit ActiveState active; }
expect "a daemon that is killed is started again" within 60 again
expect "it is another process" test "$(main)" != "$before"
expect "the roots are the same mounts" test "$(mounts)" = "$mounted"
expect "programs go on" goes_on
before=$(main)
expect "systemctl restart" inside systemctl restart statelite
expect "it is another process" test "$(main)" != "$before"
expect "the roots are the same mounts" test "$(mounts)" = "$mounted"
expect "programs go on" goes_on
expect "statelite upgrade" inside statelite upgrade
expect "programs go on" goes_on
touch "$s/enough"
over() { [ -s "$s/uses.code" ]; }
expect "they end" within 60 over
no_error() { cat "$s/uses.said"; [ "$(cat "$s/uses.code")" = 0 ]; }
expect "they saw no error" no_error
expect "what a node wrote is there" inside grep -q mine $roots/cn1/etc/motd
expect "systemctl stop" inside systemctl stop statelite
expect "it ended well" is $unit Result success
expect "nothing is mounted" failing inside mountpoint -q $roots/cn1
expect "what is persistent is in the store" inside grep -rqx line "$s/store"

expect "unmounted: the store of the nodes, which nobody had asked for but the service" inside systemctl stop "$(systemd-escape -p --suffix=mount "$s/store")"
expect "nothing is mounted there" failing inside mountpoint -q "$s/store"

# Entries of fstab.
expect "mounted by fstab: a node" inside systemctl start "$mount_of_cn1"
expect "with what is persistent" inside grep -qx line $where/cn1/var/log/x
expect "mount(8) of it, unmounted by systemd" inside systemctl stop "$mount_of_cn1"
expect "nothing is mounted at it" failing inside mountpoint -q $where/cn1
expect "a mount without tables" inside systemctl start "$(systemd-escape -p --suffix=mount $where/plain)"
expect "shows its lower" inside cat $where/plain/etc/motd
wrong() {
  local out=$s/wrong status=0; mkdir "$out"
  inside /usr/local/lib/systemd/system-generators/statelite-generator "$out" "$out" "$out" 2>"$out.said" || status=$?
  cat "$out.said"
  [ $status = 1 ] && grep -q "$where/wrong.*nowhere.toml" "$out.said" && [ -s "$out/$unit.d/50-layers.conf" ] && [ -s "$out/$mount_of_cn1.d/50-layers.conf" ]
}
expect "an entry that can't be understood is told, and keeps no other from its drop-in" wrong
expect "systemd-analyze security" systemd-analyze security --no-pager --offline=true --threshold=56 "$repo/mount-helpers/$unit"
expect "systemd-analyze verify" inside systemd-analyze verify --man=no $unit
[ "$failed" = 0 ] || { say "the console:"; tail -50 "$s/console"; }
summary "systemd"
