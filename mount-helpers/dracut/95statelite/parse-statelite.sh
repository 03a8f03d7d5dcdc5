#!/bin/sh
# dracut cmdline hook: root=statelite is ours, and needs the network.
# shellcheck disable=SC2034,SC2154
[ "${root%%:*}" = statelite ] || return 0
root=statelite rootok=1
# The network is brought up before the mount hook runs; nothing is waited for but that.
netroot=statelite
echo 'rd.neednet=1' >/etc/cmdline.d/statelite.conf
