# shellcheck shell=bash disable=SC2034
# one-node.sh: sourced as root where nothing outlives the test: a node cn1 with an image and three zones, as client.py wants them, and
# its daemon. /srv is a directory of the test's.
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8
roots=/run/statelite/roots
srv=/srv/statelite
# patiently SECONDS COMMAND: until it succeeds.
patiently() { local end=$((SECONDS + $1)); shift; until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $end ] || return 1; sleep "${PAUSE:-0.1}"; done; }
serves() { statelite serve >>/run/serve.log 2>&1 & patiently 120 statelite status; }
table() { printf '%s\n' "${@:2}" >"/etc/statelite/tables/$1.csv"; }

# guest_mounts: what the first process of a guest mounts over the machine's root.
guest_mounts() {
  local d
  mount -t proc proc /proc; mount -t sysfs sysfs /sys
  for d in /run /tmp /srv /mnt /etc/statelite /etc/exports.d /var/lib/nfs; do mount -t tmpfs none $d; done
}
# nfsd_runs THREADS: the kernel's NFS server, which exports nothing yet.
nfsd_runs() {
  modprobe -d /usr/lib/uml/root nfsd
  mkdir -p /run/rpcbind /var/lib/nfs/{v4recovery,rpc_pipefs,sm,sm.bak}; touch /var/lib/nfs/{etab,rmtab,state}
  mount -t rpc_pipefs rpc_pipefs /var/lib/nfs/rpc_pipefs; mount -t nfsd nfsd /proc/fs/nfsd
  rpcbind; rpc.statd; rpc.mountd
  rpc.nfsd --grace-time 10 --lease-time 10 "$1"
}

# one_node ADDRESS SERVER: SERVER is what the daemon keeps in step, exports or ganesha.
one_node() {
  local image=/srv/image/rootimg n
  mkdir -p /etc/statelite/tables $image/{etc,home,var/lib/names,usr} /srv/state
  table nodelist '#node,groups' cn1,compute
  table nodetype '#node,provmethod' cn1,tiny
  table osimage '#imagename,provmethod' tiny,statelite
  table linuximage '#imagename,rootimgdir' tiny,/srv/image
  table hosts '#node,ip' "cn1,$1"
  table statelite '#node,statemnt' cn1,/srv/state
  table litefile '#image,file,options' ALL,/var/,tmpfs ALL,/home/,persistent
  printf '%s\n' "export = \"$2\"" 'tmpfs_size = "128M"' >/etc/statelite/statelite.toml
  cp -a /usr/share/zoneinfo $image/usr/; ln -s zoneinfo/UTC $image/usr/link
  for n in {0..4095}; do printf '%07d\n' "$n"; done | tee $image/usr/pattern >$image/var/lib/pattern
  (cd $image/var/lib/names && printf 'stays %d\0' {0..19999} | xargs -0 touch)
}
