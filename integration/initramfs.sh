#!/usr/bin/env bash
# initramfs.sh: what initramfs-tools and dracut make of the hooks, without booting it; and the function that both run, in
# namespaces of its own, over directories in the place of NFS and of a disk.
# shellcheck disable=SC2016 # what other shells are to run stands in single quotes
set -euo pipefail
. "$(dirname "$0")/lib.sh"
root; need mkinitramfs unmkinitramfs dracut lsinitrd unshare
[ -x "$STATELITE" ] || die "no $STATELITE: make build"
export STATELITE STATELITE_LIB=$repo/mount-helpers STATELITE_ETC
scratch; STATELITE_ETC=$scratch/etc; mkdir -p "$STATELITE_ETC/tables"
printf '%s\n' 'tmpfs_dir = "/statelite/tmpfs"' 'localdisk_dir = "/statelite/disk"' 'tmpfs_size = "16M"' >"$STATELITE_ETC/statelite.toml"
printf '%s\n' '#node,groups' cn1,compute >"$STATELITE_ETC/tables/nodelist.csv"
version=6.1.0-scratch # no such kernel here: the images have no modules

# has TREE NAME: the program starts with the libraries of the image, and what it needs is there.
has() {
  local tree=$1 name=$2 file; shift 2
  for file in sbin/statelite etc/statelite/statelite.toml etc/statelite/tables/nodelist.csv "$@"; do
    expect "$name: $file" test -s "$tree/$file"
  done
  expect "$name: the program runs there" chroot "$tree" /sbin/statelite --version
}

cp -a /etc/initramfs-tools "$scratch/conf"; cp -a "$repo"/mount-helpers/initramfs-tools/. "$scratch/conf/"
# Nothing of this machine's own hooks is meant.
sed -i 's/^MODULES=.*/MODULES=list/; s/^COMPRESS=.*/COMPRESS=gzip/' "$scratch/conf/initramfs.conf"
# It asks the kernel's configuration, which is not there, what compression it knows.
expect "mkinitramfs" unshare -m --propagation private bash -c '
  set -e
  mount -t tmpfs none /boot; echo CONFIG_RD_GZIP=y >"/boot/config-$2"
  mkinitramfs -d "$1/conf" -o "$1/initrd" "$2"' mkinitramfs "$scratch" $version
without() {
  local said; said=$(DESTDIR=$scratch/nothing STATELITE=$scratch/no/program "$repo/mount-helpers/initramfs-tools/hooks/statelite" 2>&1) || return 1
  case $said in *"no $scratch/no/program"*) [ ! -e "$scratch/nothing" ] ;; *) return 1 ;; esac
}
expect "initramfs-tools: a machine without the program keeps its initramfs" without
expect "unmkinitramfs" unmkinitramfs "$scratch/initrd" "$scratch/initramfs-tools"
tree=$scratch/initramfs-tools; [ ! -d "$tree/main" ] || tree=$tree/main
has "$tree" initramfs-tools scripts/statelite scripts/statelite-root lib/statelite/bin/{mount,cp,chroot} etc/netconfig
expect "initramfs-tools: its shell reads the boot script" chroot "$tree" /bin/sh -n /scripts/statelite
expect "initramfs-tools: and what that sources" chroot "$tree" /bin/sh -c '. /scripts/statelite-root; type statelite_root'

# dracut finds modules in its own directory alone: ours is laid over it, where only this command sees it.
mkdir -p "$scratch"/{over,work}
cp -a "$repo/mount-helpers/dracut/95statelite" "$scratch/over/"
expect "dracut" unshare -m --propagation private bash -c '
  set -e
  mount -t overlay -o "lowerdir=$1/over:/usr/lib/dracut/modules.d" overlay /usr/lib/dracut/modules.d
  dracut --force --no-kernel --no-hostonly --conf /dev/null --confdir "$1/work" --tmpdir "$1/work" --gzip \
    --modules "base statelite" --kver "$2" "$1/initrd.dracut"' dracut "$scratch" $version
tree=$scratch/dracut; mkdir "$tree"
expect "dracut: unpacked" bash -c 'cd "$1" && lsinitrd --unpack "$2"' unpack "$tree" "$scratch/initrd.dracut"
has "$tree" dracut lib/statelite/node-root.sh
expect "dracut: the hooks" bash -c 'ls "$1"/lib/dracut/hooks/cmdline/90-parse-statelite.sh "$1"/lib/dracut/hooks/mount/90-mount-statelite.sh' ls "$tree"

