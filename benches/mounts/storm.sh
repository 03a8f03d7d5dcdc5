#!/usr/bin/env bash
# storm.sh [--json FILE]: NODES=64 nodes boot at once: over NFSv3 from NFS-Ganesha, each opens and reads what a boot does, as its own root of
# one daemon (statelite), as the one image that they share (by its file system's name), and as that image with its /etc rewritten by liteimg (chains: two
# symlinks a file). Then the calls that it takes to open one linked file. Root. The whole machine, ROUNDS=5.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
options all 5 "$@"; need cc chroot ip nsenter unshare rpcbind rpcinfo ganesha.nfsd
count=${NODES:-$(quick 4 64)}
# Nodes have addresses 10.9.N.1.
case $count in '' | *[!0-9]* | 0) die "NODES=$count: a number, 1 to 250" ;; esac; [ "$count" -le 250 ] || die "NODES=$count: 250 at most"
storm=$scratch/storm; cc -O2 -o "$storm" "$repo/benches/mounts/storm.c" -lnfs -lpthread
debian=$("$repo/integration/image.sh" | tail -1)

image=$scratch/image/rootimg chains=$scratch/chains
note "image: a copy of $debian, and one with chains"
mkdir -p "$scratch/image"; cp -a "$debian" "$image"

# below DIR... -- FIND_EXPRESSION...: paths in those directories that the image has.
below() {
  local dirs=()
  while [ "$1" != -- ]; do [ ! -d "$image/$1" ] || dirs+=("$1"); shift; done; shift
  [ ${#dirs[@]} -eq 0 ] || (cd "$image" && find "${dirs[@]}" "$@" -printf '/%p\n')
}
# in_image COMMANDS: what the image's own shell makes of each path of standard input, in $path.
in_image() { chroot "$image" /bin/sh -c "while read -r path; do $1; done"; }
# shellcheck disable=SC2016 # $path is the image's shell's
files_of_image() { in_image '[ ! -f "$path" ] || printf "%s\n" "$path"'; }
# What is no program has none.
# shellcheck disable=SC2016
libraries() { in_image 'ldd "$path" 2>/dev/null || true' | sed -n 's|^[^/]*\(/[^ ]*\) (0x.*|\1|p'; }
# working_set: paths of the image, one a line, that a boot opens: units and what they start, login with PAM's modules, the libraries of all
# of these, and what programs are configured by.
working_set() {
  {
    below usr/lib/systemd usr/lib/udev -- -type f -perm /111
    below usr/lib/x86_64-linux-gnu -- -type f \( -path '*/security/*' -o -name 'libnss_*' \)
    below usr/lib/systemd/system lib/systemd/system -- -name '*.service' -type f | while read -r unit; do sed -n 's/^Exec[A-Za-z]*=[-@:+!]*\([^ ]*\).*/\1/p' "$image$unit"; done
    printf '%s\n' /sbin/init /bin/{sh,bash,mount,login,kmod,ls,cat,sed,grep,su} /sbin/{agetty,ldconfig,modprobe,ip,sysctl}
  } | files_of_image >"$scratch/started"
  {
    cat "$scratch/started"; libraries <"$scratch/started"
    below etc usr/lib/{systemd,udev,tmpfiles.d,sysctl.d,modprobe.d,locale/C.utf8} lib/systemd -- \( -type f -o -type l \)
  } | sort -u | files_of_image
}
working_set >"$scratch/list"
# As units are started side by side, in no order of names; the same in each run.
shuf --random-source=<(yes) -o "$scratch/list" "$scratch/list"
# Files of /etc are linked: a rule each.
mapfile -t linked < <(while read -r path; do case $path in /etc/*) [ -L "$image$path" ] || [ ! -f "$image$path" ] || echo "$path" ;; esac; done <"$scratch/list" | sort)
note "$(wc -l <"$scratch/list") paths, of which ${#linked[@]} are linked"
if [ "$(wc -l <"$scratch/list")" -lt 100 ] || [ ${#linked[@]} -lt 20 ]; then die "that is no boot's working set: is $debian complete?"; fi

# As liteimg does: each file moves to .default, and its path and .statelite/tmpfs lead there.
cp -a "$image" "$chains"
for path in "${linked[@]}"; do
  path=${path#/} up=$(dirname "$path" | sed 's|[^/]*|..|g')
  mkdir -p "$chains/.default/${path%/*}" "$chains/.statelite/tmpfs/${path%/*}"
  mv "$chains/$path" "$chains/.default/$path"
  ln -s "../../$up/.default/$path" "$chains/.statelite/tmpfs/$path"
  ln -s "$up/.statelite/tmpfs/$path" "$chains/$path"
  rule ALL "/$path" link
done
rule ALL /var/ tmpfs; rule ALL /tmp/ tmpfs

nodes=(); for ((i = 1; i <= count; i++)); do nodes+=("cn$i"); done
site "${nodes[@]}"
{ echo '#node,ip'; for ((i = 1; i <= count; i++)); do echo "cn$i,10.9.$i.1"; done; } >"$scratch/tables/hosts.csv"
config serve 'tmpfs_size = "16M"'; serve

mkdir "$scratch/ganesha"
{
  "$STATELITE" --config "$config" export --format ganesha
  id=60000; for path in "$image" "$chains"; do
    echo "EXPORT { Export_Id = $((id++)); Path = \"$path\"; Pseudo = \"$path\"; Protocols = 3; Transports = TCP; SecType = sys; Access_Type = RO; Squash = No_Root_Squash; FSAL { Name = VFS; } }"
  done
} >"$scratch/ganesha/statelite.conf"
coproc SERVER { exec "${pin[@]}" unshare -m -n --propagation slave "$repo/integration/nfs/serve.sh" "$scratch/ganesha" "$count"; }
server=$SERVER_PID; at_exit end "$server"
read -r ready <&"${SERVER[0]}" || true
[ "$ready" = ready ] || { cat "$scratch/ganesha/log" >&2 || true; die "NFS-Ganesha did not start"; }
in_namespace() { "${pin[@]}" nsenter -m -n -t "$server" -- "$@"; }

names=("$filesystem" chains statelite)
# exports WHO: what each node mounts; in $exports.
exports() {
  local i at; exports=()
  for ((i = 1; i <= count; i++)); do
    case $1 in "$filesystem") at=$image ;; chains) at=$chains ;; statelite) at=$scratch/roots/cn$i ;; esac
    exports+=("10.9.$i.100:$at")
  done
}
# boot WHO: all nodes at once; what storm says of it is in $scratch/storm.json.
boot() { exports "$1"; ran in_namespace "$storm" "$scratch/list" "${exports[@]}" >"$scratch/storm.json" || die "a boot failed: $1"; }
said() { jq "$1" "$scratch/storm.json"; }
boots() {
  local who turn; turned "${names[@]}"; step "${turn[*]}"
  for who in "${turn[@]}"; do
    boot "$who"
    figure "$who" boots s "$(said '.ns / 1e9')"
    figure "$who" paths paths/s "$(said '.paths / .ns * 1e9')"
    figure "$who" "calls of a boot" calls "$(said '.calls / .nodes')"
    figure "$who" "a call, p50" µs "$(said '.p50_ns / 1e3')"
    figure "$who" "a call, p99" µs "$(said '.p99_ns / 1e3')"
  done
}
for who in "${names[@]}"; do boot "$who"; done # what is read from disk once, and what a server asks its layers once
every boots
# One that lies directly in /etc, by a client that knows nothing.
one=/etc/passwd; printf '%s\n' "${linked[@]}" | grep -qx "$one" || die "$one is not linked"
for who in "${names[@]}"; do
  exports "$who"
  calls=$(in_namespace "$storm" --calls "$one" "${exports[0]}")
  for ((round = 1; round <= rounds; round++)); do figure "$who" "calls to open $one" calls "$calls"; done
done
table "$filesystem" "${names[@]}" -- boots paths "calls of a boot" "a call, p50" "a call, p99" "calls to open $one"
