#!/usr/bin/env bash
# reads.sh [--json FILE]: opening and reading what no rule governs, in a node that is mounted by tables, for each way that the kernel can
# take (`io`), beside the image's own file system and the kernel's overlayfs, in one interleaved run. The image's own is there
# twice: what the second differs by is noise. Root. On one CPU, ROUNDS=7; SIZE of the large file (256M), RUNTIME of a read that is repeated (1s).
set -euo pipefail
. "$(dirname "$0")/lib.sh"
options one 7 "$@"; need fincore numfmt
size=$(numfmt --from=iec "${SIZE:-$(quick 8M 256M)}"); runtime=${RUNTIME:-$(quick 100ms 1s)}

image=$scratch/image/rootimg; lower=$filesystem
[ "$lower" != tmpfs ] || die "$scratch is on a tmpfs, where nothing is ever cold: name a directory on a disk as STATELITE_SCRATCH"
note "image on $lower: $(quick 400 4000) small files, one of $size bytes"
tree "$image/usr" "$(quick 400 4000)"; mkdir -p "$image"/{etc,var}; big "$size" "$image/usr/big"; sync
rule ALL /etc/hosts tmpfs; rule ALL /var/ tmpfs
site passthrough cached daemon
overlay "$scratch/overlayfs" "$image"
names=("$lower" overlayfs "$lower again"); declare -A dir=([$lower]=$image ["$lower again"]=$image [overlayfs]=$scratch/overlayfs)
for io in passthrough cached daemon; do
  config $io "io = \"$io\""; node $io "$scratch/$io"; dir[$io]=$scratch/$io; names+=("$io")
done

# forget: nothing of the large file is in memory, neither a mount's own pages nor the image's.
forget() {
  local n; for n in "${names[@]}"; do dd "if=${dir[$n]}/usr/big" iflag=nocache count=0 status=none; done
  [ "$(fincore -nbo PAGES "$image/usr/big")" -eq 0 ] || die "pages of $image/usr/big stay in memory: somebody else has it open"
}
# read_big NAME WHAT FIO_OPTION...: one run of fio over the large file, in MiB/s.
read_big() {
  local n=$1 of=$2 out=$scratch/fio.json; shift 2
  ran "${pin[@]}" fio --name=read "--filename=${dir[$n]}/usr/big" --readonly --allow_file_create=0 --invalidate=0 --output-format=json "--output=$out" "$@" >&2 || die "fio failed on $n: $of"
  figure "$n" "$of" MiB/s "$(jq '.jobs[0] | if .error != 0 then error("fio: error \(.error)") else .read.bw_bytes / 1048576 end' "$out")"
}
large() {
  local n turn
  turned "${names[@]}"; step "large reads"
  # From the disk, page by page; and first: what is read so leaves small folios, which slow all that comes after.
  for n in "${turn[@]}"; do forget; read_big "$n" "random, cold" --ioengine=psync --rw=randread --bs=4k --randseed="$round" "--io_size=$((size / 16))"; done
  for n in "${turn[@]}"; do forget; read_big "$n" "sequential, cold" --ioengine=psync --rw=read --bs=1M; done
  for n in "${turn[@]}"; do
    cat "${dir[$n]}/usr/big" >/dev/null # warm by this way too: cached keeps pages of its own
    read_big "$n" "sequential, warm" --ioengine=psync --rw=read --bs=1M --time_based "--runtime=$runtime"
    read_big "$n" "random 4 KiB" --ioengine=psync --rw=randread --bs=4k --randseed="$round" --time_based "--runtime=$runtime"
    # Each loop maps the file anew, so that its pages are faulted in.
    read_big "$n" "mmap" --ioengine=mmap --rw=read --bs=1M --loops="$(quick 1 8)"
  done
}
all=(); for n in "${names[@]}"; do all+=("$n=${dir[$n]}"); done
note "small reads: $rounds rounds"
bench "" --rounds "$rounds" --only open,warm-read --paths "$(quick 200 2000)" "${all[@]}"
bench "100 files: " --rounds "$rounds" --only open,warm-read --paths 100 "${all[@]}"
every large; passes_through
table "$lower" "${names[@]}" -- open warm-read "100 files: open" "100 files: warm-read" "sequential, warm" "sequential, cold" "random 4 KiB" "random, cold" mmap
