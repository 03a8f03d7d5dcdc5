#!/usr/bin/env bash
# image.sh [DIR PACKAGES]: a small Debian root with these packages, kept between runs; prints its path on the last line. Without
# arguments it is that of the demo and of the tests, below STATELITE_CACHE (default .cache). Packages come from where this machine's own come from.
set -euo pipefail
. "$(dirname "$0")/lib.sh"
root; need debootstrap
image=${1:-$cache/image}
packages=${2:-apt,bsdutils,iputils-ping,libcap2-bin,openssh-server,passwd,rsyslog}
. /etc/os-release; suite=${VERSION_CODENAME:?}

# The first source of this suite, in either of apt's two spellings: "URI COMPONENTS".
source_of() {
  { cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list 2>/dev/null || true; } |
    awk -v s="$suite" '$1 == "deb" { sub(/\[[^]]*\] */, ""); if ($3 == s) { $1 = $3 = ""; print; exit } }'
  cat /etc/apt/sources.list.d/*.sources 2>/dev/null |
    awk -v s="$suite" -v RS= -F'\n' '{ u = c = ""; hit = 0
      for (i = 1; i <= NF; i++) { k = $i; sub(/:.*/, "", k); v = $i; sub(/^[^:]*: */, "", v)
        if (k == "URIs") { split(v, x, " "); u = x[1] } if (k == "Components") c = v
        if (k == "Suites") { n = split(v, x, " "); for (j = 1; j <= n; j++) if (x[j] == s) hit = 1 } }
      if (hit) { print u, c; exit } }' || true
}

mkdir -p "${image%/*}"; exec 9>"$image.lock"; flock 9 # two runs at once: the second finds what the first built
stamp="$suite $packages"
if [ "$(cat "$image.stamp" 2>/dev/null)" = "$stamp" ] && [ -x "$image/bin/sh" ]; then say "image: $image is there"; say "$image"; exit; fi
read -r uri components < <(source_of) || true
case ${uri:-} in https:*) packages=$packages,ca-certificates ;; esac
rm -rf "$image.new" "$image.stamp"
say "image: debootstrap $suite, about a minute"
at_exit rm -rf "$image.new"
debootstrap --variant=minbase --components="$(tr ' ' , <<<"${components:-main}")" --include="$packages" "$suite" "$image.new" ${uri:+"$uri"} |
  awk '/^I: (Retrieving|Validating|Extracting|Unpacking|Configuring) / { n[$2]++; if (n[$2] % 40 == 1) print "  " $0; fflush(); next } /^[WE]:/ { print "  " $0 }' ||
  { tail -5 "$image.new/debootstrap/debootstrap.log" >&2 || true; die "debootstrap failed"; }
chroot "$image.new" apt-get clean
# What a build must not leave in an image that many nodes share. (systemd takes D-Bus' number where it has none of its own.)
rm -rf "$image.new"/etc/ssh/ssh_host_* "$image.new"/var/lib/dbus/machine-id "$image.new"/var/lib/apt/lists/* "$image.new"/var/log/*.log; : >"$image.new/etc/machine-id"
[ ! -x "$image.new/usr/bin/ping" ] || [ -n "$(chroot "$image.new" getcap /usr/bin/ping)" ] || chroot "$image.new" setcap cap_net_raw+ep /usr/bin/ping
rm -rf "$image"; mv "$image.new" "$image"; say "$stamp" >"$image.stamp"
say "image: $(du -sh "$image" | cut -f1), $(find "$image" | wc -l) paths"
say "$image"
