#!/usr/bin/env bash
# event.sh WORD: what client.py wants done to the server of one-node.sh.
set -euo pipefail
. "$(dirname "$0")/one-node.sh"
ended() { ! pidof statelite; }
# The daemon's end, waited for.
ends() { kill "$(pidof statelite)"; patiently 60 ended; }
# replaced PID: another one serves.
replaced() { local now; now=$(pidof statelite-work) && [ "$now" != "$1" ] && statelite status; }
cd $roots/cn1
case $1 in
  nothing) ;;
  # Twice: what the first left in use, the second finds.
  drop-caches) for _ in 1 2; do sync; echo 2 >/proc/sys/vm/drop_caches; done ;;
  umount) cd /; statelite umount cn1 ;;
  # Right after use, and again a moment later: what the kernel's server keeps then goes with the export.
  remount) cd /; for _ in 1 2; do statelite umount cn1; statelite mount cn1; done ;;
  # A return is the end of the server that has taken over: the first one has its node again.
  restart | return) cd /; ends; serves ;;
  # The first server ends, and another one has its node: copies of tables and image, the same store, roots and tmpfs of its own.
  takeover)
    cd /; ends
    two=/run/two; mkdir -p $two; cp -a /etc/statelite/tables $two/; cp -a /srv/image /srv/copy
    sed -i 's,/srv/image,/srv/copy,' $two/tables/linuximage.csv
    { cat /etc/statelite/statelite.toml; for key in tables root tmpfs_dir control; do echo "$key = \"$two/$key\""; done; } >$two/statelite.toml
    statelite --config $two/statelite.toml serve >>/run/serve.log 2>&1 &
    patiently 120 statelite --config $two/statelite.toml status ;;
  # A rule more, or one less: each is a change.
  reload)
    row='ALL,/var/tmp/,persistent' file=/etc/statelite/tables/litefile.csv
    if grep -qxF "$row" $file; then is=tmpfs; grep -vxF "$row" $file >/run/rows; mv /run/rows $file; else is=persistent; echo "$row" >>$file; fi
    statelite reload
    # Which rule it goes by now, said by the mounted root.
    statelite explain cn1 /var/tmp/x | grep -w "$is" ;;
  # As a crash, and by the same program once more. The mounts stay.
  replace) cd /; worker=$(pidof statelite-work); kill -9 "$worker"; patiently 60 replaced "$worker" ;;
  upgrade) cd /; statelite upgrade ;;
  copy-up) printf 'changed\n' | dd of=var/lib/pattern conv=notrunc status=none ;;
  rename) mv var/before var/after; mv 'var/dir before' 'var/dir after' ;;
  reset) cd /; statelite reset --force cn1 ;;
  remove) rm var/gone; rmdir 'var/gone dir' ;;
  *) exit 2 ;;
esac