# The function, with directories for NFS and disk. mount.nfs is a stand-in that notes what it was asked for.
image=$scratch/image/rootimg; mkdir -p "$image"/{etc,var} "$scratch"/{bin,point}; echo below >"$image/etc/motd"
tables=$STATELITE_ETC/tables
printf '%s\n' '#node,provmethod' compute,tiny >"$tables/nodetype.csv"
printf '%s\n' '#imagename,provmethod' tiny,statelite >"$tables/osimage.csv"
printf '%s\n' '#imagename,rootimgdir' "tiny,$scratch/image" >"$tables/linuximage.csv"
printf '%s\n' '#image,file,options' ALL,/etc/motd,tmpfs ALL,/var/,localdisk >"$tables/litefile.csv"
ln -s "$STATELITE" "$scratch/bin/statelite"
cat >"$scratch/bin/mount" <<STANDIN
#!/bin/sh
echo "\$@" >>$scratch/asked
case "\$*" in
  "-t nfs "*) exec /bin/mount --bind $scratch/image "\$6" ;;
  LABEL=*) exec /bin/mount --bind $scratch/disk "\$2" ;;
esac
exec /bin/mount "\$@"
STANDIN
printf '#!/bin/sh\n' >"$scratch/bin/mount.nfs"; chmod +x "$scratch"/bin/mount*
mkdir "$scratch/disk"
top=/run/initramfs/statelite
echo "quiet statelite.node=cn1 statelite.nfs=filer:$scratch/image,v3 statelite.nfs=[fd00::1]:/other statelite.disk=LABEL=d statelite.config=$STATELITE_ETC/statelite.toml statelite.tables=$tables" >"$scratch/cmdline"
node() {
  STATELITE_CMDLINE=$scratch/cmdline unshare -m --propagation private sh -c '
    set -e
    # A root of its own for /statelite: nothing is left on this machine.
    mkdir -p "$1/top/up" "$1/top/work" "$1/top/root"
    mount -t tmpfs none "$1/top"; mkdir "$1/top/up" "$1/top/work" "$1/top/root"
    mount -t overlay -o "lowerdir=/,upperdir=$1/top/up,workdir=$1/top/work" overlay "$1/top/root"
    for d in dev proc sys; do mount --rbind /$d "$1/top/root/$d"; done
    mount --rbind "$1" "$1/top/root$1"
    exec chroot "$1/top/root" sh -c "$2" sh "$1"' node "$scratch" "PATH=$scratch/bin:\$PATH; . $repo/mount-helpers/node-root.sh; $1"
}
said=$(node 'statelite_root "$1/point" && cat "$1/point/etc/motd" && echo mine >"$1/point/var/x" && cat $statelite_top/statelite/disk/cn1/var/x &&
  grep -lz "^@statelite" /proc/[0-9]*/cmdline | head -n 1; umount "$1/point"' 2>&1) || true
expect "a node's root over image, tmpfs and disk" grep -qx below <<<"$said"
expect "what is written lies on the disk" grep -qx mine <<<"$said"
expect "the daemon's name begins with @" grep -q /proc/ <<<"$said"
expect "NFS is mounted read-only where the tables look for it" grep -qFx -- "-t nfs -o ro,v3 filer:$scratch/image $top$scratch/image" "$scratch/asked"
expect "by IPv6, too" grep -qFx -- "-t nfs -o ro [fd00::1]:/other $top/other" "$scratch/asked"
[ "$failed" = 0 ] || say "$said"
echo "statelite.node=cn9 statelite.config=$STATELITE_ETC/statelite.toml statelite.tables=$tables" >"$scratch/cmdline"
said=$(node 'statelite_root "$1/point" || echo failed' 2>&1) || true
expect "a node that is not in the tables" grep -q "no node cn9" <<<"$said"
echo "statelite.node=cn1 statelite.nfs=nonsense" >"$scratch/cmdline"
said=$(node 'statelite_root "$1/point" || echo failed' 2>&1) || true
expect "what is no NFS path" grep -q "HOST:/DIR is wanted" <<<"$said"
summary initramfs
