#!/usr/bin/env bash
# firmware.sh: a node's firmware and boot loader, as its DHCP and TFTP server see them: runs in a network of its own with the
# node's card as eth0, and leaves kernel, initrd and append in the working directory. What udhcpc calls is this script, too.
set -euo pipefail
if [ "${1-}" = bound ]; then
  # What udhcpc says, it says in the environment.
  ip addr add "${ip:?}/${mask:?}" dev "${interface:?}"; echo "${siaddr:?} ${boot_file:?}" >lease
fi
[ $# = 0 ] || exit 0
busybox udhcpc -f -q -n -t 30 -T 2 -i eth0 -V PXEClient:Arch:00000:UNDI:002001 -s "$0"
read -r tftp loader <lease
fetch() { busybox tftp -g -b 1468 -r "$1" -l "$2" "$tftp"; }
fetch "$loader" loader
[ "${loader##*/}" = pxelinux.0 ]
card=01-$(tr : - </sys/class/net/eth0/address)
fetch "pxelinux.cfg/$card" menu
word() { sed -n "s/^ *$1  *//p" menu; }
fetch "$(word KERNEL)" kernel; fetch "$(word INITRD)" initrd; chmod +x kernel
# 2 of IPAPPEND: which card it was.
case $(word IPAPPEND) in 2) echo "$(word APPEND) BOOTIF=$card" >append ;; *) word APPEND >append ;; esac
