#!/usr/bin/env bash
# powercut.sh KIND: whatever the moment of a power cut, or of the daemon's death, a file of the lower layer is in the upper
# either not at all or whole: content, mode, owner, xattrs, capabilities, ACL. ROUNDS=20 (short form: 4) of each.
# The cut: ext4 is told to shut down without flushing its log, so the device holds just what had reached it, and the next
# mount replays the journal. (A copy of the backing file, taken while it is written to, would mix several moments.)
set -euo pipefail
. "$(dirname "$0")/../lib.sh"
kind=${1:-statelite} seed=${SEED:-$RANDOM} files=1500
rounds=${ROUNDS:-$(form 4 20)}
root; need xfs_io mkfs.ext4 getfattr setfacl setcap
scratch; RANDOM=$seed; say "$rounds rounds of each, seed $seed"
lower=$scratch/lower disk=$scratch/disk; upper=$disk/upper work=$disk/work view=$scratch/view
mkdir -p "$lower/sub/dir"; chmod 2750 "$lower/sub"; chown 7:1234 "$lower/sub"
for i in $(seq $files); do
  case $((i % 5)) in 0) f=$lower/sub/dir/$i ;; *) f=$lower/$i ;; esac
  # Sizes from nothing to 256 KiB; one in eight with a hole.
  head -c $(((i * 7919) % (i % 10 ? 9000 : 262144))) /dev/zero | tr '\0' "\\$(printf %o $((33 + i % 90)))" >"$f"
  [ $((i % 8)) != 0 ] || truncate -s +40000 "$f"
  chown $((i % 7 * 100)):$((i % 3 * 1000)) "$f"; chmod "$(printf '%o' $((8#600 + i % 64)))" "$f"
  [ $((i % 4)) != 0 ] || setfattr -n user.k -v "v$i" "$f"
  [ $((i % 6)) != 0 ] || setfacl -m u:42:r "$f"
  [ $((i % 30)) != 0 ] || # not where the writer's chown would clear it
    { chmod 755 "$f"; setcap cap_net_raw+ep "$f"; }
  [ $((i % 9)) != 0 ] || chmod u+s "$f"
done

# shellcheck disable=SC2016 # perl
# Copies every file up, in one of three ways that leave its content; until told to stop, or the file system is gone.
writer() { timeout 100 perl -MFcntl -MList::Util=shuffle -e '
  my ($d, $n, $seed) = @ARGV; srand $seed; 
  for my $i (shuffle 1 .. $n) { my $f = $i % 5 ? "$d/$i" : "$d/sub/dir/$i"; my @s = stat $f or exit;
    if ($i % 3 == 0) { utime $s[8], $s[9], $f or exit }
    elsif ($i % 3 == 1) { chown $s[4], $s[5], $f and chmod $s[2] & 07777, $f or exit }
    else { sysopen my $h, $f, O_WRONLY or exit; my $b = chr(33 + $i % 90); $s[7] > 40000 || $s[7] == 0 || $i % 8 == 0 or syswrite $h, $b, 1; close $h; utime $s[8], $s[9], $f } }' "$view" $files "$1"; }

# attributes DIR LIST: mode, owner, size, content, and every xattr that is not an overlay's own; one line a path.
attributes() {
  (cd "$1" && xargs -d '\n' stat -c '%n %f %u:%g %s' <"$2" && xargs -d '\n' sha256sum <"$2" &&
    xargs -d '\n' getfattr -dhm - -e hex <"$2" 2>/dev/null | awk '/^# file: / { f = $3; next } /^$/ || /^(trusted\.overlay|trusted\.statelite|user\.overlay)/ { next } { print f, $0 }' | LC_ALL=C sort)
}
whole() {
  (cd "$upper" && find . -type f ! -path './.statelite*' -printf '%P\n' | LC_ALL=C sort) >"$scratch/list"
  attributes "$lower" "$scratch/list" >"$scratch/want"; attributes "$upper" "$scratch/list" >"$scratch/have"
  diff "$scratch/want" "$scratch/have" | head -20; cmp -s "$scratch/want" "$scratch/have"
}
copied() { wc -l <"$scratch/list"; }
# Commits the journal all the while, as a busy store does: names get to the device early, and data only where it was synced.
noise() { while echo x >>"$disk/noise" && sync "$disk/noise"; do sleep 0.01; done; }
nap() { sleep "$(printf '0.%03d' $((20 + RANDOM % $1)))"; }
fresh() { mkfs.ext4 -qF -E lazy_itable_init=0 "$disk.img"; mount -o loop "$disk.img" "$disk"; target "$kind" "$lower" "$upper" "$work" "$view"; }
end() { wait "$1" 2>/dev/null || true; }

mkdir -p "$disk" "$view"; truncate -s 512M "$disk.img"; at_exit unmount "$view" "$disk"
total=0
hurry=${HURRY:-900} # a cut comes within so many ms
for r in $(seq "$rounds"); do
  fresh; writer $((seed + r)) 2>/dev/null & w=$!
  noise 2>/dev/null & z=$!
  nap "$hurry"; xfs_io -x -c shutdown "$disk"; end $w; end $z
  umount_soon "$view"; [ -z "$daemon" ] || within 20 gone "$daemon" || die "the daemon outlived its mount"
  umount_soon "$disk"; e2fsck -fp "$disk.img" >"$scratch/fsck" 2>&1 || [ $? -lt 4 ] || die "the store itself is broken: $(cat "$scratch/fsck")"
  mount -o loop "$disk.img" "$disk"
  mkdir -p "$upper"; expect "power cut $r: all that the upper has is whole" whole; n=$(copied) total=$((total + n))
  target "$kind" "$lower" "$upper" "$work" "$view"
  writer 1; tree "$view" >"$scratch/view.list"; target_off "$view"
  expect "power cut $r: the next mount copies up the rest, after $n" whole
  [ "$(copied)" = $files ] || fail "power cut $r: only $(copied) of $files are there"
  expect "power cut $r: and the kernel sees the same" same_as_kernel "$scratch/view.list" "$lower" "$upper"
  umount_soon "$disk"
done
say "$((total / rounds)) of $files files were there after a cut, on average"
if [ "$kind" = statelite ]; then
  for r in $(seq "$rounds"); do
    fresh; writer $((seed + r)) 2>/dev/null & w=$!
    nap "$hurry"; kill -9 "$daemon"; end "$daemon"; end $w # its mount now answers ENOTCONN
    umount -l "$view"
    expect "kill -9 $r: all that the upper has is whole" whole; n=$(copied)
    target "$kind" "$lower" "$upper" "$work" "$view"
    writer 1; target_off "$view"
    expect "kill -9 $r: the next mount copies up the rest, after $n" whole
    umount_soon "$disk"
  done
fi
summary "power cuts, $kind"
