#!/usr/bin/env bash
# nfsd-server.sh: the first process of a guest whose root is the machine's, read-only (hostfs): a server with the kernel's nfsd over
# one node's root, and its client over the loopback, by NFSv3 and v4. Called with a word by client.py: does that to the server.
set -uo pipefail
repo=$(cd "$(dirname "$0")/../.." && pwd) roots=/run/statelite/roots
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
say() { printf 'NODE %s\n' "$*"; }
within() { local n=$(($1 * 10)); shift; until "$@" >/dev/null 2>&1; do [ $((n -= 1)) -gt 0 ] || return 1; sleep 0.1; done; }
serves() { statelite serve >>/run/serve.log 2>&1 & within 60 statelite status; }
ended() { ! pidof statelite; }
if [ $# = 1 ]; then
  set -e
  cd $roots/cn1
  case $1 in
    nothing) ;;
    # Twice: what the first left in use, the second finds.
    drop-caches) for _ in 1 2; do sync; echo 3 >/proc/sys/vm/drop_caches; done ;;
    remount) cd /; statelite umount cn1; statelite mount cn1 ;;
    restart) cd /; kill "$(pidof statelite)"; within 60 ended; serves ;;
    reload) echo 'ALL,/var/tmp/,persistent' >>/etc/statelite/tables/litefile.csv; statelite reload ;;
    copy-up) printf 'changed\n' | dd of=var/lib/pattern conv=notrunc status=none ;;
    rename) mv var/before var/after; mv 'var/dir before' 'var/dir after' ;;
    reset) cd /; statelite reset --force cn1 ;;
    remove) rm var/gone; rmdir 'var/gone dir' ;;
    *) exit 2 ;;
  esac
  exit
fi

exec >/dev/console 2>&1 </dev/null
mount -t proc proc /proc; mount -t sysfs sysfs /sys
for d in /run /tmp /srv /mnt /etc/statelite /etc/exports.d /var/lib/nfs; do mount -t tmpfs none $d; done
for m in fuse nfsd nfsv3 nfsv4; do modprobe -d /usr/lib/uml/root $m; done
hostname server; ip link set lo up

# A node, an image and three zones.
mkdir -p /etc/statelite/tables /srv/image/rootimg/{etc,home,var/lib,usr} /srv/state; cd /etc/statelite/tables || exit
table() { printf '%s\n' "${@:2}" >"$1.csv"; }
table nodelist '#node,groups' cn1,compute
table nodetype '#node,provmethod' cn1,tiny
table osimage '#imagename,provmethod' tiny,statelite
table linuximage '#imagename,rootimgdir' tiny,/srv/image
table hosts '#node,ip' cn1,127.0.0.1
table statelite '#node,statemnt' cn1,/srv/state
table litefile '#image,file,options' ALL,/var/,tmpfs ALL,/home/,persistent
printf '%s\n' 'export = "exports"' 'tmpfs_size = "128M"' >/etc/statelite/statelite.toml
cp -a /usr/share/zoneinfo /srv/image/rootimg/usr/; ln -s zoneinfo/UTC /srv/image/rootimg/usr/link
for n in {0..4095}; do printf '%07d\n' "$n"; done | tee /srv/image/rootimg/usr/pattern >/srv/image/rootimg/var/lib/pattern
mkdir /srv/image/rootimg/var/lib/names; (cd /srv/image/rootimg/var/lib/names && printf 'stays %d\0' {0..19999} | xargs -0 touch)
# The root of NFSv4's tree: what the guest has for / can't be exported, /run can.
echo '/run 127.0.0.1(ro,no_subtree_check,fsid=0)' >/etc/exports.d/root.exports

mkdir -p /run/rpcbind /var/lib/nfs/{v4recovery,rpc_pipefs,sm,sm.bak}; touch /var/lib/nfs/{etab,rmtab,state}
mount -t rpc_pipefs rpc_pipefs /var/lib/nfs/rpc_pipefs; mount -t nfsd nfsd /proc/fs/nfsd
rpcbind; rpc.statd; rpc.mountd
say "up: $(uname -r)"
serves || say "not served: $(tail -5 /run/serve.log)"
# The daemon has written it; so would this.
say "exports: $(statelite export --install)"
rpc.nfsd --grace-time 10 --lease-time 10 4
say "exported: $(exportfs -v | tr -s '\n\t' ' ')"
for v in ${VERSIONS//,/ }; do
  mkdir -p "/mnt/$v"; path=$roots/cn1; [ "$v" = 3 ] || path=${path#/run}
  # Each look asks the server.
  mount -t nfs -o "vers=$v,actimeo=0" "127.0.0.1:$path" "/mnt/$v" || { say "v$v FAIL the mount"; continue; }
  python3 "$repo/integration/boot/client.py" "/mnt/$v" $roots/cn1 "$0" | while read -r line; do say "v$v $line"; done
  umount "/mnt/$v"
done
tail -20 /run/serve.log
say "done"
sync; echo o >/proc/sysrq-trigger; sleep 60
