#!/bin/sh
# dracut cmdline hook: root=statelite is ours, and needs the network, which is up before the mount hook runs.
# shellcheck disable=SC2034,SC2154
[ "${root%%:*}" = statelite ] || return 0
root=statelite rootok=1
echo 'rd.neednet=1' >/etc/cmdline.d/statelite.conf
